"""What the cells of every notebook share: a start and a finish, figures with alt text, claims.

A notebook's first code cell calls `start`, its last calls `Run.finish`. In between, `show` displays
figures and `claims_table` sets the papers' numbers beside ours.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, get_args

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from retro_diffusion import __version__, plotting

Profile = Literal["fast", "full"]
Grade = Literal["EXACT", "ROBUST", "FRAGILE"]
T = TypeVar("T")

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


# ---- claims ----------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with its number, ours and a verdict.

    Attributes
    ----------
    statement
        The claim in a sentence.
    paper
        The paper's number with its source and data set, such as ``"FID 3.17, CIFAR-10 (Table 1)"``.
    ours
        Our number, with its interval where it is random.
    grade
        EXACT: a closed form, no training. ROBUST: random or trained, but a large effect. FRAGILE:
        may not survive the scale of a laptop, so a failure is reported and stops nothing.
    passed
        Whether our number supports the claim.
    note
        Anything a reader must know to compare the two numbers.
    """

    statement: str
    paper: str
    ours: str
    grade: Grade
    passed: bool
    note: str = ""

    def __post_init__(self) -> None:
        if self.grade not in get_args(Grade):
            raise ValueError(f"A grade is EXACT, ROBUST or FRAGILE, not {self.grade!r}.")
        if not self.statement.strip():
            raise ValueError("A claim needs a statement.")
        object.__setattr__(self, "passed", bool(self.passed))  # NumPy and torch have their own

    @property
    def verdict(self) -> str:
        """What the table says: supported, or NOT SUPPORTED AT THIS SCALE."""
        return "supported" if self.passed else "NOT SUPPORTED AT THIS SCALE"


_COLUMNS = ("Claim", "Paper", "Ours", "Grade", "Verdict")
_CELL = "text-align:left;vertical-align:top;padding:0.4em 0.8em;white-space:normal"


@dataclass(frozen=True)
class ClaimTable:
    """Claims as a table: HTML in a notebook, plain text elsewhere."""

    claims: tuple[Claim, ...]

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __repr__(self) -> str:
        return "\n\n".join(_plain(claim) for claim in self.claims)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in _COLUMNS)
        rows = "\n".join(_row(claim) for claim in self.claims)
        return (
            '<table style="border-collapse:collapse">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
        )


def claims_table(claims: Iterable[Claim]) -> ClaimTable:
    """Return the claims as a table to end a cell with."""
    table = ClaimTable(tuple(claims))
    if not table.claims:
        raise ValueError("A claims table needs at least one claim.")
    return table


def check(claims: Iterable[Claim]) -> None:
    """Raise AssertionError if an EXACT or ROBUST claim fails; a FRAGILE one never raises."""
    failed = [c for c in claims if not c.passed and c.grade != "FRAGILE"]
    if failed:
        listing = "; ".join(f"[{c.grade}] {c.statement} (ours: {c.ours})" for c in failed)
        raise AssertionError(f"{_count(len(failed), 'claim')} failed that must hold: {listing}")


def _plain(claim: Claim) -> str:
    lines = [
        f"[{claim.grade}] {claim.statement}",
        f"  paper:   {claim.paper}",
        f"  ours:    {claim.ours}",
        f"  verdict: {claim.verdict}",
    ]
    return "\n".join(lines + ([f"  note:    {claim.note}"] if claim.note else []))


def _row(claim: Claim) -> str:
    statement = html.escape(claim.statement)
    if claim.note:
        statement += f"<br><small>{html.escape(claim.note)}</small>"
    # The verdict is told by its words, a mark and weight; colour only repeats it. Blue and orange
    # stay apart for colour-blind readers, and the text keeps the colour of the reader's theme.
    mark, weight, color = ("✓", "normal", "#0072b2") if claim.passed else ("✗", "bold", "#d55e00")
    verdict = f"{mark} {html.escape(claim.verdict)}"
    cells = [statement, html.escape(claim.paper), html.escape(claim.ours), claim.grade]
    columns = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    style = f"{_CELL};font-weight:{weight};border-left:4px solid {color}"
    return f'<tr>{columns}<td style="{style}">{verdict}</td></tr>'
