"""Which equation of the post is verified by which test: docs/post/NN_name.toml, one table per label."""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIELDS = {"tests", "waiver", "code", "notebook"}


@dataclass(frozen=True, kw_only=True)
class Equation:
    """A labelled equation: the tests that would fail if it were wrong, or why there are none.

    Attributes
    ----------
    label
        As in the chapter.
    chapter
        The chapter's file name without suffix.
    tests
        ``path/to/NAME_test.py::test_name``, from the repository's root.
    waiver
        Why it has no test; empty if it has.
    code
        Dotted name of its place in the library, or empty.
    notebook
        Name of a notebook that runs it, or empty.
    """

    label: str
    chapter: str
    tests: tuple[str, ...] = ()
    waiver: str = ""
    code: str = ""
    notebook: str = ""


def read(post: Path) -> list[Equation]:
    """Return the registered equations of a folder of chapters, in its order.

    Parameters
    ----------
    post
        Holds NN_name.toml beside NN_name.md.

    Returns
    -------
    list[Equation]
        All of them.

    Raises
    ------
    ValueError
        If an entry has an unknown field, or not exactly one of ``tests`` and ``waiver``, or a label is
        there twice; the message names the file and the label.
    """
    found: dict[str, Equation] = {}
    for path in sorted(post.glob("*.toml")):
        for label, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
            where = f"{path.name}: [{label}]"
            if label in found:
                raise ValueError(f"{where} is also in {found[label].chapter}.toml")
            found[label] = _equation(label, path.stem, entry, where)
    return list(found.values())


def _equation(label: str, chapter: str, entry: Mapping[str, Any], where: str) -> Equation:
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"{where} has an unknown field {sorted(unknown)[0]!r}")
    if bool(entry.get("tests")) == bool(entry.get("waiver")):
        raise ValueError(f"{where} needs either tests or a waiver")
    fields = {**entry, "tests": tuple(entry.get("tests", ()))}
    return Equation(label=label, chapter=chapter, **fields)


def source(root: Path, test: str) -> str:
    """Return the source of a test function, decorators included.

    Parameters
    ----------
    root
        The repository's root.
    test
        ``path/to/NAME_test.py::test_name``.

    Returns
    -------
    str
        The function's lines.

    Raises
    ------
    ValueError
        If there is no such file or function.
    """
    path, _, name = test.partition("::")
    if not (root / path).is_file():
        raise ValueError(f"{test}: there is no file {path}")
    found = _functions(root / path).get(name.partition("[")[0])
    if found is None:
        raise ValueError(f"{test}: {path} has no test of that name")
    return found


@functools.cache  # a file of tests verifies many equations
def _functions(file: Path) -> dict[str, str]:
    """Return the source of every function at a file's top level, by name."""
    text = file.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found
