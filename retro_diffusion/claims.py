"""The claim ledger: what a paper says, what we measured, and whether the check can fail.

A notebook lists its `Claim` s, lets `check` raise where one must hold, and ends the cell with
`claims_table`. The table shows itself and also carries its rows as data, so that they are stored with
the notebook's outputs. The renderer writes them to ``docs/claims/NAME.json``, one `Page` per notebook;
`load` and `summary` read the pages back.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from retro_diffusion import __version__

Grade = Literal["EXACT", "ROBUST", "FRAGILE"]
GRADES: tuple[Grade, ...] = get_args(Grade)

MIME = "application/vnd.retro-diffusion.claims+json"
"""Type of the data that a `ClaimTable` adds to a cell's output: ``library`` and ``claims``."""

_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PROSE = ("statement", "paper", "source", "experiment", "ours", "band", "control")


# ---- one claim -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper: its number, our experiment and number, and a control that must fail.

    Attributes
    ----------
    key
        A short name, unique in its notebook: lower-case words joined by hyphens.
    statement
        The claim in a sentence.
    paper
        The published number or statement, such as ``"FID 3.17"``.
    source
        Where it stands: ``"Table 1, CIFAR-10, arXiv:2006.11239"``, or ``"derived, no published number"``.
    experiment
        What we ran, in one line: data, sample size, steps.
    ours
        Our number, with its interval where it is random.
    band
        When the claim passes, in words and numbers, fixed before looking.
    seeds
        How many seeds ``ours`` rests on, 0 for a closed form.
    control
        What was broken on purpose, and the number that it gave.
    control_failed
        Whether the same check noticed. If not, it proves nothing.
    grade
        EXACT: a closed form, no training. ROBUST: random or trained, but a large effect. FRAGILE:
        may not survive the scale of a laptop, so a failure is reported and stops nothing.
    passed
        Whether our number lies in the band.
    note
        Anything else a reader must know to compare the two numbers.
    """

    key: str
    statement: str
    paper: str
    source: str
    experiment: str
    ours: str
    band: str
    seeds: int
    control: str
    control_failed: bool
    grade: Grade
    passed: bool
    note: str = ""

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"A key is lower-case words joined by hyphens, not {self.key!r}.")
        for name in _PROSE:
            if not getattr(self, name).strip():
                raise ValueError(f"The claim {self.key!r} has an empty {name}.")
        if self.grade not in GRADES:
            raise ValueError(f"A grade is EXACT, ROBUST or FRAGILE, not {self.grade!r}.")
        if self.seeds < 0:
            raise ValueError(f"The claim {self.key!r} has {self.seeds} seeds; 0 is a closed form.")
        for name in ("passed", "control_failed"):  # NumPy and torch have their own booleans
            object.__setattr__(self, name, bool(getattr(self, name)))

    @property
    def verdict(self) -> str:
        """What the table says: supported, or NOT SUPPORTED AT THIS SCALE."""
        return "supported" if self.passed else "NOT SUPPORTED AT THIS SCALE"


_TYPES: dict[str, type] = {"seeds": int, "control_failed": bool, "passed": bool}


def claim_from_row(row: Mapping[str, Any]) -> Claim:
    """Return the claim that a row of the ledger holds.

    Parameters
    ----------
    row
        A value per field of `Claim`, all of them, as `dataclasses.asdict` gives them.

    Returns
    -------
    Claim
        The claim.

    Raises
    ------
    ValueError
        If a field is missing, unknown, empty or of another type; the message names it.
    """
    if not isinstance(row, Mapping):
        raise ValueError("it is no table of fields.")
    names = [field.name for field in fields(Claim)]
    for name in names:
        if name not in row:
            raise ValueError(f"it lacks the field {name!r}.")
        if type(row[name]) is not _TYPES.get(name, str):
            raise ValueError(f"its field {name!r} holds {row[name]!r}.")
    unknown = [name for name in row if name not in names]
    if unknown:
        raise ValueError(f"it has an unknown field {unknown[0]!r}.")
    return Claim(**row)


# ---- in a notebook ---------------------------------------------------------


@dataclass(frozen=True)
class ClaimTable:
    """Claims as a table: HTML in a notebook, plain text elsewhere, and rows for the ledger."""

    claims: tuple[Claim, ...]

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __repr__(self) -> str:
        return "\n\n".join(_plain(claim) for claim in self.claims)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in _COLUMNS)
        rows = "\n".join(_row(claim) for claim in self.claims)
        return (
            '<table style="border-collapse:collapse">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {MIME: {"claims": [asdict(c) for c in self.claims], "library": __version__}}


def claims_table(claims: Iterable[Claim]) -> ClaimTable:
    """Return the claims as a table to end a cell with."""
    table = ClaimTable(tuple(claims))
    if not table.claims:
        raise ValueError("A claims table needs at least one claim.")
    if twice := repeated_keys(table):
        raise ValueError(f"Two claims have the key {twice[0]!r}.")
    return table


def repeated_keys(claims: Iterable[Claim]) -> list[str]:
    """Return the keys that more than one claim has."""
    keys = [claim.key for claim in claims]
    return sorted({key for key in keys if keys.count(key) > 1})


def check(claims: Iterable[Claim]) -> None:
    """Raise AssertionError if an EXACT or ROBUST claim fails or its control does not.

    A FRAGILE claim never raises: its verdict is printed as it falls.

    Parameters
    ----------
    claims
        The claims of a notebook.

    Raises
    ------
    AssertionError
        With every claim that must hold and does not, and every check that a control slipped through.
    """
    gating = [claim for claim in claims if claim.grade != "FRAGILE"]
    failed = [c for c in gating if not c.passed]
    blind = [c for c in gating if not c.control_failed]
    complaints = []
    if failed:
        listing = "; ".join(f"[{c.grade}] {c.statement} (ours: {c.ours})" for c in failed)
        complaints.append(f"{_count(len(failed))} failed that must hold: {listing}")
    if blind:
        listing = "; ".join(f"[{c.grade}] {c.statement} (control: {c.control})" for c in blind)
        complaints.append(f"{_count(len(blind))} whose control did not fail: {listing}")
    if complaints:
        raise AssertionError(". ".join(complaints))


def _count(number: int) -> str:
    return f"{number} claim" if number == 1 else f"{number} claims"


# ---- text and HTML ---------------------------------------------------------

_COLUMNS = ("Claim", "Paper", "Ours (band)", "Grade", "Verdict")
_CELL = "text-align:left;vertical-align:top;padding:0.4em 0.8em;white-space:normal"


def _experiment(claim: Claim) -> str:
    seeds = {0: "", 1: " (1 seed)"}.get(claim.seeds, f" ({claim.seeds} seeds)")
    return claim.experiment + seeds


def _control(claim: Claim) -> str:
    outcome = (
        "fails, as it must" if claim.control_failed else "PASSES TOO: this check proves nothing"
    )
    return f"{claim.control} ({outcome})"


def _plain(claim: Claim) -> str:
    parts = {
        "paper": f"{claim.paper} ({claim.source})",
        "experiment": _experiment(claim),
        "ours": claim.ours,
        "band": claim.band,
        "control": _control(claim),
        "verdict": claim.verdict,
        "note": claim.note,
    }
    lines = [f"  {name + ':':12}{text}" for name, text in parts.items() if text]
    return "\n".join([f"[{claim.grade}] {claim.statement}", *lines])


def _row(claim: Claim) -> str:
    details = (_experiment(claim), f"Control: {_control(claim)}", claim.note)
    cells = (
        _with_small(claim.statement, *details),
        _with_small(claim.paper, claim.source),
        _with_small(claim.ours, f"({claim.band})"),
        claim.grade,
    )
    # The verdict is told by its words, a mark and weight; colour only repeats it. Blue and orange
    # stay apart for colour-blind readers, and the text keeps the colour of the reader's theme.
    mark, weight, color = ("✓", "normal", "#0072b2") if claim.passed else ("✗", "bold", "#d55e00")
    columns = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    style = f"{_CELL};font-weight:{weight};border-left:4px solid {color}"
    return f'<tr>{columns}<td style="{style}">{mark} {html.escape(claim.verdict)}</td></tr>'


def _with_small(text: str, *small: str) -> str:
    lines = [f"<br><small>{html.escape(line)}</small>" for line in small if line]
    return html.escape(text) + "".join(lines)


# ---- the ledger's files ----------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Page:
    """The claims of one notebook, as ``docs/claims/NAME.json`` holds them.

    Attributes
    ----------
    notebook
        Its name, such as ``"05_2020_ddpm"``.
    paper
        Authors and year, such as ``"Ho, Jain and Abbeel 2020"``; empty if it is of no one paper.
    arxiv
        The paper's number there; empty if it has none.
    profile
        The profile that the numbers come from.
    library
        The version of this library that they come from.
    claims
        The rows, in the notebook's order.
    """

    notebook: str
    paper: str
    arxiv: str
    profile: str
    library: str
    claims: tuple[Claim, ...]

    @property
    def year(self) -> int | None:
        """The year that ``paper`` ends in."""
        found = re.search(r"\b(\d{4})$", self.paper)
        return int(found[1]) if found else None


def page_text(page: Page) -> str:
    """Return the text of a page's file: sorted keys, the same bytes for the same claims."""
    data = asdict(page) | {"year": page.year}
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def parse_page(text: str, name: str) -> Page:
    """Return the page that a file's text holds.

    Parameters
    ----------
    text
        The file's contents.
    name
        The file's name, for the messages.

    Returns
    -------
    Page
        The page.

    Raises
    ------
    ValueError
        If it is not such a page; the message names the file, the row and the field.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}.") from error
    if not isinstance(data, dict) or not isinstance(data.get("claims"), list):
        raise ValueError(f"{name} lacks its list of claims.")
    head: dict[str, Any] = {
        field.name: data.get(field.name) for field in fields(Page) if field.name != "claims"
    }
    for field, value in head.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} lacks the field {field!r}.")
    page = Page(**head, claims=parse_rows(data["claims"], name))
    if data.get("year", page.year) != page.year:
        raise ValueError(f"{name} has another year than its paper, {page.paper!r}.")
    return page


def parse_rows(rows: Iterable[Any], name: str) -> tuple[Claim, ...]:
    """Return the claims of a list of rows; a ValueError names ``name`` and the row."""
    claims = []
    for number, row in enumerate(rows, 1):
        try:
            claims.append(claim_from_row(row))
        except ValueError as error:
            key = f" ({row['key']!r})" if isinstance(row, dict) and "key" in row else ""
            raise ValueError(f"{name}, claim {number}{key}: {error}") from error
    if twice := repeated_keys(claims):
        raise ValueError(f"{name} has the key {twice[0]!r} twice.")
    return tuple(claims)


def load(folder: Path) -> tuple[Page, ...]:
    """Return every page of a folder such as ``docs/claims``, in the order of the notebooks.

    Parameters
    ----------
    folder
        Holds one NAME.json per notebook.

    Returns
    -------
    tuple[Page, ...]
        The pages; none if the folder is empty.

    Raises
    ------
    ValueError
        If a file is not a page, or is another notebook's; the message names file, row and field.
    """
    pages = []
    for path in sorted(folder.glob("*.json")):
        page = parse_page(path.read_text(encoding="utf-8"), path.name)
        if page.notebook != path.stem:
            raise ValueError(f"{path.name} holds the claims of {page.notebook!r}.")
        pages.append(page)
    return tuple(pages)


@dataclass(frozen=True)
class Summary:
    """Counts of claims by grade and verdict; ``str(summary)`` says it in words.

    Attributes
    ----------
    supported
        How many claims of each grade are supported.
    not_supported
        How many are not, at this scale.
    """

    supported: Mapping[Grade, int]
    not_supported: Mapping[Grade, int]

    @property
    def total(self) -> int:
        """How many claims there are."""
        return sum(self.supported.values()) + sum(self.not_supported.values())

    def __str__(self) -> str:
        missed = sum(self.not_supported.values())
        tail = f", {missed} not at this scale" if missed else ""
        return f"{sum(self.supported.values())} supported{tail}"


def summary(pages: Iterable[Page]) -> Summary:
    """Return how many claims of the pages are supported, by grade."""
    claims = [claim for page in pages for claim in page.claims]
    counts: dict[bool, dict[Grade, int]] = {}
    for passed in (True, False):
        graded = [claim.grade for claim in claims if claim.passed == passed]
        counts[passed] = {grade: graded.count(grade) for grade in GRADES}
    return Summary(counts[True], counts[False])
