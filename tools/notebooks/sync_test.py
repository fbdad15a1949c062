"""Tests of `sync`: edits travel the right way, and none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.notebooks import documents, example, pages, sync
from tools.notebooks.example import NAME, TEXT

WALK = TEXT.replace("Does it run?", "Does it walk?")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    notebooks = tmp_path / "notebooks"
    (notebooks / "text").mkdir(parents=True)
    (notebooks / "text" / f"{NAME}.py").write_text(TEXT)
    (notebooks / f"{NAME}.ipynb").write_text(documents.dumps(example.stored()))
    _page(notebooks).parent.mkdir(parents=True)
    _page(notebooks).write_text(str(pages.page_text(example.stored(), NAME)))
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    return notebooks


def _text(folder: Path) -> Path:
    return folder / "text" / f"{NAME}.py"


def _notebook(folder: Path) -> Path:
    return folder / f"{NAME}.ipynb"


def _page(folder: Path) -> Path:
    return folder.parent / "docs" / "claims" / f"{NAME}.json"


def _edit_in_jupyterlab(folder: Path) -> None:
    notebook = example.stored()
    notebook["cells"][0]["source"] += "\n\nA thought."
    notebook["metadata"]["language_info"]["version"] = "3.11.7"
    _notebook(folder).write_text(documents.dumps(notebook))


def test_a_pair_in_agreement_is_left_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert sync.main([]) == 0
    assert capsys.readouterr().out == ""


def test_an_edit_of_the_text_reaches_the_notebook(folder: Path) -> None:
    _text(folder).write_text(WALK)
    assert sync.main([NAME]) == 0
    assert "walk" in _notebook(folder).read_text() and _text(folder).read_text() == WALK
    assert sync.main(["--check"]) == 0


def test_an_edit_in_jupyterlab_reaches_the_text(folder: Path) -> None:
    _edit_in_jupyterlab(folder)
    assert sync.main([f"{NAME}.ipynb"]) == 0
    expected = TEXT.replace("# Does it run?", "# Does it run?\n#\n# A thought.")
    assert _text(folder).read_text() == expected
    assert "3.11.7" not in _notebook(folder).read_text()


def test_two_edits_are_refused_until_one_is_chosen(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    _edit_in_jupyterlab(folder)
    _text(folder).write_text(WALK)
    before = _notebook(folder).read_bytes()
    assert sync.main([]) == 1
    assert "both edited" in capsys.readouterr().err
    assert _text(folder).read_text() == WALK and _notebook(folder).read_bytes() == before
    assert sync.main(["--from", "notebook"]) == 0
    assert "A thought" in _text(folder).read_text()


def test_the_text_can_be_kept_instead(folder: Path) -> None:
    _edit_in_jupyterlab(folder)
    _text(folder).write_text(WALK)
    assert sync.main(["--from", "text"]) == 0
    assert _text(folder).read_text() == WALK
    assert "A thought" not in _notebook(folder).read_text()


def test_a_missing_half_is_made(folder: Path) -> None:
    _text(folder).unlink()
    assert sync.main([]) == 0
    assert _text(folder).read_text() == TEXT
    _notebook(folder).unlink()
    assert sync.main([]) == 0
    assert sync.main(["--check"]) == 0


def test_a_half_that_is_missing_cannot_be_kept(folder: Path, capsys: pytest.CaptureFixture) -> None:
    _text(folder).unlink()
    before = _notebook(folder).read_bytes()
    assert sync.main(["--from", "text"]) == 1
    assert "has no text to keep" in capsys.readouterr().err
    assert _notebook(folder).read_bytes() == before


def test_check_writes_nothing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    _text(folder).write_text(WALK)
    before = _notebook(folder).read_bytes()
    assert sync.main(["--check"]) == 1
    assert capsys.readouterr().out == f"would write {NAME}.ipynb\n"
    assert _notebook(folder).read_bytes() == before


def test_the_ledger_follows_the_outputs(folder: Path, capsys: pytest.CaptureFixture) -> None:
    wanted = _page(folder).read_text()
    _page(folder).write_text(wanted.replace("15", "16"))
    assert sync.main(["--check"]) == 1
    assert capsys.readouterr().out == f"would write docs/claims/{NAME}.json\n"
    assert sync.main([]) == 0
    assert _page(folder).read_text() == wanted
    _page(folder).unlink()
    assert sync.main([]) == 0
    assert _page(folder).read_text() == wanted


def test_the_ledger_follows_the_header(folder: Path) -> None:
    _text(folder).write_text(TEXT.replace("Abbeel 2020", "Abbeel 2021"))
    assert sync.main([]) == 0
    assert '"year": 2021' in _page(folder).read_text()


def test_claims_without_outputs_leave_the_ledger(folder: Path) -> None:
    _text(folder).write_text(TEXT.replace("check(claims)\n", ""))
    assert sync.main([]) == 0
    assert not _page(folder).exists()
    assert sync.main(["--check"]) == 0


def test_a_malformed_header_writes_nothing(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = _notebook(folder).read_bytes()
    _text(folder).write_text(TEXT.replace("'2006.11239'", "2006.11239"))
    assert sync.main([]) == 1
    assert "arxiv is to be quoted" in capsys.readouterr().err
    assert _notebook(folder).read_bytes() == before


def test_one_bad_pair_does_not_stop_the_others(folder: Path) -> None:
    (folder / "00_bad.ipynb").write_text("{")
    _text(folder).write_text(WALK)
    assert sync.main([]) == 1
    assert "walk" in _notebook(folder).read_text()


def test_an_unknown_name_lists_the_known(folder: Path) -> None:
    with pytest.raises(SystemExit, match=f"No notebook is called 77_x; there are: {NAME}"):
        sync.main(["77_x"])


def test_it_wants_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    with pytest.raises(SystemExit, match="repository's root"):
        sync.main([])
