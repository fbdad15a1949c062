"""Fair timing in one process: interleaved rounds, medians with quartiles, ratios of neighbours."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tqdm import tqdm

Work = Callable[[], object]
"""A piece of work to time: it is called again and again, and must do the same each time."""


class Summary(NamedTuple):
    """Median of repeated measurements, and their lower and upper quartile."""

    median: float
    low: float
    high: float
    n: int


Clock = Callable[[], float]
"""Seconds since some moment: `time.perf_counter`, or `time.process_time` for all threads' time together."""

Samples = dict[str, list[float]]
"""By name, the seconds that one call took in each round."""


def summarise(values: Sequence[float]) -> Summary:
    """Summarise measurements.

    Parameters
    ----------
    values
        At least one number.

    Returns
    -------
    Summary
        Quartiles are interpolated linearly and lie within the values.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if not values:
        raise ValueError("there is nothing to summarise: no round was completed")
    if len(values) == 1:
        return Summary(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, low, high, len(values))


def rates(samples: Sequence[float], amount: float) -> Summary:
    """Summarise ``amount`` per second, where ``amount`` is what one call does."""
    return summarise([amount / seconds for seconds in samples])


def ratios(
    samples: Sequence[float], baseline: Sequence[float], amount: float = 1.0, of: float = 1.0
) -> Summary:
    """Summarise how many times faster a work is than a baseline, round by round.

    Both were timed within seconds of each other in each round, so that whatever else the machine was
    doing, and its changing clock, mostly cancel.

    Parameters
    ----------
    samples, baseline
        Seconds per call in the same rounds.
    amount, of
        What one call of the work and one of the baseline does, in any common unit.

    Returns
    -------
    Summary
        Above 1 where the work is faster.
    """
    pairs = zip(samples, baseline, strict=True)
    return summarise([amount / seconds / (of / base) for seconds, base in pairs])


def timed(work: Work, seconds: float, clock: Clock = time.perf_counter) -> float:
    """Call a work until some time has passed, at least once.

    Parameters
    ----------
    work
        What to call.
    seconds
        Time to fill.
    clock
        What to read the time from.

    Returns
    -------
    float
        Mean seconds per call.
    """
    calls, start = 0, clock()
    while not calls or clock() - start < seconds:
        work()
        calls += 1
    return (clock() - start) / calls


def interleaved(
    works: Mapping[str, Work],
    repetitions: int,
    seconds: float,
    *,
    clock: Clock = time.perf_counter,
    title: str = "",
) -> Iterator[Samples]:
    """Time works in turn, round after round, each round beginning with another of them.

    Before the first round each work is called twice, which is not timed: the first calls allocate
    memory and choose kernels. Leaving the loop early, with Ctrl-C for instance, loses only the round
    that was not complete.

    Parameters
    ----------
    works
        By name.
    repetitions
        Number of rounds, at least 1.
    seconds
        Least time for each work in each round.
    clock
        What to read the time from.
    title
        What the progress bar says.

    Yields
    ------
    Samples
        All samples so far, after each round.

    Raises
    ------
    ValueError
        If there are no works or no rounds.
    """
    if not works or repetitions < 1:
        raise ValueError(f"got {len(works)} works and {repetitions} rounds: both must be positive")
    names = list(works)
    samples: Samples = {name: [] for name in names}
    with tqdm(total=(repetitions + 1) * len(names), desc=title, leave=False) as bar:
        for name in names:
            bar.set_postfix_str(f"warm-up, {name}")
            works[name]()
            works[name]()
            bar.update()
        for k in range(repetitions):
            new = {}
            for name in rotated(names, k):
                bar.set_postfix_str(name)
                new[name] = timed(works[name], seconds, clock)
                bar.update()
            for name, spent in new.items():
                samples[name].append(spent)
            yield {name: list(of_name) for name, of_name in samples.items()}


def rotated(names: Sequence[str], k: int) -> list[str]:
    """Return the names in order, beginning with the k-th, counted round and round."""
    k %= len(names)
    return [*names[k:], *names[:k]]
