"""Tests of `pairing`: the two forms, their differences, which side was edited."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.notebooks import documents, example, pairing
from tools.notebooks.documents import Notebook, NotebookError
from tools.notebooks.example import NAME, TEXT


def test_text_and_notebook_have_the_same_cells() -> None:
    notebook = pairing.from_text(TEXT, NAME)
    assert [c["cell_type"] for c in notebook["cells"]] == ["markdown", "code"] * 5
    assert pairing.to_text(notebook, NAME) == TEXT
    assert notebook == pairing.from_text(TEXT, NAME), "ids are the same every time"
    assert pairing.difference(TEXT, example.stored(), NAME) == ""


def test_magics_tags_and_raw_cells_survive() -> None:
    text = (
        '# %% tags=["hide-input"]\n# %matplotlib inline\nx = 1\n\n# %% [raw]\n# <b>raw</b>\n\n'
        "# %% [markdown]\n# # A title\n"
    )
    notebook = pairing.from_text(text, NAME)
    assert notebook["cells"][0]["source"] == "%matplotlib inline\nx = 1"
    assert notebook["cells"][0]["metadata"] == {"tags": ["hide-input"]}
    assert pairing.to_text(notebook, NAME) == text


def _edit_source(notebook: Notebook) -> None:
    notebook["cells"][1]["source"] += "\nmore = 1"


def _edit_type(notebook: Notebook) -> None:
    cell = notebook["cells"][0]
    notebook["cells"][0] = {**cell, "cell_type": "raw"}


def _swap(notebook: Notebook) -> None:
    cells = notebook["cells"]
    cells[0], cells[1] = cells[1], cells[0]


def _drop(notebook: Notebook) -> None:
    del notebook["cells"][2]


def _tag(notebook: Notebook) -> None:
    notebook["cells"][1]["metadata"]["tags"] = ["hide-cell"]


def _budget(notebook: Notebook) -> None:
    notebook["metadata"]["retro"]["fast_seconds"] = 99


@pytest.mark.parametrize("edit", [_edit_source, _edit_type, _swap, _drop, _tag, _budget])
def test_every_difference_is_found_and_shown(edit: Callable[[Notebook], None]) -> None:
    notebook = example.stored()
    edit(notebook)
    assert "@@" in pairing.difference(TEXT, notebook, NAME)


def test_the_diff_shows_the_line() -> None:
    notebook = example.stored()
    notebook["cells"][1]["source"] += "\nmore = 1"
    assert "-more = 1" in pairing.difference(TEXT, notebook, NAME)


@pytest.mark.parametrize("metadata", [{"scrolled": True}, {"editable": False}, {"execution": {}}])
def test_what_jupyterlab_notes_about_a_cell_is_no_difference(metadata: dict[str, object]) -> None:
    notebook = example.stored()
    notebook["cells"][1]["metadata"] |= metadata
    assert pairing.difference(TEXT, notebook, NAME) == ""


def test_the_edited_side_is_known() -> None:
    notebook, edited = example.stored(), example.stored()
    edited["cells"][0]["source"] += "!"
    text = TEXT.replace("Does it run?", "Does it walk?")
    assert pairing.edited_side(TEXT, notebook, NAME) is None
    assert pairing.edited_side(text, notebook, NAME) == "text"
    assert pairing.edited_side(TEXT, edited, NAME) == "notebook"
    assert pairing.edited_side(TEXT, None, NAME) == "text"
    assert pairing.edited_side(None, notebook, NAME) == "notebook"
    with pytest.raises(NotebookError, match="both edited.*--from text"):
        pairing.edited_side(text, edited, NAME)
    del edited["metadata"][documents.RECORD]
    with pytest.raises(NotebookError, match="both edited"):
        pairing.edited_side(TEXT, edited, NAME)


def test_the_same_edit_on_both_sides_agrees() -> None:
    text = TEXT.replace("Does it run?", "Does it walk?")
    notebook = example.stored()
    notebook["cells"][0]["source"] = notebook["cells"][0]["source"].replace("run?", "walk?")
    assert pairing.edited_side(text, notebook, NAME) is None


def test_an_edit_of_prose_keeps_outputs_and_an_edit_of_code_drops_its_own() -> None:
    old = example.stored()
    prose = pairing.updated(TEXT.replace("Does it run?", "Does it walk?"), old, NAME)
    assert documents.rendered_fingerprint(prose) == old["metadata"]["retro_record"]["rendered"]
    assert prose["cells"][3]["metadata"]["mystnb"]["image"]["alt"] == "A rising line."
    code = pairing.updated(TEXT.replace("sum(range(run", "max(range(run"), old, NAME)
    assert [len(c["outputs"]) for c in documents.code_cells(code)] == [1, 1, 0, 1, 1]


def test_what_text_cannot_hold_is_refused() -> None:
    pasted = example.stored()
    pasted["cells"][0]["attachments"] = {"a.png": {"image/png": "AAAA"}}
    with pytest.raises(NotebookError, match="cell 1 holds a pasted picture"):
        pairing.to_text(pasted, NAME)


@pytest.mark.parametrize("header", ["jupyter: [", "retro:\n#   fast_seconds: 30"])
def test_a_header_in_another_form_is_refused(header: str) -> None:
    with pytest.raises(NotebookError, match="needs a header in YAML"):
        pairing.from_text(f"# ---\n# {header}\n# ---\n\n# %%\nx = 1\n", NAME)
