"""Notebooks as plain data: reading, writing one canonical form, cell names and fingerprints.

A notebook is the dictionary that its JSON holds, except that multi-line strings are strings here
and lists of lines in the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]

RECORD = "retro_record"
"""Notebook metadata that the tools keep: profile, seconds, rendered, paired."""

METADATA: dict[str, Any] = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
"""A generic kernel, so that the file does not change with the machine it was rendered on."""


_TEXT = ("application/javascript", "image/svg+xml")  # and text/*: kept as lists of lines


class NotebookError(Exception):
    """A notebook that cannot be read, paired or run; the message is one clear sentence."""


# ---- reading and writing ---------------------------------------------------


def parse(text: str, name: str) -> Notebook:
    """Return the notebook in the text of an .ipynb file; ``name`` is for the error message."""
    try:
        notebook = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotebookError(f"{name} is not a notebook: {error}.") from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4:
        raise NotebookError(f"{name} is not a notebook of format 4.")
    return _map_strings(notebook, _join)


def dumps(notebook: Notebook) -> str:
    """Return the text of an .ipynb file: sorted keys, one line of text per line, as Jupyter does."""
    split = _map_strings(notebook, _split)
    return json.dumps(split, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mode = path.stat().st_mode if path.exists() else 0o666 & ~_umask()
        temporary.chmod(mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _join(value: Any) -> Any:
    return "".join(value) if isinstance(value, list) else value


def _split(value: Any) -> Any:
    return value.splitlines(keepends=True) if isinstance(value, str) else value


def _map_strings(notebook: Notebook, change: Callable[[Any], Any]) -> Notebook:
    """Return a copy with ``change`` applied to every multi-line string of the format."""
    copy: Notebook = json.loads(json.dumps(notebook))
    for cell in copy.get("cells", []):
        cell["source"] = change(cell.get("source", ""))
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = change(output["text"])
            for mime, value in output.get("data", {}).items():
                if mime.startswith("text/") or mime in _TEXT:
                    output["data"][mime] = change(value)
    return copy


# ---- cells -----------------------------------------------------------------


def code_cells(notebook: Notebook) -> list[Cell]:
    """Return the code cells that have code, in order: the ones a kernel counts."""
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and c["source"].strip()]


def name_cells(cells: list[Cell]) -> None:
    """Give every cell an id that follows from its text: other cells' edits leave it alone."""
    seen: dict[str, int] = {}
    for cell in cells:
        name = fingerprint([cell["cell_type"], cell["source"]])[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def images(cell: Cell) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the MIME type and the output of every image that a cell shows."""
    for output in cell.get("outputs", []):
        for mime in output.get("data", {}):
            if mime.startswith("image/"):
                yield mime, output


# ---- fingerprints ----------------------------------------------------------


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rendered_fingerprint(notebook: Notebook) -> str:
    """Stand for the code and its outputs: a change of prose leaves it, of code or output not."""
    return fingerprint(
        [[c["source"], c["execution_count"], c["outputs"]] for c in code_cells(notebook)]
    )
