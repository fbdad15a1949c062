"""The claim ledger of all notebooks: print it, and keep its summary in README.md up to date.

Each notebook's claims lie in docs/claims/NAME.json, as its outputs hold them; nothing is run.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from retro_diffusion.claims import GRADES, Claim, Page, load, summary
from tools.notebooks import documents, sync
from tools.notebooks.documents import NotebookError

BEGIN = "<!-- ledger: written by `bazel run //docs:ledger -- --write` -->"
END = "<!-- end of the ledger -->"


# ---- for a terminal --------------------------------------------------------


def table(pages: Sequence[Page]) -> str:
    """Return every claim as a line of a table, notebook by notebook."""
    claims = [claim for page in pages for claim in page.claims]
    width = max((len(claim.key) for claim in claims), default=0)
    blocks = []
    for page in pages:
        paper = ": ".join([page.notebook, page.paper] if page.paper else [page.notebook])
        arxiv = f" (arXiv:{page.arxiv})" if page.arxiv else ""
        lines = [f"  {_line(claim, width)}" for claim in page.claims]
        blocks.append("\n".join([f"{paper}{arxiv}, {summary([page])}", *lines]))
    return "\n\n".join([*blocks, f"{_count(pages)}: {summary(pages)}"])


def _line(claim: Claim, width: int) -> str:
    mark = "yes" if claim.passed else "NO "
    return f"{mark}  {claim.grade:7}  {claim.key:{width}}  {claim.ours}  [{claim.band}]"


def _count(pages: Sequence[Page]) -> str:
    notebooks = "1 notebook" if len(pages) == 1 else f"{len(pages)} notebooks"
    total = summary(pages).total
    return f"{'1 claim' if total == 1 else f'{total} claims'} in {notebooks}"


# ---- for README.md ---------------------------------------------------------


def markdown(pages: Sequence[Page]) -> str:
    """Return README's ledger: counts per notebook, and the claims that did not show up."""
    return "\n".join([BEGIN, "", *_markdown(pages), "", END])


def _markdown(pages: Sequence[Page]) -> Iterator[str]:
    yield f"{_count(pages)}: {summary(pages)}."
    if pages:
        yield from ("", f"| notebook | {' | '.join(GRADES)} |", f"|{' --- |' * (len(GRADES) + 1)}")
        yield from (_markdown_row(page) for page in pages)
    missed = [(page, claim) for page in pages for claim in page.claims if not claim.passed]
    if missed:
        yield from ("", "Not supported at this scale:", "")
        yield from (_markdown_miss(page, claim) for page, claim in missed)


def _markdown_row(page: Page) -> str:
    counts = summary([page])
    cells = [f"[`{page.notebook}`](notebooks/{page.notebook}.ipynb)"]
    for grade in GRADES:
        total = counts.supported[grade] + counts.not_supported[grade]
        cells.append(f"{counts.supported[grade]} of {total}" if total else "")
    return f"| {' | '.join(cells)} |"


def _markdown_miss(page: Page, claim: Claim) -> str:
    return (
        f"- `{page.notebook}`: {claim.statement}. Ours: {claim.ours} ({claim.grade}; {claim.band})."
    )


def with_ledger(readme: str, pages: Sequence[Page]) -> str:
    """Return a README's text with its ledger replaced by that of the pages.

    Parameters
    ----------
    readme
        The text, in which `BEGIN` and `END` stand once each.
    pages
        The ledger.

    Returns
    -------
    str
        The new text.

    Raises
    ------
    NotebookError
        If the two comments are not there, once each and in order.
    """
    before, begun, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended) or BEGIN in rest or END in before + after:
        raise NotebookError(f"README.md needs the comments\n{BEGIN}\n{END}\nonce each, in order.")
    return before + markdown(pages) + after


def problems(readme: Path, pages: Sequence[Page]) -> list[str]:
    """Return what is wrong with a README's ledger, and which pages have no notebook."""
    texts = readme.parent / "notebooks" / "text"
    found = [
        f"docs/claims/{page.notebook}.json has no notebook; delete it."
        for page in pages
        if not (texts / f"{page.notebook}.py").exists()
    ]
    old = readme.read_text(encoding="utf-8")
    new = with_ledger(old, pages)
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "README.md", "now", lineterm=""
    )
    if diff := "\n".join(lines):
        found.append(
            f"README.md's ledger is old; run 'bazel run //docs:ledger -- --write'.\n{diff}"
        )
    return found


# ---- command line ----------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="bazel run //docs:ledger --", description=__doc__)
    parser.add_argument("readme", nargs="?", type=Path, help="default: that of this checkout")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--markdown", action="store_true", help="print what README.md shows of it")
    choice.add_argument("--write", action="store_true", help="put that into README.md")
    choice.add_argument("--check", action="store_true", help="fail if README.md shows another")
    options = parser.parse_args(arguments)
    try:
        readme = options.readme or sync.notebooks_folder().parent / "README.md"
        pages = load(readme.parent / "docs" / "claims")
        if options.check:
            wrong = problems(readme, pages)
            print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
            return int(bool(wrong))
        if options.write:
            documents.write(readme, with_ledger(readme.read_text(encoding="utf-8"), pages))
        else:
            print(markdown(pages) if options.markdown else table(pages))
    except (NotebookError, ValueError, OSError) as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
