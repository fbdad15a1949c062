"""Tests of `render`: the same bytes twice, whole files or none, round times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro_diffusion.claims import load
from tools.notebooks import checks, documents, example, render
from tools.notebooks.example import NAME, TEXT

# The same notebook without torch, which takes seconds to import.
LIGHT = TEXT.replace(
    "from retro_diffusion.notebook import show, start\n",
    "import base64\nimport io\nimport os\nfrom types import SimpleNamespace as Space\n\n"
    "from IPython.display import display\n\n\n"
    "def start(seed):\n    print(os.environ['RETRO_PROFILE'])\n"
    "    return Space(pick=lambda fast, full: full, finish=lambda: print('@wall-time@'))\n\n\n"
    "def show(figure, alt):\n    buffer = io.BytesIO()\n    figure.savefig(buffer)\n"
    "    plt.close(figure)\n    data = base64.b64encode(buffer.getvalue()).decode()\n"
    "    display({'image/png': data}, metadata={'image/png': {'alt': alt}}, raw=True)\n\n",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    notebooks = tmp_path / "notebooks"
    (notebooks / "text").mkdir(parents=True)
    (notebooks / "text" / f"{NAME}.py").write_text(LIGHT)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    return notebooks


def _text(folder: Path) -> Path:
    return folder / "text" / f"{NAME}.py"


def _notebook(folder: Path) -> Path:
    return folder / f"{NAME}.ipynb"


def _page(folder: Path) -> Path:
    return folder.parent / "docs" / "claims" / f"{NAME}.json"


def test_two_runs_write_the_same_bytes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert render.main([NAME]) == 0, capsys.readouterr().err
    first, page = _notebook(folder).read_bytes(), _page(folder).read_bytes()
    assert b"image/png" in first and b'"full' in first and b"about " in first
    assert render.main([]) == 0
    assert _notebook(folder).read_bytes() == first
    assert _page(folder).read_bytes() == page
    assert render.main(["--check"]) == 0
    assert [p.name for p in folder.iterdir() if p.suffix != ""] == [f"{NAME}.ipynb"]


def test_the_library_s_own_start_show_and_finish_render_the_same_twice(folder: Path) -> None:
    _text(folder).write_text(TEXT)
    assert render.main([]) == 0
    first = _notebook(folder).read_bytes()
    stored = documents.parse(first.decode(), NAME)
    assert checks.problems(first.decode(), TEXT, NAME, _page(folder).read_text()) == []
    (page,) = load(_page(folder).parent)
    assert (page.paper, page.year, page.profile) == ("Ho, Jain and Abbeel 2020", 2020, "full")
    assert [claim.key for claim in page.claims] == ["small-sum"]
    assert "@" not in documents.code_cells(stored)[-1]["outputs"][0]["text"]
    assert render.main([]) == 0
    assert _notebook(folder).read_bytes() == first


def test_check_finds_a_ledger_that_drifted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert render.main([]) == 0
    _page(folder).write_text(_page(folder).read_text().replace("15", "16"))
    capsys.readouterr()
    assert render.main(["--check"]) == 1
    printed = capsys.readouterr().err
    assert f"{NAME}.json differs from a new run" in printed and "16" in _page(folder).read_text()


def test_nothing_is_written_if_a_cell_fails(folder: Path, capsys: pytest.CaptureFixture) -> None:
    _notebook(folder).write_text(documents.dumps(example.stored()))
    before = _notebook(folder).read_bytes()
    _text(folder).write_text("# %%\nx = 1\n\n# %%\nx / 0\n")
    assert render.main([]) == 1
    assert "code cell 2 of 2 failed" in capsys.readouterr().err
    assert _notebook(folder).read_bytes() == before


def test_check_shows_what_would_change(folder: Path, capsys: pytest.CaptureFixture) -> None:
    _text(folder).write_text("# %%\nimport time\n\nprint(time.time_ns())\n")
    render.main([])
    before = _notebook(folder).read_bytes()
    capsys.readouterr()
    assert render.main(["--check"]) == 1
    printed = capsys.readouterr().err
    assert "differs from a new run" in printed and "run again" in printed
    assert _notebook(folder).read_bytes() == before


def test_a_faulty_notebook_is_written_and_its_faults_told(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    _text(folder).write_text(LIGHT.replace("# ## Derivation\n", ""))
    assert render.main([]) == 1
    assert "lacks the section 'derivation'" in capsys.readouterr().err
    assert _notebook(folder).exists()


def test_an_edit_in_jupyterlab_is_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    _text(folder).write_text(TEXT)
    edited = example.stored()
    edited["cells"][0]["source"] += "!"
    _notebook(folder).write_text(documents.dumps(edited))
    before = _notebook(folder).read_bytes()
    assert render.main([]) == 1
    assert "first run 'bazel run //notebooks:sync" in capsys.readouterr().err
    assert _notebook(folder).read_bytes() == before


def test_a_dead_or_slow_process_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    _text(folder).write_text("# %%\nimport os\n\nos._exit(7)\n")
    assert render.main([]) == 1
    assert "its process died (exit code 7)" in capsys.readouterr().err
    _text(folder).write_text("# %%\nimport time\n\ntime.sleep(60)\n")
    assert render.main(["--limit", "6"]) == 1
    assert "stopped after 6 s" in capsys.readouterr().err
    assert not _notebook(folder).exists()


def test_the_fast_profile_is_told_apart(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert render.main(["--profile", "fast"]) == 1
    assert "profile 'fast', not in full" in capsys.readouterr().err
    record = json.loads(_notebook(folder).read_text())["metadata"]["retro_record"]
    assert record["profile"] == "fast"


@pytest.mark.parametrize(
    ("measured", "stored", "expected"),
    [
        (11.0, None, 10),
        (17.0, None, 15),
        (0.0, None, 1),
        (9e3, None, 1800),
        (19.0, 10, 10),
        (5.1, 10, 10),
        (21.0, 10, 20),
        (4.9, 10, 5),
        (10, 0, 10),
    ],
)
def test_times_are_round_and_stay(measured: float, stored: float | None, expected: int) -> None:
    assert render.settled_seconds(measured, stored) == expected


def test_the_placeholder_is_the_library_s() -> None:
    from retro_diffusion import notebook

    assert render.WALL_TIME == notebook.WALL_TIME
