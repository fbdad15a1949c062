"""How costs grow: training, sampling and exact denoisers of this library. Part e."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping

import torch

from retro_diffusion import oracles, schedules
from retro_diffusion.networks import UNet
from tools.benchmark.contenders import Ours
from tools.benchmark.measuring import Samples, Work, rates, summarise
from tools.benchmark.report import Row, Table
from tools.benchmark.speed import Settings, noise_images


def growth(settings: Settings) -> Iterator[Table]:
    """Time this library alone while one size grows and the others stay: part e.

    Parameters
    ----------
    settings
        What the command line decides.

    Yields
    ------
    Table
        After every round, one for each of the sizes.
    """
    cases = 2 if settings.quick else 5
    for title, works, amounts, unit in (
        _batches(cases),
        _resolutions(cases),
        _widths(cases),
        _evaluations(cases),
        _centres(cases),
    ):
        for samples in settings.rounds(works, f"e: {title}"):
            yield growth_table(title, unit, amounts, samples)


def growth_table(title: str, unit: str, amounts: Mapping[str, float], samples: Samples) -> Table:
    """Tabulate time against a size, and the exponent between neighbours.

    Parameters
    ----------
    title
        Of the table.
    unit
        What an amount counts.
    amounts
        What one call does, by the size, which is a number, in ascending order.
    samples
        By the size.

    Returns
    -------
    Table
        An exponent of 1 means that the seconds per call are proportional to the size.
    """
    rows: list[Row] = []
    before: tuple[float, float] | None = None
    for size, amount in amounts.items():
        seconds = summarise(samples[size])
        exponent = None
        if before is not None:
            exponent = math.log(seconds.median / before[1]) / math.log(float(size) / before[0])
        before = float(size), seconds.median
        rows.append((size, seconds, rates(samples[size], amount), exponent))
    columns = (title.rsplit(" ", 1)[-1], "seconds per call", f"{unit}/s", "exponent")
    return Table(f"Growth: {title}", columns, tuple(rows))


Case = tuple[str, dict[str, Work], dict[str, float], str]


def _trainer(width: int, height: int, batch_size: int) -> Work:
    shape = (1, height, height)
    return Ours(UNet(width=width), shape).trainer(noise_images(shape), batch_size)


def _batches(cases: int) -> Case:
    sizes = (1, 4, 16, 64, 256)[:cases]
    works: dict[str, Work] = {str(n): _trainer(16, 16, n) for n in sizes}
    return (
        "training step, width 16, 16 x 16 pixels, against batch",
        works,
        {str(n): float(n) for n in sizes},
        "images",
    )


def _resolutions(cases: int) -> Case:
    sizes = (8, 16, 32, 48, 64)[:cases]
    works: dict[str, Work] = {str(n): _trainer(16, n, 8) for n in sizes}
    title = "training step, width 16, batch 8, against height"
    return title, works, dict.fromkeys(works, 8.0), "images"


def _widths(cases: int) -> Case:
    sizes = (8, 16, 32, 64, 128)[:cases]
    works: dict[str, Work] = {str(n): _trainer(n, 16, 8) for n in sizes}
    title = "training step, 16 x 16 pixels, batch 8, against width"
    return title, works, dict.fromkeys(works, 8.0), "images"


def _evaluations(cases: int) -> Case:
    sizes = (5, 10, 20, 50, 100)[:cases]
    contender = Ours(UNet(width=16), (1, 8, 8))
    works: dict[str, Work] = {str(n): functools.partial(contender.sample, 64, n) for n in sizes}
    title = "DDIM, width 16, 8 x 8 pixels, 64 samples, against NFE"
    return title, works, dict.fromkeys(works, 64.0), "images"


def _centres(cases: int) -> Case:
    sizes = (100, 300, 1000, 3000, 10_000)[:cases]
    chain, t = schedules.cosine(1000), torch.tensor(300.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, generator=generator)
    works: dict[str, Work] = {}
    for n in sizes:
        means = torch.randn(n, 64, generator=generator)
        oracle = oracles.GaussianMixture(chain, means, stds=0.1)
        works[str(n)] = functools.partial(oracle, x, t)
    title = "exact mixture denoiser, 64 samples of 64 numbers, against centres"
    return title, works, dict.fromkeys(works, 64.0), "samples"
