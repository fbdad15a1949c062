"""Run notebooks and store their outputs in the .ipynb files of the checkout.

The source is ``notebooks/text/NAME.py``. Two runs on one machine write the same bytes: cell names
follow from their text, and no time, path, progress bar or version of the kernel is kept. If a cell
fails, the old file stays. The claims among the outputs also go to ``docs/claims/NAME.json``.
"""

from __future__ import annotations

import argparse
import difflib
import math
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.notebooks import checks, documents, pairing, runner, sync
from tools.notebooks.documents import RECORD, Notebook, NotebookError
from tools.notebooks.pairing import Pair

WALL_TIME = "@wall-time@"
"""What `retro_diffusion.notebook.Run.finish` prints in place of a time while rendering."""

_ROUND = (1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600, 900, 1200, 1800)


@dataclass(frozen=True)
class Options:
    """How to run: see ``--help``."""

    profile: str
    threads: int
    limit: float


# ---- one notebook in a process of its own ----------------------------------


def _child(connection: Connection, notebook: Notebook, options: Options) -> None:
    """Run the notebook and send ("cell", ...), then ("done", notebook) or ("failed", message)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process itself
    try:
        with runner.surroundings(options.profile, options.threads, render=True):
            runner.run_cells(notebook, lambda *cell: connection.send(("cell", *cell)))
        connection.send(("done", notebook))
    except NotebookError as error:
        connection.send(("failed", str(error)))


def run_apart(notebook: Notebook, options: Options) -> Iterator[tuple[Any, ...]]:
    """Run a notebook in a fresh process; yield what `_child` sends, up to ("done", notebook)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, notebook, options))
    deadline = time.monotonic() + options.limit
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(max(0.0, deadline - time.monotonic())):
                raise NotebookError(f"it was stopped after {options.limit:g} s (--limit).")
            try:
                message = ours.recv()
            except EOFError:
                process.join()
                raise NotebookError(f"its process died (exit code {process.exitcode}).") from None
            if message[0] == "failed":
                raise NotebookError(message[1])
            if message[0] == "done":
                process.join(timeout=10)
                yield message
                return
            yield message
    finally:
        process.kill()
        process.join()


def _run_with_bar(notebook: Notebook, options: Options, name: str) -> tuple[Notebook, float]:
    """Run a notebook behind a progress bar; return it with outputs, and its cells' seconds."""
    total, spent = len(documents.code_cells(notebook)), 0.0
    with tqdm(total=total, desc=name, unit="cell", dynamic_ncols=True, disable=None) as bar:
        for kind, *rest in run_apart(notebook, options):
            if kind == "done":
                return rest[0], spent
            number, _, seconds, line = rest
            spent += seconds
            bar.write(f"  cell {number:2d}  {seconds:7.2f} s  {line}", file=sys.stderr)
            bar.update()
    raise AssertionError("run_apart ends with a result or an error")


# ---- from a run to a file --------------------------------------------------


def settled_seconds(measured: float, stored: float | None) -> float:
    """Return a round number near the measured time: the stored one unless it is off by half."""
    if stored and stored / 2 <= measured <= stored * 2:
        return stored
    return min(_ROUND, key=lambda choice: abs(math.log(choice / max(measured, 0.1))))


def finished(ran: Notebook, old: Notebook | None, measured: float, profile: str) -> Notebook:
    """Return the notebook as it is stored: times settled, figures described, and a record."""
    stored = old["metadata"].get(RECORD, {}).get("seconds") if old else None
    seconds = settled_seconds(measured, stored)
    for cell in documents.code_cells(ran):
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                output["text"] = output["text"].replace(WALL_TIME, f"about {seconds:g} s")
    pairing.describe_images(ran)
    ran["metadata"][RECORD] = {
        "paired": pairing.paired_fingerprint(ran),
        "profile": profile,
        "rendered": documents.rendered_fingerprint(ran),
        "seconds": seconds,
    }
    return ran


def rendered(pair: Pair, options: Options) -> dict[Path, str | None]:
    """Run a pair's text notebook; return what its .ipynb and its page of the ledger are to hold."""
    text, old = sync.read_text(pair), sync.read_notebook(pair)
    if text is None or pairing.edited_side(text, old, pair.name) == "notebook":
        raise NotebookError(
            f"{pair.name}.ipynb was edited; first run 'bazel run //notebooks:sync -- {pair.name}'."
        )
    ran, measured = _run_with_bar(pairing.from_text(text, pair.name), options, pair.name)
    return sync.stored_files(pair, finished(ran, old, measured, options.profile))


def changes(path: Path, after: str | None) -> str:
    """Return a diff from a file to what it would hold, pictures shortened."""
    texts = (sync.contents(path) or "", after or "")
    old, new = ([_shortened(line) for line in text.splitlines()] for text in texts)
    return "\n".join(
        difflib.unified_diff(old, new, path.name, f"{path.name}, run again", lineterm="")
    )


def _shortened(line: str) -> str:
    if len(line) <= 200:
        return line
    return f"{line[:60]}... ({len(line)} characters, {documents.fingerprint(line)})"


def process_pair(pair: Pair, options: Options, dry: bool) -> list[str]:
    """Render one pair; return what is wrong with the result, as sentences."""
    files = rendered(pair, options)
    if dry:
        diffs = {path.name: changes(path, text) for path, text in files.items()}
        return [f"{name} differs from a new run:\n{diff}" for name, diff in diffs.items() if diff]
    for path, text in files.items():
        if sync.contents(path) != text:
            sync.put(path, text)
    print(f"wrote {pair.notebook.name} ({pair.notebook.stat().st_size / 1e6:.2f} MB)")
    return checks.pair_problems(pair, host=socket.gethostname())


# ---- command line ----------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Render the notebooks named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="bazel run //notebooks:render --", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="such as 05_2020_ddpm; all if none"
    )
    parser.add_argument("--profile", choices=("fast", "full"), default="full")
    parser.add_argument("--threads", type=int, default=2, help="results depend on it a little")
    parser.add_argument("--limit", type=float, default=3600, help="seconds per notebook")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the outputs would change"
    )
    given = parser.parse_args(arguments)
    options = Options(given.profile, given.threads, given.limit)
    failed = []
    try:
        pairs = sync.chosen_pairs(sync.notebooks_folder(), given.names)
    except NotebookError as error:
        sys.exit(str(error))
    for pair in pairs:
        try:
            wrong = process_pair(pair, options, given.check)
        except (NotebookError, OSError) as error:
            wrong = [f"{pair.name}: {error}"]
        print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
        failed += [pair.name] if wrong else []
    if failed:
        print(f"{len(failed)} of {len(pairs)} need attention: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
