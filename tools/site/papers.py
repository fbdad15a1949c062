"""The papers of the front page: docs/papers.toml becomes its timeline and its table."""

from __future__ import annotations

import functools
import pkgutil
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mdit_py_plugins.anchors.index import slugify
from pybtex.database import parse_file


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper that has a chapter, a notebook and a place in the library.

    Attributes
    ----------
    name
        What it is called.
    year
        Of its publication, or of its preprint.
    cite
        Its key in the bibliography.
    idea
        Half a sentence.
    chapter, section
        The chapter's file name without suffix, and a heading in it; empty for all of the chapter.
    notebook
        The notebook's name.
    library
        Dotted name below retro_diffusion.
    coefficients, predicts, weight, sampler
        Its choices: ``(alpha, sigma)``, the network's output, the loss's weight, the way back.
    """

    name: str
    year: int
    cite: str
    idea: str
    chapter: str
    section: str = ""
    notebook: str
    library: str
    coefficients: str
    predicts: str
    weight: str
    sampler: str


def read(root: Path) -> list[Paper]:
    """Return the papers of a checkout.

    Parameters
    ----------
    root
        Holds docs/papers.toml, docs/post and notebooks.

    Returns
    -------
    list[Paper]
        In the order of their years.

    Raises
    ------
    ValueError
        If a field is missing or unknown, a reference, year, chapter, section, notebook or name of the library
        is not there, or the years are not in order; the message names the paper.
    """
    text = (root / "docs" / "papers.toml").read_text(encoding="utf-8")
    papers = [_paper(entry) for entry in tomllib.loads(text)["paper"]]
    for paper in papers:
        for problem in _problems(paper, root):
            raise ValueError(f"papers.toml: {paper.name}: {problem}")
    for one, next_one in zip(papers[:-1], papers[1:], strict=True):
        if next_one.year < one.year:
            raise ValueError(f"papers.toml: {next_one.name} stands after a later year")
    return papers


def _paper(entry: dict[str, Any]) -> Paper:
    where = f"papers.toml: {entry.get('name', 'a paper without a name')}"
    known = {f.name: f.default is MISSING for f in fields(Paper)}
    if unknown := sorted(set(entry) - set(known)):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    if missing := sorted(name for name, needed in known.items() if needed and name not in entry):
        raise ValueError(f"{where}: the field {missing[0]!r} is missing")
    return Paper(**entry)


def _problems(paper: Paper, root: Path) -> Iterator[str]:
    """Yield what a paper names and the checkout does not have."""
    years = _years(root / "docs" / "post").get(paper.cite)
    if years is None:
        yield f"no bibliography has {paper.cite!r}"
    elif paper.year not in years:
        yield f"{paper.cite} is of {' or '.join(map(str, sorted(years)))}, not of {paper.year}"
    chapter = root / "docs" / "post" / f"{paper.chapter}.md"
    if not chapter.is_file():
        yield f"there is no chapter {paper.chapter!r}"
    elif paper.section and paper.section not in _headings(chapter):
        yield f"{chapter.name} has no section {paper.section!r}"
    if not (root / "notebooks" / f"{paper.notebook}.ipynb").is_file():
        yield f"there is no notebook {paper.notebook!r}"
    try:
        pkgutil.resolve_name(f"retro_diffusion.{paper.library}")
    except (ImportError, AttributeError):
        yield f"the library has no {paper.library!r}"


@functools.cache
def _years(post: Path) -> dict[str, set[int]]:
    """Return, for every key, the year of publication and that of the preprint's number (YYMM.NNNNN)."""
    found = {}
    for path in sorted(post.glob("*.bib")):
        for key, entry in parse_file(str(path)).entries.items():
            years = {int(entry.fields["year"])}
            if re.match(r"\d{4}\.", number := entry.fields.get("eprint", "")):
                years.add(2000 + int(number[:2]))
            found[key] = years
    return found


@functools.cache
def _headings(chapter: Path) -> set[str]:
    return set(re.findall(r"^#+ +(.*?) *$", chapter.read_text(encoding="utf-8"), re.MULTILINE))


def timeline(papers: Sequence[Paper]) -> str:
    """Return the papers as an ordered list: year, name, idea, and where each is read, run and called."""
    items = []
    for paper in papers:
        number = int(paper.chapter.partition("_")[0])
        section = f"#{slugify(paper.section)}" if paper.section else ""
        short = paper.library.rpartition(".")[2]
        items += [
            f"1. [{paper.year}]{{.year}} **{paper.name}** {{cite:t}}`{paper.cite}`: {paper.idea}.",
            "",
            f"   [Chapter {number}](post/{paper.chapter}.md{section}) ·"
            f" {{doc}}`Notebook <notebooks/{paper.notebook}>` ·"
            f" {{py:obj}}`{short} <retro_diffusion.{paper.library}>`",
            "",
        ]
    return "\n".join([":::{container} timeline", *items, ":::", ""])


def table(papers: Sequence[Paper]) -> str:
    """Return the papers' choices, a row each."""
    rows = [
        r"| paper | $(\alpha_t, \sigma_t)$ | the network predicts "
        r"| weight of the error in $\hat\epsilon$ | sampler |",
        "|---|---|---|---|---|",
    ]
    for p in papers:
        name = f"{{doc}}`{p.name} <notebooks/{p.notebook}>` ({p.year})"
        rows.append(f"| {name} | {p.coefficients} | {p.predicts} | {p.weight} | {p.sampler} |")
    return "\n".join([*rows, ""])
