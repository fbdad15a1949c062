"""Tests of `checks`: a good notebook passes, and each fault is found."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retro_diffusion.claims import MIME
from tools.notebooks import checks, documents, example, pages, pairing
from tools.notebooks.documents import Notebook
from tools.notebooks.example import NAME, TEXT

PAGE = pages.page_text(example.stored(), NAME)


def _problems(notebook: Notebook, text: str | None = TEXT, host: str = "") -> list[str]:
    return checks.problems(documents.dumps(notebook), text, NAME, PAGE, host)


def test_a_good_notebook_has_no_problems() -> None:
    assert _problems(example.stored()) == []


# ---- faults of the stored notebook -----------------------------------------


def _code(notebook: Notebook, number: int) -> dict[str, Any]:
    return documents.code_cells(notebook)[number - 1]


def _print(notebook: Notebook, text: str, name: str = "stdout") -> None:
    _code(notebook, 3)["outputs"] = [{"name": name, "output_type": "stream", "text": text}]


def _error(notebook: Notebook) -> None:
    error = {"ename": "OSError", "evalue": "", "output_type": "error", "traceback": []}
    _code(notebook, 3)["outputs"] = [error]


def _widget(notebook: Notebook) -> None:
    _code(notebook, 3)["outputs"][0]["data"] = {"application/vnd.jupyter.widget-view+json": {}}


def _two_images(notebook: Notebook) -> None:
    _code(notebook, 2)["outputs"] *= 2


def _no_alt(notebook: Notebook) -> None:
    _code(notebook, 2)["outputs"][0]["metadata"] = {}


def _no_cell_alt(notebook: Notebook) -> None:
    _code(notebook, 2)["metadata"] = {}


def _recount(notebook: Notebook) -> None:
    _code(notebook, 3)["execution_count"] = 7


def _never_run(notebook: Notebook) -> None:
    _code(notebook, 1)["execution_count"] = None


def _fast(notebook: Notebook) -> None:
    notebook["metadata"]["retro_record"]["profile"] = "fast"


def _not_rendered(notebook: Notebook) -> None:
    del notebook["metadata"]["retro_record"]


def _silent_start(notebook: Notebook) -> None:
    _code(notebook, 1)["outputs"] = []


def _big(notebook: Notebook) -> None:
    _print(notebook, "x" * 1_000_001)


def _other_kernel(notebook: Notebook) -> None:
    notebook["metadata"]["kernelspec"]["name"] = "my-env"


def _versioned(notebook: Notebook) -> None:
    notebook["metadata"]["language_info"]["version"] = "3.11.7"


def _widgets_state(notebook: Notebook) -> None:
    notebook["metadata"]["widgets"] = {}


def _random_id(notebook: Notebook) -> None:
    notebook["cells"][0]["id"] = "abc"


def _edit(notebook: Notebook) -> None:
    notebook["cells"][0]["source"] += "!"


FAULTS: list[tuple[Callable[[Notebook], None], str]] = [
    (_error, "code cell 3 stores an error: OSError"),
    (lambda n: _print(n, "Warning: old\n", "stderr"), "code cell 3 wrote to stderr: Warning: old"),
    (_widget, "code cell 3 shows a widget"),
    (_two_images, "code cell 2 shows 2 images"),
    (_no_alt, "code cell 2 shows an image without alt text"),
    (_no_cell_alt, "code cell 2 lacks its alt text"),
    (_recount, r"ran in the order \[1, 2, 7, 4, 5\]"),
    (_never_run, r"ran in the order \[None, 2, 3, 4, 5\]"),
    (_fast, "profile 'fast', not in full"),
    (_not_rendered, "profile None, not in full"),
    (_silent_start, "first code cell has no output"),
    (lambda n: _print(n, "other"), "outputs do not come from this code"),
    (_big, "more than 1; show fewer"),
    (_other_kernel, "one machine's kernel"),
    (_versioned, "one machine's kernel"),
    (_widgets_state, "one machine's kernel"),
    (_random_id, "not in the form"),
    (_edit, "differ; run 'bazel run //notebooks:sync -- 99_example'"),
    (lambda n: _print(n, "saved /home/ann/x.pt"), "a machine's path"),
    (lambda n: _print(n, "/tmp/notebook-x/a"), "a machine's path"),
    (lambda n: _print(n, r"C:\Users\ann"), "a machine's path"),
    (lambda n: _print(n, "in lib/site-packages/torch"), "a machine's path"),
    (lambda n: _print(n, "<f at 0x7fb1aedabed0>"), "an address"),
]


@pytest.mark.parametrize(("spoil", "expected"), FAULTS)
def test_a_fault_is_found(spoil: Callable[[Notebook], None], expected: str) -> None:
    notebook = example.stored()
    spoil(notebook)
    found = "\n".join(_problems(notebook))
    assert re.search(expected, found), found


def test_the_host_is_found_only_as_a_word() -> None:
    notebook = example.stored()
    _print(notebook, "trained on vault and elsewhere")
    assert any("name of the machine" in p for p in _problems(notebook, host="vault"))
    assert not any("name of the machine" in p for p in _problems(notebook, host="where"))


def test_a_hexadecimal_color_is_no_address() -> None:
    notebook = example.stored()
    _print(notebook, "0xff8800 and https://doi.org/home")
    assert all("shows" not in p for p in _problems(notebook))


def test_a_missing_text_and_a_broken_file_are_found() -> None:
    assert any("has no text notebook" in p for p in _problems(example.stored(), None))
    assert checks.problems("{", TEXT, NAME, PAGE)[0].startswith(f"{NAME}.ipynb is not a notebook")


def test_a_reformatted_file_is_found() -> None:
    raw = documents.dumps(example.stored()).replace("\n ", "\n  ")
    assert any("not in the form" in p for p in checks.problems(raw, TEXT, NAME, PAGE))


# ---- faults of the text ----------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("run = start(seed=0)", "run = None", r"first code cell must call start"),
        ("run.finish()", "run.done()", r"last code cell must call finish"),
        ("## Derivation", "### Derivation", "lacks the section 'derivation'"),
        ("## Exercises", "## Homework", "lacks the section 'exercise'"),
        ("## Derivation", "## Derivation\n# ## Question", None),
        ("# # An example\n#\n", "", "begin with its one title"),
        ("# Does it run?", "# # Again", "begin with its one title"),
        ("shape: paper", "shape: poem", "shape 'poem' is unknown; there are: paper, guide"),
        ("#     fast_seconds: 30\n", "", "no budget retro: fast_seconds"),
        ("full_seconds: 60", "full_seconds: soon", "no budget retro: full_seconds"),
        ("<details><summary>", "<summary>", "no hidden solution"),
        ("</summary>\n#\n", "</summary>\n", "empty line after </summary>"),
        ("#\n# </details>", "# </details>", "before </details>"),
        ("# </details>\n", "", "a hidden solution is"),
    ],
)
def test_a_fault_of_the_text_is_found(old: str, new: str, expected: str | None) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    notebook = pairing.updated(text, example.stored(), NAME)
    found = [p for p in _problems(notebook, text) if "do not come from this code" not in p]
    found = [p for p in found if "ran in the order" not in p]
    if expected is None:
        assert found == []
    else:
        assert any(expected in p for p in found), found


def test_sections_out_of_order_are_found() -> None:
    text = TEXT.replace("## Intuition", "## X").replace(
        "## Claim check", "## Claim\n# ## Intuition"
    )
    notebook = pairing.updated(text, example.stored(), NAME)
    assert any("section 'derivation' comes too early" in p for p in _problems(notebook, text))


def test_a_guide_needs_fewer_sections() -> None:
    text = TEXT.replace("shape: paper", "shape: guide").replace(
        "# ## Ablation: what breaks it\n", ""
    )
    assert _problems(pairing.updated(text, example.stored(), NAME), text) == []


# ---- claims ----------------------------------------------------------------


def _rows(notebook: Notebook) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _code(notebook, 4)["outputs"][0]["data"][MIME]["claims"]
    return rows


CLAIM_FAULTS: list[tuple[Callable[[Notebook], object], str]] = [
    (lambda n: _rows(n)[0].pop("experiment"), r"claim 1 \('small-sum'\): it lacks the field 'exp"),
    (lambda n: _rows(n)[0].update(band=" "), r"claim 1 \('small-sum'\): .* has an empty band"),
    (lambda n: _rows(n)[0].update(control=""), "has an empty control"),
    (lambda n: _rows(n)[0].update(passed=False), "json does not hold the claims of its outputs"),
    (lambda n: _rows(n)[0].update(ours="11"), "run 'bazel run //notebooks:sync -- 99_example'"),
    (lambda n: _rows(n).append(dict(_rows(n)[0])), "has the key 'small-sum' twice"),
    (lambda n: _code(n, 4).update(outputs=[]), "it shows no claims"),
    (lambda n: _code(n, 3)["outputs"].extend(_code(n, 4)["outputs"]), "'small-sum' twice"),
]


@pytest.mark.parametrize(("spoil", "expected"), CLAIM_FAULTS)
def test_a_fault_of_the_claims_is_found(spoil: Callable[[Notebook], object], expected: str) -> None:
    notebook = example.stored()
    spoil(notebook)
    found = "\n".join(_problems(notebook))
    assert re.search(expected, found), found


def test_a_missing_or_edited_page_is_found() -> None:
    raw = documents.dumps(example.stored())
    assert PAGE is not None
    for page in (None, PAGE.replace("15", "16"), PAGE + "\n"):
        found = checks.problems(raw, TEXT, NAME, page)
        assert len(found) == 1 and "does not hold the claims of its outputs" in found[0]


def test_a_guide_needs_no_claims() -> None:
    text = TEXT.replace("shape: paper", "shape: guide")
    notebook = pairing.updated(text, example.stored(), NAME)
    _code(notebook, 4)["outputs"] = []
    notebook["metadata"]["retro_record"]["rendered"] = documents.rendered_fingerprint(notebook)
    assert checks.problems(documents.dumps(notebook), text, NAME, None) == []
    assert "does not hold" in checks.problems(documents.dumps(notebook), text, NAME, PAGE)[0]


# ---- command line ----------------------------------------------------------


def test_the_command_fails_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs" / "claims").mkdir(parents=True)
    page = tmp_path / "docs" / "claims" / f"{NAME}.json"
    page.write_text(str(PAGE))
    notebook, text = tmp_path / "notebooks" / f"{NAME}.ipynb", tmp_path / f"{NAME}.py"
    text.write_text(TEXT)
    good = example.stored()
    notebook.write_text(documents.dumps(good))
    assert checks.main([str(notebook), str(text)]) == 0
    bad = copy.deepcopy(good)
    _recount(bad)
    notebook.write_text(documents.dumps(bad))
    assert checks.main([str(notebook), str(text)]) == 1
    assert f"{NAME}: its code cells ran in the order" in capsys.readouterr().err
    notebook.write_text(documents.dumps(good))
    page.unlink()
    assert checks.main([str(notebook), str(text)]) == 1
    assert "does not hold the claims" in capsys.readouterr().err


def test_a_text_without_notebook_is_not_rendered_yet(tmp_path: Path) -> None:
    text = tmp_path / f"{NAME}.py"
    text.write_text(TEXT)
    with pytest.raises(SystemExit, match=f"{NAME} has no outputs yet"):
        checks.main([str(text)])
    with pytest.raises(SystemExit, match="usage"):
        checks.main([str(tmp_path / "a.txt")])
