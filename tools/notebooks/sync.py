"""Bring a text notebook and its .ipynb into agreement, in the direction of the edit.

Edits made in JupyterLab go to ``text/NAME.py``; edits of the text go to ``NAME.ipynb``, which keeps
the outputs of cells whose code is the same. If both were edited, nothing is written unless --from
says which to keep. ``docs/claims/NAME.json`` follows the claims that the outputs hold.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.notebooks import documents, pages, pairing
from tools.notebooks.documents import Notebook, NotebookError
from tools.notebooks.pairing import Pair, Side


def notebooks_folder() -> Path:
    """Return the notebooks folder of the user's checkout."""
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path.cwd()) / "notebooks"
    if not folder.is_dir():
        raise NotebookError(f"There is no folder {folder}; run this from the repository's root.")
    return folder


def chosen_pairs(folder: Path, names: list[str]) -> list[Pair]:
    """Return the named pairs, or all; a name may be that of either file."""
    pairs = pairing.find_pairs(folder)
    wanted = [Path(name).name.removesuffix(".ipynb").removesuffix(".py") for name in names]
    unknown = [name for name in wanted if name not in pairs]
    if unknown:
        known = ", ".join(pairs) or "none"
        raise NotebookError(f"No notebook is called {unknown[0]}; there are: {known}.")
    return [pairs[name] for name in wanted] if names else list(pairs.values())


def read_text(pair: Pair) -> str | None:
    """Return the text notebook, or None if there is none."""
    return pair.text.read_text(encoding="utf-8") if pair.text.exists() else None


def read_notebook(pair: Pair) -> Notebook | None:
    """Return the .ipynb, or None if there is none."""
    if not pair.notebook.exists():
        return None
    return documents.parse(pair.notebook.read_text(encoding="utf-8"), pair.notebook.name)


def synchronize(pair: Pair, prefer: Side | None, dry: bool = False) -> list[Path]:
    """Make the two files agree; return those that changed (``dry``: that would)."""
    text, notebook = read_text(pair), read_notebook(pair)
    missing = {"text": text is None, "notebook": notebook is None}
    if prefer and missing[prefer]:
        raise NotebookError(f"{pair.name} has no {prefer} to keep.")
    side = prefer or pairing.edited_side(text, notebook, pair.name)
    if notebook is not None and side == "notebook":
        text = pairing.to_text(notebook, pair.name)
    assert text is not None
    files = {pair.text: text} | stored_files(pair, pairing.updated(text, notebook, pair.name))
    changed = [path for path, new in files.items() if contents(path) != new]
    for path in [] if dry else changed:
        put(path, files[path])
    return changed


def stored_files(pair: Pair, notebook: Notebook) -> dict[Path, str | None]:
    """Return what a notebook with outputs is stored as: its .ipynb and its page of the ledger."""
    page = pages.page_text(notebook, pair.name)
    return {pair.notebook: documents.dumps(notebook), pair.claims: page}


def contents(path: Path) -> str | None:
    """Return a file's text, every byte of it, or None if there is no such file."""
    return path.read_bytes().decode() if path.exists() else None


def put(path: Path, text: str | None) -> None:
    """Make a file hold the text, or be gone if that is None."""
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    documents.write(path, text)


def main(arguments: list[str]) -> int:
    """Synchronise the notebooks named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="bazel run //notebooks:sync --", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="such as 05_2020_ddpm; all if none"
    )
    parser.add_argument(
        "--from", dest="prefer", choices=("text", "notebook"), help="the side to keep"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one would")
    options = parser.parse_args(arguments)
    failed = False
    try:
        folder = notebooks_folder()
        pairs = chosen_pairs(folder, options.names)
    except NotebookError as error:
        sys.exit(str(error))
    for pair in pairs:
        try:
            for path in synchronize(pair, options.prefer, dry=options.check):
                place = path.relative_to(folder if folder in path.parents else folder.parent)
                print(f"{'would write' if options.check else 'wrote'} {place}")
                failed |= options.check
        except (NotebookError, OSError) as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
