"""Tests of `documents`: the canonical file, cell names, whole writes."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tools.notebooks import documents, example
from tools.notebooks.documents import NotebookError


def test_the_file_is_valid_and_as_jupyter_writes_it() -> None:
    text = documents.dumps(example.stored())
    read = nbformat.reads(text, as_version=4)
    nbformat.validate(read)
    assert nbformat.writes(read) + "\n" == text


def test_reading_gives_back_what_was_written() -> None:
    notebook = example.stored()
    assert documents.parse(documents.dumps(notebook), "x") == notebook


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nbformat": 3}'])
def test_another_file_is_not_a_notebook(text: str) -> None:
    with pytest.raises(NotebookError, match=r"x\.ipynb is not a notebook"):
        documents.parse(text, "x.ipynb")


def test_cell_names_follow_their_text_alone() -> None:
    cells = [{"cell_type": "code", "source": s} for s in ("a", "b", "a")]
    documents.name_cells(cells)
    names = [c["id"] for c in cells]
    assert len(set(names)) == 3
    fewer = [{"cell_type": "code", "source": s} for s in ("b", "a")]
    documents.name_cells(fewer)
    assert [c["id"] for c in fewer] == [names[1], names[0]]


def test_prose_leaves_the_rendered_fingerprint_and_outputs_change_it() -> None:
    before = documents.rendered_fingerprint(example.stored())
    prose, output, code = example.stored(), example.stored(), example.stored()
    prose["cells"][0]["source"] += "!"
    assert documents.rendered_fingerprint(prose) == before
    output["cells"][1]["outputs"][0]["text"] += "!"
    assert documents.rendered_fingerprint(output) != before
    code["cells"][1]["source"] += "\n"
    assert documents.rendered_fingerprint(code) != before


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        documents.write(path, "new \ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_write_keeps_the_mode_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    documents.write(path, "one")
    assert path.stat().st_mode & 0o444
    path.chmod(0o640)
    documents.write(path, "two")
    assert path.stat().st_mode & 0o777 == 0o640 and path.read_text() == "two"
