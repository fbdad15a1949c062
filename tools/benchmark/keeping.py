"""Running the parts, and keeping what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.benchmark import figure, report
from tools.benchmark.report import Table
from tools.benchmark.speed import Settings

Part = Callable[[Settings], Iterator[Table]]
Tables = dict[str, dict[str, Table]]
"""By the part's letter and the title."""

JSON, PICTURE = "benchmark.json", "benchmark.png"


def collect(
    chosen: Sequence[str], available: Mapping[str, Part], settings: Settings
) -> tuple[Tables, bool]:
    """Run parts until they are done or Ctrl-C stops them.

    Parameters
    ----------
    chosen
        Letters of the parts.
    available
        The parts by letter.
    settings
        For all parts.

    Returns
    -------
    tuple
        Tables by part and title, those of an interrupted part included; and whether all were done.
    """
    tables: Tables = {}
    for letter in chosen:
        of_part = tables.setdefault(letter, {})
        try:
            for table in available[letter](settings):
                of_part[table.title] = table
        except KeyboardInterrupt:
            _print(of_part)
            print("\nbenchmark: interrupted; what was measured is kept", file=sys.stderr)
            return {part: found for part, found in tables.items() if found}, False
        _print(of_part)
    return tables, True


def _print(tables: Mapping[str, Table]) -> None:
    for table in tables.values():
        print(f"\n{report.text(table)}", flush=True)


def with_machine(tables: Tables, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as the file holds them.

    Parameters
    ----------
    tables
        By part and title.
    about
        Date, machine and settings; kept with each part, since parts may come from different runs.

    Returns
    -------
    dict
        By the part's letter.
    """
    return {
        letter: {
            **about,
            "tables": {title: report.as_json(table) for title, table in of_part.items()},
        }
        for letter, of_part in tables.items()
    }


def keep(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results; parts that were not measured this time stay as they are in the file.

    Parameters
    ----------
    folder
        Where to write; it exists.
    results
        From `with_machine`.
    """
    path = folder / JSON
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = dict(sorted({**kept, **results}.items()))
    path.write_text(json.dumps(kept, indent=1) + "\n")
    all_tables = [
        report.from_json(title, content)
        for part in kept.values()
        for title, content in part["tables"].items()
    ]
    drawn = figure.picture(all_tables)
    if drawn is not None:
        drawn.savefig(folder / PICTURE)
