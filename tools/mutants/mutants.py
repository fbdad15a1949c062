"""The mutation run: spring each trap of the papers, and see which test catches it.

    bazel run //tools/mutants
    bazel run //tools/mutants -- --only ddim

For every mutant in `museum/` the library is copied, one mistake is made in the copy, and the tests
that ought to notice are run on it. A mutant that no test notices is a test that is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tools.command_line import from_caller, positive
from tools.mutants import traps
from tools.mutants.traps import Mutant, TrapError
from tools.mutants.workshop import Outcome, Workshop

STATUS = {"failed": "caught", "passed": "survived", "broken": "broken"}


class Trial(NamedTuple):
    """A mutant and what the tests said of it."""

    mutant: Mutant
    outcome: Outcome

    @property
    def status(self) -> str:
        """Either "caught", "survived" or, if no test could say, "broken"."""
        return STATUS[self.outcome.status]


class RedBaselineError(RuntimeError):
    """The tests fail without any mutant."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; None for those of the process.

    Returns
    -------
    int
        0 if every mutant is caught, 1 if not, 2 if they cannot be tried, 130 after an interrupt.
    """
    options = _parser().parse_args(argv)
    try:
        mutants = select(traps.load(options.museum), options.only)
        if options.list:
            print(listing(mutants))
            return 0
        with Workshop(options.workspace, options.timeout) as workshop:
            traps.check(mutants, workshop.library)
            trials = run(workshop, mutants, options.jobs, quiet=options.quiet)
        if options.json:
            from_caller(options.json).write_text(as_json(trials), encoding="utf-8")
    except KeyboardInterrupt:
        print("mutants: interrupted", file=sys.stderr)
        return 130
    except (TrapError, RedBaselineError, OSError) as error:
        print(f"mutants: error: {error}", file=sys.stderr)
        return 2
    print(verdict(trials))
    return int(any(trial.status != "caught" for trial in trials))


def select(mutants: Sequence[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """Choose mutants by regular expressions.

    Parameters
    ----------
    mutants
        All of them.
    patterns
        Searched for in ``FILE:NAME``; none chooses all.

    Returns
    -------
    list of Mutant
        Those in which a pattern is found.

    Raises
    ------
    TrapError
        If there are none, or a pattern is not a regular expression.
    """
    try:
        searches = [re.compile(pattern).search for pattern in patterns or [""]]
    except re.error as error:
        raise TrapError(f"--only is not a regular expression: {error}") from error
    chosen = [m for m in mutants if any(search(f"{m.file}:{m.name}") for search in searches)]
    if not chosen:
        raise TrapError("no mutant is selected; --list shows them")
    return chosen


def run(
    workshop: Workshop, mutants: Sequence[Mutant], jobs: int = 1, *, quiet: bool = False
) -> list[Trial]:
    """Run the tests on the library as it is, then on every mutant, and print the results as they come.

    Parameters
    ----------
    workshop
        Where to run them.
    mutants
        The mutants, at least one.
    jobs
        How many to try side by side.
    quiet
        Show no progress bar.

    Returns
    -------
    list of Trial
        In the order of the mutants.

    Raises
    ------
    RedBaselineError
        If a test fails on the library as it is.
    """
    files = sorted({test for mutant in mutants for test in mutant.tests})
    width = max(len("mutant"), *(len(mutant.name) for mutant in mutants))

    def refuse_red(index: int, outcome: Outcome) -> None:
        if outcome.status != "passed":
            raise RedBaselineError(
                f"{files[index]} must pass before any mutant is tried, but {outcome.test} says:\n"
                f"{outcome.message}"
            )

    def show(index: int, outcome: Outcome) -> None:
        caught_by = outcome.test if outcome.status == "failed" else STATUS[outcome.status].upper()
        tqdm.write(f"{mutants[index].name:{width}}  {outcome.seconds:7.1f}  {caught_by}")

    baseline = [partial(workshop.run, [file]) for file in files]
    _side_by_side(workshop, baseline, jobs, refuse_red, "unmutated tests", quiet)
    print(f"{'mutant':{width}}  seconds  caught by", flush=True)
    trials = [partial(workshop.run, mutant.tests, mutant) for mutant in mutants]
    outcomes = _side_by_side(workshop, trials, jobs, show, "mutants", quiet)
    return [Trial(*pair) for pair in zip(mutants, outcomes, strict=True)]


def _side_by_side(
    workshop: Workshop,
    runs: Sequence[Callable[[], Outcome]],
    jobs: int,
    report: Callable[[int, Outcome], None],
    what: str,
    quiet: bool,
) -> list[Outcome]:
    """Do runs, some at a time, and report each as it ends; stop them all if anything goes wrong."""
    outcomes: dict[int, Outcome] = {}
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), desc=what, disable=quiet) as bar:
        futures = {pool.submit(run): index for index, run in enumerate(runs)}
        try:
            for future in as_completed(futures):
                index = futures[future]
                outcomes[index] = future.result()
                report(index, outcomes[index])
                bar.update()
        except BaseException:
            workshop.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [outcomes[index] for index in range(len(runs))]


def listing(mutants: Sequence[Mutant]) -> str:
    """Describe mutants: name, module and trap of each."""
    lines = []
    for mutant in mutants:
        lines += [f"{mutant.name} ({mutant.file})", *_indented(mutant.trap)]
    return "\n".join(lines)


def verdict(trials: Sequence[Trial]) -> str:
    """Sum up trials: what was not caught and should have been, and how many were."""
    lines = []
    for status in ("survived", "broken"):
        for mutant, outcome in (trial for trial in trials if trial.status == status):
            lines += ["", f"{mutant.name} {status} ({mutant.file}; {', '.join(mutant.tests)})"]
            lines += _indented(mutant.trap)
            lines += ["    " + line for line in outcome.message.splitlines()]
    caught = sum(trial.status == "caught" for trial in trials)
    return "\n".join([*lines, "", f"{caught} of {len(trials)} caught"])


def as_json(trials: Sequence[Trial]) -> str:
    """Write trials as a JSON list of objects: the mutant's fields and what became of it."""
    return json.dumps([_record(trial) for trial in trials], indent=2, ensure_ascii=False) + "\n"


def _record(trial: Trial) -> dict[str, Any]:
    mutant, outcome = trial
    return dataclasses.asdict(mutant) | {
        "status": trial.status,
        "caught_by": outcome.test if trial.status == "caught" else None,
        "message": outcome.message,
        "seconds": round(outcome.seconds, 1),
    }


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")


def _parser() -> argparse.ArgumentParser:
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).parents[2]
    parser = argparse.ArgumentParser(
        prog="mutants",
        description="Make the papers' well-known mistakes in copies of the library, one at a time, "
        "and report which test catches each.",
        epilog="Exit status: 0 all caught; 1 some were not; 2 the tests fail without a mutant, or a "
        "mutant no longer fits its module.",
    )
    parser.add_argument("--list", action="store_true", help="describe the mutants and stop")
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="regular expression to find in FILE:NAME; may be repeated",
    )
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="mutants side by side (default: 1)"
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="a mutant whose tests run longer is broken (default: 600)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(checkout),
        metavar="FOLDER",
        help="the checkout whose library to test (default: this one)",
    )
    parser.add_argument(
        "--museum",
        type=Path,
        default=traps.MUSEUM,
        metavar="FOLDER",
        help="where the mutants are described (default: museum/ beside this program)",
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, as after Ctrl-C
    sys.exit(main())
