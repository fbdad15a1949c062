"""Bring a text notebook and its .ipynb into agreement, in the direction of the edit.

Edits made in JupyterLab go to ``text/NAME.py``; edits of the text go to ``NAME.ipynb``, which keeps
the outputs of cells whose code is the same. If both were edited, nothing is written unless --from
says which to keep.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tools.notebooks import documents, pairing
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
    files = {
        pair.text: text,
        pair.notebook: documents.dumps(pairing.updated(text, notebook, pair.name)),
    }
    changed = [p for p, new in files.items() if not p.exists() or p.read_bytes() != new.encode()]
    for path in [] if dry else changed:
        path.parent.mkdir(exist_ok=True)
        documents.write(path, files[path])
    return changed


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
                print(f"{'would write' if options.check else 'wrote'} {path.relative_to(folder)}")
                failed |= options.check
        except (NotebookError, OSError) as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
