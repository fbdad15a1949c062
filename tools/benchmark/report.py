"""Tables of measurements: as text, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmark.measuring import Samples, Summary, ratios

PARTS = {
    "a": "Training",
    "b": "Sampling",
    "c": "Share of the machine's peak, and where the time goes",
    "d": "Time to quality",
    "e": "Growth of costs",
    "f": "Equal quality in fewer evaluations",
}
OURS = "ours"
"""How the names of this library's contenders begin."""

BF16 = ", bfloat16"
"""How a contender's name ends that computes in bfloat16."""

CURVES = "Quality over time: "
"""How the title of a table begins that is there for the figure alone."""

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
    return "\n\n".join([f"### {table.title}", _grid(table), *([table.note] if table.note else [])])


def _grid(table: Table) -> str:
    rows = ["| " + " | ".join(map(show, row)) + " |" for row in table.rows]
    head = "| " + " | ".join(table.columns) + " |"
    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    return "\n".join([head, rule, *rows])


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


def page(kept: Mapping[str, Any]) -> str:
    """Write all measurements in Markdown.

    Parameters
    ----------
    kept
        What the file of results holds: by the part's letter "date", "machine", "settings" and "tables".

    Returns
    -------
    str
        A section for each part, which says when and on what it was measured.
    """
    lines = [
        "# All measurements of speed",
        "Medians of several rounds, with quartiles in brackets.",
    ]
    for letter, part in kept.items():
        facts = ", ".join(f"{key} {value}" for key, value in part["machine"].items())
        lines += [f"## {PARTS[letter]}", f"*{part['date']}: {facts}.*"]
        lines += [
            markdown(from_json(title, content))
            for title, content in part["tables"].items()
            if not title.startswith(CURVES)
        ]
    return "\n\n".join(lines) + "\n"


def overview(kept: Mapping[str, Any]) -> str:
    """Write in one Markdown table how many times as fast this library is, type for type.

    Parameters
    ----------
    kept
        As for `page`; of it the tables of ratios.

    Returns
    -------
    str
        A row for each case, a column for each of the others; medians in float32 and in bfloat16.
    """
    rows: list[Row] = []
    others: list[str] = []
    for letter in sorted({"a", "b"} & kept.keys()):
        for title, content in kept[letter]["tables"].items():
            if ", ratios: " in title:
                table = from_json(title, content)
                others = [name for name in table.columns[1:] if not name.endswith(BF16)]
                found = [
                    f"{_ratio(table, other)} / {_ratio(table, other, BF16)}" for other in others
                ]
                rows.append((title.replace(", ratios", ""), *found))
    return _grid(Table("", ("times as fast, float32 / bfloat16", *others), tuple(rows))) + "\n"


def _ratio(table: Table, other: str, ending: str = "") -> str:
    """Return our median over another contender's, both with this ending of their names."""
    row = next(row for row in table.rows if row[0] == f"{OURS}{ending} over")
    cell = dict(zip(table.columns, row, strict=True)).get(other + ending)
    return _number(cell.median) if isinstance(cell, Summary) else "–"


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
