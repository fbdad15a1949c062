"""Training, sampling, and what they make of the machine: parts a, b and c."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from retro_diffusion.data import Images
from tools.benchmark.contenders import Contender, Shape, flops, parameters
from tools.benchmark.measuring import Clock, Samples, Work, interleaved, rates, ratios
from tools.benchmark.report import OURS, Row, Table, ratio_table

Family = dict[str, Contender]
"""Contenders with networks of one configuration, by name; those of this library begin with `report.OURS`."""

Families = Callable[[Shape], Mapping[str, Family]]
"""Builds all families for a shape of images, by the words that describe the configuration."""

N_STEPS = 20  # of DDIM

GROUPS = {
    "optimiser, average, clipping": ("_foreach", "_fused", "adam", "lerp"),
    "convolution": ("conv",),
    "matrix product, attention": ("mm", "linear", "attention", "softmax", "einsum"),
    "normalisation": ("norm",),
    "activation": ("silu", "gelu", "sigmoid", "relu", "mish", "tanh"),
}
"""Words by which PyTorch's operators are sorted, the first group that fits."""


@dataclass(frozen=True)
class Settings:
    """What the command line decides for all parts.

    Attributes
    ----------
    threads
        Of PyTorch's operators.
    repetitions, seconds
        Rounds, and least time for each contender in each of them.
    clock
        What part a, b, c and e read the time from.
    quick
        Fewer and smaller cases: to see that everything works.
    limit
        Seconds of processor time that a contender may train for in part d.
    seeds
        Trainings of each contender in part d.
    """

    threads: int = 1
    repetitions: int = 7
    seconds: float = 1.0
    clock: Clock = time.perf_counter
    quick: bool = False
    limit: float = 300.0
    seeds: int = 1

    def rounds(self, works: Mapping[str, Work], title: str) -> Iterator[Samples]:
        """Time works as `interleaved` does, by these settings."""
        return interleaved(works, self.repetitions, self.seconds, clock=self.clock, title=title)


def noise_images(shape: Shape, n: int = 256) -> Images:
    """Make images to train on where only the time matters: uniform noise (n, C, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    return Images(2 * torch.rand(n, *shape, generator=generator) - 1, torch.zeros(n).long())


def describe(shape: Shape) -> str:
    """Say a shape in words."""
    channels, height, width = shape
    return f"{height} x {width} pixels, {channels} channel{'s' if channels > 1 else ''}"


def training(settings: Settings, families: Families) -> Iterator[Table]:
    """Time whole training steps: part a.

    Parameters
    ----------
    settings
        What the command line decides.
    families
        Who competes.

    Yields
    ------
    Table
        After every round: images per second, and ratios.
    """
    batch_size = 8 if settings.quick else 32
    for shape in [(1, 28, 28)] if settings.quick else [(1, 28, 28), (3, 32, 32)]:
        images = noise_images(shape)
        for configuration, family in families(shape).items():
            case = f"{describe(shape)}, {configuration}, batch {batch_size}"
            cost = {name: flops(contender)[1] for name, contender in family.items()}
            works = {name: c.trainer(images, batch_size) for name, c in family.items()}
            for samples in settings.rounds(works, "a: training"):
                rows = tuple(
                    _training_row(name, family[name], cost[name], batch_size, samples)
                    for name in family
                )
                columns = ("contender", "parameters", "GFLOP/image", "images/s", "GFLOP/s")
                yield Table(f"Training: {case}", columns, rows, _STEP)
                title = f"Training, ratios: {case}"
                yield ratio_table(title, samples, *_sides(family), cost)


_STEP = (
    "A step draws data, t and noise, and does the loss, its gradient, the clipping, the optimiser and the "
    "moving average (diffusers' and smalldiffusion's loops have none; the latter does not clip)."
)


def _training_row(
    name: str, contender: Contender, cost: float, batch_size: int, samples: Samples
) -> Row:
    speed = rates(samples[name], batch_size)
    rate = rates(samples[name], batch_size * cost / 1e9)
    return name, parameters(contender.network), cost / 1e9, speed, rate


def _sides(family: Family) -> tuple[list[str], list[str]]:
    return (
        [name for name in family if name.startswith(OURS)],
        [name for name in family if not name.startswith(OURS)],
    )


def sampling(settings: Settings, families: Families) -> Iterator[Table]:
    """Time DDIM with 20 steps, and our sampler against the bare network: part b.

    Parameters
    ----------
    settings
        What the command line decides.
    families
        Who competes.

    Yields
    ------
    Table
        After every round: images per second, ratios, and the sampler's overhead.
    """
    shape = (1, 28, 28)
    for configuration, family in families(shape).items():
        for batch_size in (1, 8) if settings.quick else (1, 8, 64):
            case = f"{describe(shape)}, {configuration}, batch {batch_size}"
            works: dict[str, Work] = {
                name: functools.partial(contender.sample, batch_size, N_STEPS)
                for name, contender in family.items()
            }
            first = next(iter(family))
            works[BARE] = bare(family[first], batch_size, N_STEPS)
            for samples in settings.rounds(works, "b: sampling"):
                rows = tuple((name, rates(samples[name], batch_size)) for name in works)
                yield Table(f"DDIM-{N_STEPS}: {case}", ("contender", "images/s"), rows, _BARE)
                yield ratio_table(f"DDIM-{N_STEPS}, ratios: {case}", samples, *_sides(family))
                overhead = ratios(samples[BARE], samples[first])
                yield Table(
                    f"Sampler over bare network: {case}",
                    ("sampler", "time over the network's alone"),
                    ((first, overhead),),
                )


BARE = "bare network calls"
_BARE = (
    f"'{BARE}' are those that the first contender's sampler makes, {N_STEPS} on one and the same input, "
    "without any of the sampler's arithmetic and checks."
)


def bare(contender: Contender, batch_size: int, n_calls: int) -> Work:
    """Return a work that only calls a contender's network, as often as a sampler would."""
    x, u = torch.randn(batch_size, *contender.shape), torch.full((batch_size,), 0.5)

    @torch.no_grad()
    def work() -> None:
        contender.network.eval()
        for _ in range(n_calls):
            contender.call(x, u)

    return work


def efficiency(settings: Settings, families: Families) -> Iterator[Table]:
    """Compare the networks' arithmetic with the machine's, and say where the time goes: part c.

    Parameters
    ----------
    settings
        What the command line decides.
    families
        Who competes.

    Yields
    ------
    Table
        Peaks; per network the share of them; shares of a training step's time.
    """
    shape, batch_size = (1, 28, 28), 8 if settings.quick else 32
    peaks: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        works, cost = peak_works(dtype, 512 if settings.quick else 1024)
        rows: tuple[Row, ...] = ()
        for samples in settings.rounds(works, "c: peak"):
            rows = tuple((name, rates(samples[name], cost[name] / 1e9)) for name in works)
            peaks[dtype] = max(rates(samples[name], cost[name] / 1e9).median for name in works)
            yield Table(f"Measured peak, {_short(dtype)}", ("operation", "GFLOP/s"), rows)
    for configuration, family in families(shape).items():
        case = f"{describe(shape)}, {configuration}, batch {batch_size}"
        yield from _shares_of_peak(settings, case, family, batch_size, peaks)
        yield _where_time_goes(case, family, batch_size)


def peak_works(dtype: torch.dtype, size: int) -> tuple[dict[str, Work], dict[str, float]]:
    """Return the operations that define the machine's peak, and what each costs in FLOPs.

    Parameters
    ----------
    dtype
        Of the numbers.
    size
        Rows and columns of the matrices.

    Returns
    -------
    tuple of dict
        Works and costs, by name: a product of square matrices, and 3 x 3 convolutions in both layouts.
    """
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    works: dict[str, Work] = {f"product of {size} x {size} matrices": lambda: a @ b}
    cost = {next(iter(works)): 2.0 * size**3}
    for channels, height in ((64, 28), (128, 14)):
        weight = torch.randn(channels, channels, 3, 3).to(dtype)
        x = torch.randn(32, channels, height, height).to(dtype)
        for layout in (torch.contiguous_format, torch.channels_last):
            kind = "NCHW" if layout == torch.contiguous_format else "NHWC"
            name = f"3 x 3 convolution, {channels} channels, {height} x {height}, {kind}"
            works[name] = _convolution(x.to(memory_format=layout), weight.to(memory_format=layout))
            cost[name] = 2.0 * 9 * channels**2 * height**2 * len(x)
    return works, cost


def _convolution(x: Tensor, weight: Tensor) -> Work:
    return lambda: functional.conv2d(x, weight, padding=1)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shares_of_peak(
    settings: Settings,
    case: str,
    family: Family,
    batch_size: int,
    peaks: Mapping[torch.dtype, float],
) -> Iterator[Table]:
    """Time the networks alone, forward, and forward with gradient."""
    cost = {name: flops(contender) for name, contender in family.items()}
    works: dict[str, Work] = {}
    for name, contender in family.items():
        works[name] = bare(contender, batch_size, 1)
        works[f"{name}, gradient"] = _gradient(contender, batch_size)
    for samples in settings.rounds(works, "c: networks"):
        rows: list[Row] = []
        for name, contender in family.items():
            forward = rates(samples[name], batch_size * cost[name][0] / 1e9)
            both = rates(samples[f"{name}, gradient"], batch_size * cost[name][1] / 1e9)
            peak = peaks[contender.dtype]
            rows.append((name, forward, forward.median / peak, both, both.median / peak))
        yield Table(
            f"Share of the peak: {case}",
            ("network", "forward, GFLOP/s", "of peak", "with gradient, GFLOP/s", "of peak"),
            tuple(rows),
            "The peak is the fastest of the operations measured in the same type.",
        )


def _gradient(contender: Contender, batch_size: int) -> Work:
    x, u = torch.randn(batch_size, *contender.shape), torch.full((batch_size,), 0.5)

    def work() -> None:
        contender.network.train()
        contender.call(x, u).float().square().mean().backward()
        contender.network.zero_grad(set_to_none=True)

    return work


def _where_time_goes(case: str, family: Family, batch_size: int) -> Table:
    """Profile three training steps of each contender."""
    images = noise_images((1, 28, 28))
    rows: list[Row] = []
    for name, contender in family.items():
        step = contender.trainer(images, batch_size)
        step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(3):
                step()
        times = {event.key: float(event.self_cpu_time_total) for event in profiler.key_averages()}
        rows.append((name, *grouped(times).values()))
    return Table(
        f"Share of a training step's time: {case}",
        ("contender", *GROUPS, "other"),
        tuple(rows),
        "By PyTorch's profiler, which slows small operators down. A normalisation that is written out in "
        "elementary operators counts as other.",
    )


def grouped(times: Mapping[str, float]) -> dict[str, float]:
    """Add operators' times up by group.

    Parameters
    ----------
    times
        By the operator's name.

    Returns
    -------
    dict
        Shares by `GROUPS` and "other", which add up to 1.
    """
    shares = dict.fromkeys((*GROUPS, "other"), 0.0)
    total = sum(times.values()) or 1.0
    for operator, spent in times.items():
        name = operator.lower()
        fits = (g for g, words in GROUPS.items() if any(word in name for word in words))
        shares[next(fits, "other")] += spent / total
    return shares
