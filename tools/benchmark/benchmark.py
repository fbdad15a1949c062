"""Measure speed, of this library and of others on this machine: `bazel run benchmark`.

Prints a table for each measurement, and keeps all of them as benchmark.json and benchmark.png in a folder
of the checkout. README.md beside this file says what exactly is timed. Ctrl-C keeps what was measured.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tools.benchmark import lineup, report
from tools.benchmark.equal import equal_quality
from tools.benchmark.growth import growth
from tools.benchmark.keeping import JSON, PICTURE, Part, collect, keep, with_machine
from tools.benchmark.quality import quality
from tools.benchmark.speed import Settings, efficiency, sampling, training
from tools.command_line import from_caller, in_checkout, positive

PEERS = ("denoising-diffusion-pytorch", "diffusers", "smalldiffusion")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parts(mnist: Path | None) -> dict[str, Part]:
    """Return the parts by their letters, with the contenders of `lineup`."""
    return {
        "a": functools.partial(training, families=lineup.matched),
        "b": functools.partial(sampling, families=lineup.matched),
        "c": functools.partial(efficiency, families=lineup.matched),
        "d": functools.partial(quality, recipes=lineup.recipes, judges=lineup.judges(mnist)),
        "e": growth,
        "f": functools.partial(equal_quality, judge=lineup.judges(None)["digits"]),
    }


def machine(threads: int) -> dict[str, Any]:
    """Describe what the numbers were measured on.

    Parameters
    ----------
    threads
        Of PyTorch's operators.

    Returns
    -------
    dict
        Model and number of processors, system, load before the start, versions of the contenders.
    """
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{peer: metadata.version(peer) for peer in PEERS},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    out = in_checkout(options.out)
    mnist = None if options.mnist is None else from_caller(options.mnist)
    settings = Settings(
        threads=options.threads,
        repetitions=2 if options.quick else options.repetitions,
        seconds=0.05 if options.quick else options.seconds,
        clock=CLOCKS[options.clock],
        quick=options.quick,
        limit=10.0 if options.quick else options.limit,
        seeds=options.seeds,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        available = parts(mnist)
    except (OSError, ValueError) as error:
        parser.exit(2, f"benchmark: error: {error}\n")
    torch.set_num_threads(options.threads)
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(options.threads),
        "settings": {**vars(settings), "clock": options.clock},
    }
    print(json.dumps(about["machine"], indent=1))
    tables, done = collect(options.parts, available, settings)
    if tables:
        results = with_machine(tables, about)
        keep(out, results)
        print(f"\nwrote {out / JSON} and {out / PICTURE}")
        if options.markdown:
            path = from_caller(options.markdown)
            path.write_text(report.page(results))
            print(f"wrote {path}")
    return 0 if done else 130


def _letters(text: str) -> list[str]:
    letters = text.replace(",", "")
    if not letters or set(letters) - report.PARTS.keys():
        raise argparse.ArgumentTypeError(f'must be some of {",".join(report.PARTS)}, not "{text}"')
    return sorted(set(letters))


def _parser() -> argparse.ArgumentParser:
    parts = "; ".join(f"{letter}, {words.lower()}" for letter, words in report.PARTS.items())
    parser = argparse.ArgumentParser(
        prog="benchmark", description=(__doc__ or "").split("\n\n")[1], epilog=f"Parts: {parts}."
    )
    add = parser.add_argument
    add(
        "--parts",
        type=_letters,
        default="".join(report.PARTS),
        help="which to run, such as a,b (default: all)",
    )
    add("--quick", action="store_true", help="small and short, to see that everything works")
    threads = torch.get_num_threads()
    add("--threads", type=positive, default=threads, help="of PyTorch's operators (%(default)s)")
    add("--repetitions", type=positive, default=7, help="rounds (%(default)s; with --quick 2)")
    add(
        "--seconds",
        type=float,
        default=1.0,
        help="least time per contender and round (%(default)s)",
    )
    add(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: all threads' time, if others use the machine",
    )
    add(
        "--limit",
        type=float,
        default=300.0,
        help="CPU-seconds per contender in part d (%(default)s)",
    )
    add(
        "--seeds",
        type=positive,
        default=1,
        help="trainings of each contender in part d (%(default)s)",
    )
    add("--mnist", type=Path, metavar="FOLDER", help="of MNIST's files, for part d to use as well")
    out = Path("docs/benchmark")
    add(
        "--out",
        type=Path,
        default=out,
        metavar="FOLDER",
        help="of the checkout, to keep results (%(default)s)",
    )
    add("--markdown", type=Path, metavar="FILE", help="to write the tables to as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
