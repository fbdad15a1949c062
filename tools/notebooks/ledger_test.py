"""Tests of `ledger`: the printed table, README's part of it, and drift found."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro_diffusion.claims import Claim, Page, page_text
from tools.notebooks import example, ledger
from tools.notebooks.documents import NotebookError

README = f"# Title\n\n{ledger.BEGIN}\nold\n{ledger.END}\n\nThe rest.\n"
HELD = Claim(**example.CLAIM)  # type: ignore[arg-type]
MISSED = Claim(
    **example.CLAIM  # type: ignore[arg-type]
    | {"key": "large", "grade": "FRAGILE", "passed": False, "statement": "The sum is large"}
)


def _page(name: str, *claims: Claim) -> Page:
    values = {"paper": "Ho 2020", "arxiv": "2006.11239", "profile": "full", "library": "0.1.0"}
    return Page(notebook=name, claims=claims, **values)


PAGES = (_page("05_a", HELD, MISSED), _page("06_b", HELD))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("notebooks/text", "docs/claims"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README.md").write_text(README)
    for page in PAGES:
        (tmp_path / "docs" / "claims" / f"{page.notebook}.json").write_text(page_text(page))
        (tmp_path / "notebooks" / "text" / f"{page.notebook}.py").touch()
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    return tmp_path


def test_the_table_has_every_claim(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    assert ledger.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "05_a: Ho 2020 (arXiv:2006.11239), 1 supported, 1 not at this scale"
    assert lines[1] == "  yes  EXACT    small-sum  10  [10]"
    assert lines[2] == "  NO   FRAGILE  large      10  [10]"
    assert lines[-1] == "3 claims in 2 notebooks: 2 supported, 1 not at this scale"


def test_the_readme_has_counts_and_what_was_missed() -> None:
    text = ledger.markdown(PAGES)
    assert "3 claims in 2 notebooks: 2 supported, 1 not at this scale." in text
    assert "| notebook | EXACT | ROBUST | FRAGILE |\n| --- | --- | --- | --- |\n" in text
    assert "| [`05_a`](notebooks/05_a.ipynb) | 1 of 1 |  | 0 of 1 |" in text
    assert "- `05_a`: The sum is large. Ours: 10 (FRAGILE; 10)." in text
    assert "Not supported" not in ledger.markdown(PAGES[1:])
    assert "0 claims in 0 notebooks: 0 supported." in ledger.markdown(())


def test_writing_changes_the_ledger_alone(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    readme = checkout / "README.md"
    assert ledger.main(["--check"]) == 1
    printed = capsys.readouterr().err
    assert "run 'bazel run //docs:ledger -- --write'" in printed and "-old" in printed
    assert ledger.main(["--write"]) == 0
    assert readme.read_text() == README.replace(
        f"{ledger.BEGIN}\nold\n{ledger.END}", ledger.markdown(PAGES)
    )
    assert ledger.main(["--check"]) == 0 and ledger.main([str(readme), "--check"]) == 0
    assert ledger.main(["--markdown"]) == 0
    assert capsys.readouterr().out.strip() in readme.read_text()


def test_a_changed_claim_is_drift(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    ledger.main(["--write"])
    page = checkout / "docs" / "claims" / "06_b.json"
    page.write_text(page_text(_page("06_b", MISSED)))
    assert ledger.main(["--check"]) == 1
    assert "+3 claims in 2 notebooks: 1 supported, 2 not" in capsys.readouterr().err


def test_a_page_without_notebook_is_found(checkout: Path, capsys: pytest.CaptureFixture) -> None:
    ledger.main(["--write"])
    (checkout / "notebooks" / "text" / "06_b.py").unlink()
    assert ledger.main(["--check"]) == 1
    assert "docs/claims/06_b.json has no notebook" in capsys.readouterr().err


def test_a_broken_page_is_one_sentence(checkout: Path) -> None:
    page = checkout / "docs" / "claims" / "05_a.json"
    page.write_text(page.read_text().replace('"band"', '"bond"', 1))
    with pytest.raises(SystemExit, match=r"05_a.json, claim 1 \('small-sum'\).*'band'"):
        ledger.main([])


@pytest.mark.parametrize(
    "readme",
    [
        "",
        ledger.BEGIN,
        ledger.END,
        f"{ledger.END}{ledger.BEGIN}",
        README + README,
        README + ledger.END,
    ],
)
def test_a_readme_without_its_comments_is_refused(readme: str) -> None:
    with pytest.raises(NotebookError, match="needs the comments"):
        ledger.with_ledger(readme, PAGES)
