"""The way back to the post: from a function of the library, and from a notebook, to its equations.

As a Sphinx extension it ends a function's documentation with the equations that name it. Notebooks are
annotated when the site is put together: each code cell gets a label, and below the title stands what the
post derives of it. The stored notebooks stay as they are.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from tools.site.registry import Equation

Notebook = Mapping[str, Any]


# ---- from the library ------------------------------------------------------


def _append(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Add the equations to the end of a docstring."""
    registry = app.config.equation_registry
    if found := [
        f":eq:`{label}`" for label, entry in registry.items() if entry.get("code") == name
    ]:
        lines += [
            "",
            f"**In the survey:** equation{'s' * (len(found) > 1)} {', '.join(found)}.",
            "",
        ]


# ---- from the notebooks ----------------------------------------------------


@functools.cache
def read(notebooks: Path, name: str) -> Notebook:
    """Return a notebook.

    Raises
    ------
    ValueError
        If there is none of that name; the message names those there are.
    """
    path = notebooks / f"{name}.ipynb"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in notebooks.glob("*.ipynb")))
        raise ValueError(f"there is no notebook {name}; there are {there}")
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def cell_with(notebook: Notebook, code: str) -> int | None:
    """Return the first code cell that uses something of the library, other than to import it.

    Parameters
    ----------
    notebook
        From `read`.
    code
        Dotted name; a cell uses it if it says its last part.

    Returns
    -------
    int or None
        Its number among the code cells, from 1; None if no cell does.
    """
    word = re.compile(rf"\b{re.escape(code.rpartition('.')[2])}\b")
    for number, cell in enumerate(_code_cells(notebook), start=1):
        lines = "".join(cell["source"]).splitlines()
        if any(word.search(line) for line in lines if not re.match(r"\s*(from|import) ", line)):
            return number
    return None


def place(notebooks: Path, equation: Equation) -> str:
    """Return the link to where an equation is run: to the cell, if one uses its function.

    Parameters
    ----------
    notebooks
        The folder.
    equation
        One that names a notebook.

    Returns
    -------
    str
        MyST.

    Raises
    ------
    ValueError
        If there is no such notebook.
    """
    name = equation.notebook
    cell = cell_with(read(notebooks, name), equation.code) if equation.code else None
    page = f"{{doc}}`/notebooks/{name}`"
    return page if cell is None else f"{page}, {{ref}}`cell {cell} <{_label(name, cell)}>`"


def annotated(notebooks: Path, name: str, equations: Sequence[Equation]) -> dict[str, Any]:
    """Return a notebook with a label at each code cell, and below its title the equations run in it.

    Parameters
    ----------
    notebooks, name
        The folder, and the notebook's name in it.
    equations
        All that are registered.

    Returns
    -------
    dict
        The notebook for the site.
    """
    notebook = read(notebooks, name)
    title, *others = notebook["cells"]
    back = _back([equation for equation in equations if equation.notebook == name])
    return {**notebook, "cells": [title, *back, *_labelled(name, others)]}


def _back(equations: Sequence[Equation]) -> Iterator[dict[str, Any]]:
    for chapter in dict.fromkeys(equation.chapter for equation in equations):
        found = [f"{{eq}}`{e.label}`" for e in equations if e.chapter == chapter]
        text = f"*In the survey:* {{doc}}`/post/{chapter}`, {', '.join(found)}."
        yield _markdown(f"survey-{chapter}", text)


def _labelled(name: str, cells: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    number = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            number += 1
            yield _markdown(f"label-{number}", f"({_label(name, number)})=")
        yield cell


def _code_cells(notebook: Notebook) -> list[Mapping[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _label(name: str, cell: int) -> str:
    return f"cell-{cell}-of-{name}"


def _markdown(name: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen after numpydoc, which listens at 500."""
    app.connect("autodoc-process-docstring", _append, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
