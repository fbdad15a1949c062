"""Runs tests on copies of the library, one of them with a mistake in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self
from xml.etree import ElementTree

from tools.mutants.traps import PACKAGE, Mutant
from tools.testing import pytest_main

RUNNER = "tools/testing/pytest_main.py"

# A mutant that fails so has not made the mistake it describes: it does not run at all.
SLIPS = (
    "AttributeError",
    "ImportError",
    "IndentationError",
    "ModuleNotFoundError",
    "NameError",
    "SyntaxError",
    "UnboundLocalError",
)


class Outcome(NamedTuple):
    """What the tests said.

    Attributes
    ----------
    status
        "failed" if a test did; "broken" if none could: they were not collected, had no end, ...
    test
        The first that failed, ``FOLDER/NAME_test.py::test_name[case]``, or "".
    message
        What it said, or the end of the output.
    seconds
        How long it took.
    """

    status: Literal["passed", "failed", "broken"]
    test: str
    message: str
    seconds: float


class Workshop:
    """A temporary folder with a snapshot of the library, which leaves nothing behind.

    Parameters
    ----------
    workspace
        Folder that holds the library and pyproject.toml.
    timeout
        Seconds after which tests that still run are stopped.
    """

    def __init__(self, workspace: Path, timeout: float) -> None:
        self.timeout = timeout
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True)
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()
        self.snapshot = Path(self._folder.name) / "snapshot"
        _copy(workspace / PACKAGE, self.snapshot / PACKAGE)
        shutil.copyfile(workspace / "pyproject.toml", self.snapshot / "pyproject.toml")
        (self.snapshot / RUNNER).parent.mkdir(parents=True)
        shutil.copyfile(pytest_main.__file__, self.snapshot / RUNNER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def library(self) -> Path:
        """The snapshot of the library."""
        return self.snapshot / PACKAGE

    def stop(self) -> None:
        """Stop what runs, and let nothing begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def run(self, tests: Sequence[str], mutant: Mutant | None = None) -> Outcome:
        """Run test files on a copy of the library until one fails; from any thread.

        Parameters
        ----------
        tests
            Paths from the library's folder.
        mutant
            The mistake to make in the copy first.

        Returns
        -------
        Outcome
            "passed" if all tests pass.

        Raises
        ------
        RuntimeError
            If the workshop has been stopped.
        """
        with tempfile.TemporaryDirectory(dir=self._folder.name, ignore_cleanup_errors=True) as name:
            copy = Path(name) / "copy"
            _copy(self.snapshot, copy)
            if mutant is not None:
                module = copy / PACKAGE / mutant.file
                module.write_text(
                    mutant.apply(module.read_text(encoding="utf-8")), encoding="utf-8"
                )
            start = time.perf_counter()
            code, output = self._pytest(copy, tests)
            seconds = time.perf_counter() - start
            return Outcome(*_verdict(code, copy / "report.xml", output, self.timeout), seconds)

    def _pytest(self, copy: Path, tests: Sequence[str]) -> tuple[int | None, str]:
        """Run pytest as Bazel does; return its exit code, None after the timeout, and its output."""
        command = [sys.executable, "-P", str(copy / RUNNER), "-x", "-q"]
        with self._lock:
            if self._stopped:
                raise RuntimeError("the workshop has been stopped")
            process = subprocess.Popen(
                [*command, *(str(copy / PACKAGE / test) for test in tests)],
                cwd=copy,
                env=_environment(copy),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that it can be stopped with all that it started
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=self.timeout)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            _kill(process)
            return None, process.communicate()[0]
        finally:
            with self._lock:
                self._running.discard(process)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(copy: Path) -> dict[str, str]:
    """Build the environment of a Bazel test, with the copy before everything else on the path."""
    scratch = copy / "scratch"
    scratch.mkdir()
    path = [str(copy), os.environ.get("PYTHONPATH")]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TEST", "XML_", "PYTEST_"))}
    return kept | {
        "HOME": str(scratch),
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TEST_TMPDIR": str(scratch),
        "XML_OUTPUT_FILE": str(copy / "report.xml"),
    }


def _verdict(
    code: int | None, report: Path, output: str, timeout: float
) -> tuple[Literal["passed", "failed", "broken"], str, str]:
    """Read pytest's report: status, first failing test, and what it said."""
    tail = "\n".join(output.strip().splitlines()[-15:]) or f"exit code {code}, and not a word"
    if code is None:
        return "broken", "", f"the tests did not end within {timeout:g} seconds\n{tail}"
    if code == 0:
        return "passed", "", ""
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        failure = case.find("failure")
        if failure is not None:
            message = failure.get("message", "")
            slip = message.startswith(SLIPS)
            return "broken" if slip else "failed", _test_id(case), message
    return "broken", "", tail


def _test_id(case: ElementTree.Element) -> str:
    """Turn ``retro_diffusion.samplers.x_test`` and a name into ``samplers/x_test.py::name``."""
    module = case.get("classname", "").removeprefix(f"{PACKAGE}.")
    return f"{module.replace('.', '/')}.py::{case.get('name')}"
