"""Equal quality: how few evaluations give samples as good as those of the whole chain. Part f."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from retro_diffusion import samplers, schedules, times
from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.parameterizations import predict_eps
from retro_diffusion.schedules import TabulatedSchedule
from tools import digits_ddpm
from tools.benchmark.measuring import Summary, summarise
from tools.benchmark.quality import Judge
from tools.benchmark.report import Row, Table
from tools.benchmark.speed import Settings

WITHIN = 1.05  # times the distance of the whole chain: as good
EVALUATIONS = (5, 8, 10, 12, 15, 20, 30, 50)

Sampler = Callable[..., Iterator[samplers.State]]
Walk = Callable[[int], Tensor]
"""Draws a batch of samples from a seed."""


def walks(denoiser: Denoiser, n: int, chain: int) -> dict[str, tuple[int, Walk]]:
    """Return who is compared: evaluations and walk by name, ancestral sampling of the chain first.

    Parameters
    ----------
    denoiser
        On a chain, of ten classes.
    n
        Samples of a walk.
    chain
        Steps of the reference.

    Returns
    -------
    dict
        All draw from noise of the same seed. Guesses are clipped to the range of the data, as in
        notebook 05: where alpha is nearly 0, a small error of eps is a large one of the image.
    """
    clipped, schedule, labels = Clipped(denoiser), denoiser.schedule, torch.arange(n) % 10
    assert isinstance(schedule, TabulatedSchedule)

    def walk(sampler: Sampler, steps: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = samplers.starting_noise(schedule, (n, 1, 8, 8), generator=generator)
        own = {"generator": generator} if sampler is samplers.ancestral else {}
        return samplers.last(
            sampler(clipped, noise, times.trailing(schedule, steps), labels, **own)
        )

    short: dict[str, Sampler] = {
        "ancestral": samplers.ancestral,
        "DDIM": samplers.ddim,
        "DPM-Solver++(2M)": samplers.dpm_solver_pp_2m,
    }
    return {
        f"ancestral, {chain}": (chain, functools.partial(walk, samplers.ancestral, chain)),
        **{
            f"{name}, {steps}": (steps, functools.partial(walk, sampler, steps))
            for name, sampler in short.items()
            for steps in EVALUATIONS
        },
    }


def equal_quality(settings: Settings, judge: Callable[[], Judge]) -> Iterator[Table]:
    """Score samplers of one network, and time them: part f.

    Parameters
    ----------
    settings
        What the command line decides.
    judge
        Makes the judge of the digits.

    Yields
    ------
    Table
        When all are measured.
    """
    judged = judge()
    n_steps = 60 if settings.quick else 1000
    denoiser = digits_ddpm.trained(
        judged.train, schedules.cosine(), predict_eps, n_steps=n_steps, n_warmup=n_steps // 10
    )
    everyone = walks(denoiser, judged.n, 50 if settings.quick else 1000)
    seeds = range(1 if settings.quick else 4)
    scores: dict[str, list[float]] = {name: [] for name in everyone}
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    pairs = [(seed, name) for seed in seeds for name in everyone]
    for seed, name in tqdm(pairs, desc="f: equal quality", leave=False):
        start = settings.clock()
        samples = everyone[name][1](seed)
        seconds[name].append(settings.clock() - start)
        scores[name].append(judged.score(samples))
    yield table(
        judged.n,
        {name: evaluations for name, (evaluations, _) in everyone.items()},
        {name: summarise(values) for name, values in scores.items()},
        {name: summarise(values) for name, values in seconds.items()},
    )


def table(
    n: int,
    evaluations: Mapping[str, int],
    scores: Mapping[str, Summary],
    seconds: Mapping[str, Summary],
) -> Table:
    """Tabulate quality and time against the first of them.

    Parameters
    ----------
    n
        Samples of a walk.
    evaluations, scores, seconds
        By name; the first is the reference.

    Returns
    -------
    Table
        Whether a median score is at most `WITHIN` times that of the reference, and how much faster it came.
    """
    first = next(iter(evaluations))
    good = {name: scores[name].median <= WITHIN * scores[first].median for name in evaluations}
    rows: list[Row] = [
        (
            name,
            evaluations[name],
            scores[name],
            seconds[name],
            seconds[first].median / seconds[name].median,
            "yes" if good[name] else "no",
        )
        for name in evaluations
    ]
    return Table(
        "Equal quality: digits",
        ("sampler", "evaluations", "floors", "seconds", "times as fast", "as good"),
        tuple(rows),
        f"{n} samples of one network, from the same noise; the Frechet distance to as many unseen images in "
        f'units of its floor. "As good" is at most {WITHIN} times the distance of {first} steps.',
    )
