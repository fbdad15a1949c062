"""Text notebooks and their .ipynb: the same cells twice, and which of the two was edited.

``notebooks/text/NAME.py`` (jupytext's ``py:percent``) is the source of truth: prose and code, easy
to review. ``notebooks/NAME.ipynb`` has the same cells with their outputs: what a reader opens. The
.ipynb remembers the fingerprint of the cells that both had when they last agreed, so an edit on
either side is told from an edit on both, whatever the files' dates say.
"""

from __future__ import annotations

import copy
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.notebooks import documents
from tools.notebooks.documents import METADATA, RECORD, Cell, Notebook, NotebookError

Side = Literal["text", "notebook"]

# What an author may say in a text notebook about the notebook and about a cell.
_NOTEBOOK_KEY = "retro"
_CELL_KEYS = ("jupyter", "mystnb", "tags")


@dataclass(frozen=True)
class Pair:
    """The two files of one notebook."""

    name: str
    text: Path
    notebook: Path

    @property
    def claims(self) -> Path:
        """The notebook's page of the claim ledger, made from its outputs."""
        return self.notebook.parent.parent / "docs" / "claims" / f"{self.name}.json"


def find_pairs(folder: Path) -> dict[str, Pair]:
    """Return the pairs in a notebooks folder by name, in order; either file may be missing."""
    names = {p.stem for p in folder.glob("*.ipynb")} | {p.stem for p in folder.glob("text/*.py")}
    return {n: Pair(n, folder / "text" / f"{n}.py", folder / f"{n}.ipynb") for n in sorted(names)}


# ---- the two forms ---------------------------------------------------------


def from_text(text: str, name: str) -> Notebook:
    """Return the notebook, without outputs, that a text notebook describes."""
    import jupytext  # slow to import, and not needed to run a notebook

    notebook = documents.parse(json.dumps(jupytext.reads(text, fmt="py:percent")), name)
    first = notebook["cells"][0]["source"] if notebook["cells"] else ""
    if first.startswith("---\n"):
        raise NotebookError(
            f"text/{name}.py needs a header in YAML that says '# jupyter:', '#   retro:' and then "
            "'#     fast_seconds: 30' and the like, indented so."
        )
    return bare(notebook)


def to_text(notebook: Notebook, name: str) -> str:
    """Return the text notebook of a notebook's cells, or refuse if text cannot hold them."""
    import jupytext
    import nbformat

    wanted = bare(notebook)
    for number, cell in enumerate(wanted["cells"], 1):
        if "attachments" in cell:
            raise NotebookError(
                f"{name}: cell {number} holds a pasted picture, which the text cannot; draw it in a "
                "code cell instead."
            )
    plain = nbformat.from_dict(wanted)
    plain.metadata = {k: v for k, v in wanted["metadata"].items() if k == _NOTEBOOK_KEY} | {
        "jupytext": {
            "notebook_metadata_filter": f"{_NOTEBOOK_KEY},-all",
            "cell_metadata_filter": ",".join(_CELL_KEYS) + ",-all",
        }
    }
    text: str = jupytext.writes(plain, fmt="py:percent")
    if from_text(text, name)["cells"] != wanted["cells"]:
        raise NotebookError(f"{name} has a cell that changes when it is written as text.")
    return text


def bare(notebook: Notebook) -> Notebook:
    """Return what a pair has in common: cells without outputs, and the author's metadata."""
    cells = [_bare_cell(cell) for cell in notebook["cells"]]
    documents.name_cells(cells)
    metadata = copy.deepcopy(METADATA)
    if _NOTEBOOK_KEY in notebook["metadata"]:
        metadata[_NOTEBOOK_KEY] = notebook["metadata"][_NOTEBOOK_KEY]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _bare_cell(cell: Cell) -> Cell:
    kept: Cell = {
        "cell_type": cell["cell_type"],
        "metadata": _author_metadata(cell["metadata"]),
        "source": cell["source"],
    }
    if cell.get("attachments"):
        kept["attachments"] = cell["attachments"]
    if cell["cell_type"] == "code":
        kept |= {"execution_count": None, "outputs": []}
    return kept


def _author_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    kept = {k: copy.deepcopy(v) for k, v in metadata.items() if k in _CELL_KEYS and v}
    kept.get("mystnb", {}).pop("image", None)  # made from the figure's alt text
    return {k: v for k, v in kept.items() if v}


def paired_fingerprint(notebook: Notebook) -> str:
    """Stand for all that a pair has in common."""
    return documents.fingerprint(bare(notebook))


# ---- agreement -------------------------------------------------------------


def difference(text: str, notebook: Notebook, name: str) -> str:
    """Return a readable diff from the .ipynb's cells to the text's, empty if they agree."""
    wanted, found = from_text(text, name), bare(notebook)
    if wanted == found:
        return ""
    lines = difflib.unified_diff(
        _lines(found), _lines(wanted), f"{name}.ipynb", f"text/{name}.py", lineterm="", n=2
    )
    return "\n".join(lines)


def _lines(notebook: Notebook) -> list[str]:
    lines = [f"notebook: {notebook['metadata'].get(_NOTEBOOK_KEY, {})}"]
    for cell in notebook["cells"]:
        lines.append(f"[{cell['cell_type']}] {cell['metadata'] or ''}".rstrip())
        lines += cell["source"].splitlines()
        lines += [f"attachment {a}" for a in cell.get("attachments", {})]
    return lines


def edited_side(text: str | None, notebook: Notebook | None, name: str) -> Side | None:
    """Return the side that was edited since both last agreed, or None if they agree.

    Raises
    ------
    NotebookError
        If both were edited, or nobody can tell.
    """
    if notebook is None:
        return None if text is None else "text"
    if text is None:
        return "notebook"
    theirs, ours = paired_fingerprint(from_text(text, name)), paired_fingerprint(notebook)
    if theirs == ours:
        return None
    agreed = notebook["metadata"].get(RECORD, {}).get("paired")
    if agreed == ours:
        return "text"
    if agreed == theirs:
        return "notebook"
    raise NotebookError(
        f"{name}: text/{name}.py and {name}.ipynb were both edited; keep one with "
        f"'bazel run //notebooks:sync -- {name} --from text' or '--from notebook'."
    )


def updated(text: str, old: Notebook | None, name: str) -> Notebook:
    """Return the .ipynb of a text, with the outputs of ``old`` for cells whose code is the same."""
    new = from_text(text, name)
    if old is not None:
        _carry_outputs(old, new)
    record = dict(old["metadata"].get(RECORD, {})) if old is not None else {}
    new["metadata"][RECORD] = record | {"paired": paired_fingerprint(new)}
    return new


def _carry_outputs(old: Notebook, new: Notebook) -> None:
    named = copy.deepcopy(old["cells"])
    documents.name_cells(named)
    before = {cell["id"]: cell for cell in named if cell["cell_type"] == "code"}
    for cell in new["cells"]:
        if cell["id"] in before and cell["cell_type"] == "code":
            match = before[cell["id"]]
            cell["outputs"] = match.get("outputs", [])
            cell["execution_count"] = match.get("execution_count")
    describe_images(new)


def describe_images(notebook: Notebook) -> None:
    """Copy each figure's alt text from its output to its cell, where the documentation reads it."""
    for cell in notebook["cells"]:
        alts = [o.get("metadata", {}).get(m, {}).get("alt") for m, o in documents.images(cell)]
        if any(alts):
            image = {"alt": " ".join(alt for alt in alts if alt)}
            cell["metadata"] = cell["metadata"] | {
                "mystnb": cell["metadata"].get("mystnb", {}) | {"image": image}
            }
