"""Tables of measurements: as text, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmark.measuring import Samples, Summary, ratios

Cell = str | int | float | Summary | None
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Results of a part; a later table of the same title replaces an earlier one.

    Attributes
    ----------
    title
        What was measured, where and how.
    columns
        Headings; the first is that of the rows' names.
    rows
        One value for each heading; None where there is none.
    note
        What a reader has to know besides, in whole sentences.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


def show(cell: Cell) -> str:
    """Write a value for people: numbers to three digits, a summary with its quartiles."""
    if cell is None:
        return "–"
    if isinstance(cell, Summary):
        return f"{_number(cell.median)} [{_number(cell.low)}, {_number(cell.high)}]"
    return (
        _number(cell) if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def text(table: Table) -> str:
    """Lay a table out for a terminal: names to the left, numbers to the right."""
    lines = [list(table.columns), *([show(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    laid = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    rule = "-" * len(laid[0])
    note = [table.note] if table.note else []
    return "\n".join([table.title, rule, laid[0], rule, *laid[1:], rule, *note])


def markdown(table: Table) -> str:
    """Write a table in Markdown, under a heading."""
    rows = ["| " + " | ".join(map(show, row)) + " |" for row in table.rows]
    head = "| " + " | ".join(table.columns) + " |"
    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    note = ["", table.note] if table.note else []
    return "\n".join([f"### {table.title}", "", head, rule, *rows, *note])


def as_json(table: Table) -> dict[str, Any]:
    """Return a table as plain lists and dictionaries, with all digits."""
    rows = [
        [cell._asdict() if isinstance(cell, Summary) else cell for cell in row]
        for row in table.rows
    ]
    return {"columns": list(table.columns), "rows": rows, "note": table.note}


def from_json(title: str, content: Mapping[str, Any]) -> Table:
    """Return the table that `as_json` wrote."""
    rows = tuple(
        tuple(Summary(**cell) if isinstance(cell, dict) else cell for cell in row)
        for row in content["rows"]
    )
    return Table(title, tuple(content["columns"]), rows, content["note"])


def ratio_table(
    title: str,
    samples: Samples,
    names: Sequence[str],
    others: Sequence[str],
    cost: Mapping[str, float] | None = None,
) -> Table:
    """Tabulate how many times as fast some contenders are as others, from pairs of one round each.

    Parameters
    ----------
    title
        Of the table.
    samples
        Of all contenders.
    names, others
        Rows, and columns.
    cost
        Floating-point operations per call, for further rows that compare at equal work.

    Returns
    -------
    Table
        Medians over rounds with quartiles.
    """
    rows: list[Row] = [
        (f"{name} over", *(ratios(samples[name], samples[other]) for other in others))
        for name in names
    ]
    for name in names if cost else ():
        assert cost is not None
        pairs = (ratios(samples[name], samples[other], cost[name], cost[other]) for other in others)
        rows.append((f"{name}, per FLOP, over", *pairs))
    return Table(title, ("times as fast", *others), tuple(rows))
