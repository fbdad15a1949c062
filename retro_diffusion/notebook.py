"""What the cells of every notebook share: a start and a finish, figures with alt text, claims.

A notebook's first code cell calls `start`, its last calls `Run.finish`. In between, `show` displays
figures and `claims_table` sets the papers' numbers beside ours (`retro_diffusion.claims`).
"""

from __future__ import annotations

import base64
import io
import math
import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from retro_diffusion import __version__, plotting
from retro_diffusion.claims import Claim, ClaimTable, check, claims_table

Profile = Literal["fast", "full"]
T = TypeVar("T")

__all__ = [
    "Claim",
    "ClaimTable",
    "Interval",
    "Run",
    "check",
    "claims_table",
    "mean_interval",
    "show",
    "start",
]

WALL_TIME = "@wall-time@"
"""Stands for the wall time while outputs are rendered; the renderer puts a round number there."""


# ---- start and finish ------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The settings that one run of a notebook goes by, made by `start`."""

    profile: Profile
    seed: int
    threads: int
    device: torch.device
    started: float = field(repr=False)

    def pick(self, *, fast: T, full: T) -> T:
        """Return ``fast`` in the fast profile (a test of the notebook) and ``full`` otherwise."""
        return fast if self.profile == "fast" else full

    def generator(self, offset: int = 0) -> torch.Generator:
        """Return a new random generator; the same seed and offset give the same numbers."""
        return torch.Generator(self.device).manual_seed(1_000_003 * self.seed + offset)

    def finish(self) -> None:
        """Print the wall time since `start`; call it in the last cell."""
        seconds = time.perf_counter() - self.started
        rendering = os.environ.get("RETRO_RENDER") == "1"
        spent = WALL_TIME if rendering else f"about {seconds:.2g} s"
        print(f"Wall time: {spent} on {_count(self.threads, 'thread')} ({self.profile} profile).")


def start(seed: int = 0) -> Run:
    """Set the plot style, the threads and the seeds, and print one line that says so.

    The environment may choose otherwise: ``RETRO_PROFILE`` (fast or full), ``RETRO_THREADS`` and
    ``RETRO_DEVICE``. Without it a notebook takes the full profile, at most two threads and the CPU,
    as its stored outputs did.

    Parameters
    ----------
    seed
        Seeds Python's, NumPy's and PyTorch's global generators and those of `Run.generator`.

    Returns
    -------
    Run
        The settings, for the cells that follow.

    Raises
    ------
    ValueError
        If one of the three variables holds something else.
    """
    run = Run(_profile(), seed, _threads(), _device(), started=time.perf_counter())
    torch.set_num_threads(run.threads)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    plotting.use_style()
    version = torch.__version__.split("+")[0]
    place = f"{run.device}, {_count(run.threads, 'thread')}"
    print(
        f"Retro Diffusion {__version__} | torch {version} | {place} | seed {seed} | "
        f"{run.profile} profile"
    )
    return run


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _profile() -> Profile:
    profiles: dict[str, Profile] = {"fast": "fast", "full": "full"}
    value = os.environ.get("RETRO_PROFILE") or "full"
    if value not in profiles:
        raise ValueError(f"RETRO_PROFILE must be fast or full, not {value!r}.")
    return profiles[value]


def _threads() -> int:
    value = os.environ.get("RETRO_THREADS") or str(min(2, os.cpu_count() or 1))
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError(f"RETRO_THREADS must be a positive whole number, not {value!r}.")
    return int(value)


def _device() -> torch.device:
    value = os.environ.get("RETRO_DEVICE") or "cpu"
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"RETRO_DEVICE={value} cannot be used on this machine.") from error
    return device


# ---- figures ---------------------------------------------------------------


def show(figure: Figure, *, alt: str, colors: int = 128) -> None:
    """Display a figure as one small PNG with alt text, and close it.

    Parameters
    ----------
    figure
        A Matplotlib figure. Inches decide its size on the page: 100 pixels each.
    alt
        What a reader who does not see the figure should know: what is drawn, and what it shows.
    colors
        Size of the PNG's palette, 2 to 256.

    Raises
    ------
    ValueError
        If ``alt`` is empty.
    """
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError("A figure needs alt text: show(figure, alt='what is drawn and shown').")
    png, inches = _small_png(figure, colors)
    plt.close(figure)
    display(
        {"image/png": base64.b64encode(png).decode(), "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"alt": alt, "width": round(100 * inches)}},
        raw=True,
    )


def _small_png(figure: Figure, colors: int) -> tuple[bytes, float]:
    """Return the figure as a palette PNG, cropped to its content, and its width in inches."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi, bbox_inches="tight", facecolor="white")
    image = Image.open(drawn).convert("RGB")
    # Maximum coverage keeps a thin line's rare colour; two rounds of k-means smooth the gradients.
    palette = image.quantize(colors, Image.Quantize.MAXCOVERAGE, 2, dither=Image.Dither.NONE)
    palette.save(packed, format="PNG", optimize=True)
    return packed.getvalue(), image.width / figure.dpi


# ---- intervals -------------------------------------------------------------


class Interval(NamedTuple):
    """A mean and the half-width of its confidence interval; ``f"{interval:.2f}"`` formats both."""

    mean: float
    half_width: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        return f"{self.mean:{spec}} ± {self.half_width:{spec}}"

    def __str__(self) -> str:
        return format(self)


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent runs and its Student-t interval.

    Parameters
    ----------
    values
        One number per seed, two at least. Three seeds give a wide interval, and honestly so.
    confidence
        Probability that the interval covers the true mean if the numbers are normal.

    Returns
    -------
    Interval
        The mean and the half-width.

    Raises
    ------
    ValueError
        If there are fewer than two values, or one is not finite.
    """
    numbers = [float(v) for v in values]
    n = len(numbers)
    if n < 2:
        raise ValueError(f"An interval needs two values or more, not {n}.")
    if not all(math.isfinite(v) for v in numbers):
        raise ValueError("An interval needs finite values.")
    if not 0 < confidence < 1:
        raise ValueError(f"Confidence lies between 0 and 1, not at {confidence}.")
    mean = math.fsum(numbers) / n
    variance = math.fsum((v - mean) ** 2 for v in numbers) / (n - 1)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, n - 1))
    return Interval(mean, quantile * math.sqrt(variance / n))
