"""The benchmark's figure, drawn from its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retro_diffusion import plotting
from tools.benchmark.measuring import Summary
from tools.benchmark.report import CURVES, Cell, Row, Table


def picture(tables: Sequence[Table]) -> Figure | None:
    """Draw speeds as bars, quality as curves and growth on logarithmic axes.

    Parameters
    ----------
    tables
        All tables; those of ratios, peaks and shares are left to the text.

    Returns
    -------
    Figure or None
        One panel for each table that can be drawn; None if there is none.
    """
    drawn = [table for table in tables if _drawing(table) is not None]
    if not drawn:
        return None
    with matplotlib.rc_context(plotting.STYLE):
        n_rows = -(-len(drawn) // 2)
        figure, axes = plt.subplots(
            n_rows, 2, figsize=(11, 2.6 * n_rows), layout="constrained", squeeze=False
        )
        for axis, table in zip(axes.flat, drawn, strict=False):
            draw = _drawing(table)
            assert draw is not None  # only such tables were kept
            draw(axis, table)
            axis.set_title(table.title.replace(", ", ",\n", 1), fontsize=8)
        for axis in axes.flat[len(drawn) :]:
            axis.set_axis_off()
    plt.close(figure)
    return figure


def _drawing(table: Table) -> Callable[[Axes, Table], None] | None:
    kinds = {
        "Training: ": _bars,
        "DDIM-20: ": _bars,
        CURVES: _curves,
        "Growth: ": _growth,
        "Equal quality: ": _equal,
    }
    return next((draw for start, draw in kinds.items() if table.title.startswith(start)), None)


def _column(table: Table, name: str) -> list[Cell]:
    return [row[table.columns.index(name)] for row in table.rows]


def _medians(cells: Sequence[Cell]) -> list[float]:
    return [cell.median for cell in cells if isinstance(cell, Summary)]


def _bars(axis: Axes, table: Table) -> None:
    names, speeds = _column(table, "contender"), _column(table, "images/s")
    summaries = [speed for speed in speeds if isinstance(speed, Summary)]
    medians = _medians(speeds)
    spread = [
        [s.median - s.low for s in summaries],
        [s.high - s.median for s in summaries],
    ]
    ours = [str(name).startswith("ours") for name in names]
    colours = [plotting.PALETTE[0] if own else plotting.FAINT for own in ours]
    axis.barh(range(len(names)), medians, xerr=spread, color=colours, ecolor=plotting.INK)
    axis.set_yticks(range(len(names)), [str(name) for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("images per second")


def _curves(axis: Axes, table: Table) -> None:
    names = list(dict.fromkeys(str(name) for name in _column(table, "contender")))
    for colour, name in zip(plotting.PALETTE, names, strict=False):
        for seed in sorted({row[1] for row in table.rows if row[0] == name}, key=str):
            points = [row[2:] for row in table.rows if row[:2] == (name, seed)]
            cost, score = zip(*points, strict=True)
            label = name if seed == 0 else None
            axis.plot(cost, score, "o-", color=colour, markersize=2.5, linewidth=1, label=label)
    axis.axhline(1.5, color=plotting.INK, linewidth=0.7, linestyle="--")
    axis.set(xscale="log", yscale="log", xlabel="CPU-seconds", ylabel="Fréchet, in floors")
    axis.legend(fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.45, -0.2))


def _growth(axis: Axes, table: Table) -> None:
    sizes = [float(str(row[0])) for row in table.rows]
    medians = _medians(_column(table, "seconds per call"))
    axis.plot(sizes, medians, "o-")
    axis.set(xscale="log", yscale="log", xlabel=table.columns[0], ylabel="seconds per call")
    axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axis.set_xticks([], minor=True)


def _equal(axis: Axes, table: Table) -> None:
    """Quality against evaluations; the first row is a band, all others are curves by sampler."""
    first, *others = table.rows
    reference = first[2]
    assert isinstance(reference, Summary)
    label = f"{first[0]}, quartiles"
    axis.axhspan(reference.low, reference.high, color=plotting.FAINT, alpha=0.4, label=label)
    curves: dict[str, list[Row]] = {}
    for row in others:
        curves.setdefault(str(row[0]).rpartition(", ")[0], []).append(row)
    for colour, (sampler, rows) in zip(plotting.PALETTE, curves.items(), strict=False):
        steps = [int(str(row[1])) for row in rows]
        axis.plot(steps, _medians([row[2] for row in rows]), "o-", color=colour, label=sampler)
    axis.set(xscale="log", xlabel="evaluations", ylabel="Fréchet, in floors")
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=6)
