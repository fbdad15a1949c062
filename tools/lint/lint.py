"""Runs one linter over the sources, or, in a checkout, mends what can be mended.

The first argument says which: a key of `CHECKS`.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from tools.lint import docstrings, files

PYTHON = {".py", ".ipynb"}


def module(name: str, *arguments: str) -> int:
    """Run an installed linter as `python -m name`."""
    return subprocess.run([sys.executable, "-P", "-m", name, *arguments], check=False).returncode


def ruff(*arguments: str) -> int:
    """Run ruff over all Python files and notebooks."""
    return module("ruff", *arguments, "--no-cache", *files.walk(pathlib.Path(), PYTHON))


def library() -> list[str]:
    """List the library's modules without its tests."""
    modules = files.walk(pathlib.Path("retro_diffusion"), {".py"})
    return [f"retro_diffusion/{m}" for m in modules if not m.endswith("_test.py")]


def mypy() -> int:
    """Check the types of the library and of the tools."""
    tools = [f"tools/{t}" for t in files.walk(pathlib.Path("tools"), {".py"})]
    return module("mypy", *library(), *(t for t in tools if not t.endswith("_test.py")))


def spelled_text(path: str) -> str:
    """Return what of a file is spell-checked: all of it, but of a notebook only what was typed."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    if not path.endswith(".ipynb"):
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def codespell() -> int:
    """Check the spelling of all text but the locks and the notebooks' outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in files.walk(pathlib.Path(), files.TEXT, files.TEXT_NAMES):
            copy = pathlib.Path(scratch, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(spelled_text(path), encoding="utf-8")
        config = str(pathlib.Path("pyproject.toml").absolute())
        os.chdir(scratch)
        return module("codespell_lib", "--toml", config, "--check-hidden", ".")


def sources() -> int:
    """Check that no Python file or notebook of the checkout escapes the linters."""
    checkout = pathlib.Path("pyproject.toml").resolve().parent
    if not (checkout / "WORKSPACE").exists():  # a machine that works on copies
        print("There is no checkout to compare the sources with.")
        return 0
    missing = set(files.checkout_files(checkout, PYTHON)) - set(files.walk(pathlib.Path(), PYTHON))
    for path in sorted(missing):
        print(f"{path} is not linted: list its package's `sources()` in //tools/lint:all_sources")
    return 1 if missing else 0


def fix() -> int:
    """Sort imports, mend what ruff can, and format; in the user's checkout."""
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    if not checkout:
        print("Start this with: bazel run //tools/lint:fix", file=sys.stderr)
        return 1
    os.chdir(checkout)
    paths = files.checkout_files(pathlib.Path(), PYTHON)
    left = module("ruff", "check", "--no-cache", "--fix", *paths)
    return module("ruff", "format", "--no-cache", *paths) or left


CHECKS = {
    "codespell": codespell,
    "docstrings": lambda: docstrings.main(library()),
    "fix": fix,
    "mypy": mypy,
    "ruff-check": lambda: ruff("check"),
    "ruff-format": lambda: ruff("format", "--check", "--diff"),
    "sources": sources,
}


def main() -> int:
    """Run the check that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        print(f"one of: {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    os.chdir(files.runfiles_root())
    return CHECKS[sys.argv[1]]()


if __name__ == "__main__":
    sys.exit(main())
