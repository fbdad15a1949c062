"""The mutation run on a library of one function."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tools.mutants import mutants

MODULE = "def half(x):\n    return x / 2\n"
TEST = """
from retro_diffusion.deep.half import half

def test_of_zero():
    assert half(0) == 0

def test_of_one():
    assert half(1) == 0.5
"""
CAUGHT = ("caught", "return x / 2", "return x * 2")
SURVIVOR = ("survivor", "return x / 2", "return x / 2.0")
UNRUN = ("unrun", "return x / 2", "return y / 2")
UNCOLLECTED = ("uncollected", "def half(x)", "def whole(x)")
ENDLESS = ("endless", "return x / 2", "while True: pass")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runner's temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def arguments(tmp_path: Path, *described: tuple[str, str, str], test: str = TEST) -> list[str]:
    """Write a workspace and its traps; return the options that name them."""
    package = tmp_path / "retro_diffusion" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nxfail_strict = true\n")
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "half.py").write_text(MODULE)
    (package / "half_test.py").write_text(test)
    folder = tmp_path / "museum" / "deep"
    folder.mkdir(parents=True)
    text = 'tests = ["deep/half_test.py"]\n'
    for name, original, mutated in described:
        text += f'\n[[mutant]]\nname = "{name}"\ntrap = "A trap: {name}."\n'
        text += f"original = '{original}'\nmutated = '{mutated}'\n"
    (folder / "half.toml").write_text(text)
    return ["--workspace", str(tmp_path), "--museum", str(folder.parent), "--quiet"]


def test_a_caught_mutant_names_its_test_and_leaves_nothing(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tmp_path, *arguments(tmp_path, CAUGHT))
    assert mutants.main(before[1:]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0].split() == ["mutant", "seconds", "caught", "by"]
    assert output[1].startswith("caught ")
    assert output[1].endswith("deep/half_test.py::test_of_one")
    assert output[-1] == "1 of 1 caught"
    assert (tmp_path / "retro_diffusion/deep/half.py").read_text() == MODULE
    assert list(scratch.iterdir()) == []


def test_survivors_and_broken_mutants_are_not_caught(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments(tmp_path, SURVIVOR, CAUGHT, UNRUN, UNCOLLECTED)
    report = tmp_path / "report.json"
    assert mutants.main([*options, "--jobs", "2", "--json", str(report)]) == 1
    output = capsys.readouterr().out
    assert "1 of 4 caught" in output
    assert "survivor survived (deep/half.py; deep/half_test.py)\n    A trap: survivor." in output
    status = {entry["name"]: entry["status"] for entry in json.loads(report.read_text())}
    assert status == {
        "survivor": "survived",
        "caught": "caught",
        "unrun": "broken",
        "uncollected": "broken",
    }
    assert list(status) == ["survivor", "caught", "unrun", "uncollected"]
    assert json.loads(report.read_text())[1]["caught_by"] == "deep/half_test.py::test_of_one"
    assert list(scratch.iterdir()) == []


def test_a_mutant_without_end_is_broken(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mutants.main([*arguments(tmp_path, ENDLESS), "--timeout", "5"]) == 1
    assert "did not end within 5 seconds" in capsys.readouterr().out
    assert list(scratch.iterdir()) == []


def test_a_red_baseline_is_refused(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments(tmp_path, CAUGHT, test=TEST.replace("0.5", "0.6"))
    assert mutants.main(options) == 2
    captured = capsys.readouterr()
    assert "deep/half_test.py must pass before any mutant is tried" in captured.err
    assert "test_of_one" in captured.err
    assert "mutant" not in captured.out
    assert list(scratch.iterdir()) == []


def test_a_mutant_that_no_longer_fits_is_named(
    tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mutants.main(arguments(tmp_path, CAUGHT, ("stale", "x / 3", "x"))) == 2
    assert 'stale: its original, "x / 3", occurs 0 times' in capsys.readouterr().err
    assert list(scratch.iterdir()) == []


def test_mutants_are_listed_and_selected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = arguments(tmp_path, CAUGHT, SURVIVOR)
    assert mutants.main([*options, "--list", "--only", "half.py:sur"]) == 0
    assert capsys.readouterr().out == "survivor (deep/half.py)\n    A trap: survivor.\n"
    assert mutants.main([*options, "--list", "--only", "nothing"]) == 2
    assert "no mutant is selected" in capsys.readouterr().err
    assert mutants.main([*options, "--list", "--only", "("]) == 2
    assert "not a regular expression" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"]
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, stop: signal.Signals, code: int) -> None:
    marker, scratch = tmp_path / "started", tmp_path / "scratch"
    scratch.mkdir()
    waiting = f"import time, pathlib; pathlib.Path({str(marker)!r}).touch(); time.sleep(600)"
    options = arguments(tmp_path, CAUGHT, test=f"def test_slow():\n    {waiting}\n")
    process = subprocess.Popen(
        [sys.executable, "-P", mutants.__file__, *options],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(stop)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert list(scratch.iterdir()) == []
