"""Figures in one style: sample grids, trajectories, schedules, densities, errors, losses.

Each function returns a closed `matplotlib.figure.Figure`: a notebook shows it once when it is the value
of a cell, ``figure.savefig`` writes it, and nothing piles up in memory. Tensors may live on any device.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette, told apart with every common colour vision; black softened, yellow last.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#333333",
    "#F0E442",
)
INK, FAINT = "#333333", "#B8B8B8"
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "retro_sequential", matplotlib.colormaps["BuPu"](np.linspace(0.0, 0.95, 64)), N=48
)  # a light page to dark ink; few levels keep files small
DIVERGING = "RdBu_r"
WIDTH = 7.0  # inches, the widest figure

STYLE: dict[Any, Any] = {  # keys of matplotlib.rcParams
    "figure.dpi": 150,  # shown at 100 pixels an inch, sharp on dense screens
    "savefig.dpi": 150,
    "figure.figsize": (4.6, 3.0),
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}

P = ParamSpec("P")


class Schedule(Protocol):
    """What `schedule_plot` asks of a schedule."""

    @property
    def t_min(self) -> float:
        """Time of the data."""

    @property
    def t_max(self) -> float:
        """Time of the noise."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient."""

    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient."""

    def logsnr(self, t: Tensor) -> Tensor:
        """Logarithm of ``alpha^2 / sigma^2``."""


def use_style() -> None:
    """Make the project's style that of all further figures, those drawn by hand included."""
    matplotlib.rcParams.update(STYLE)


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the project's style, whatever is set outside, and close the figure for pyplot."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return styled


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.detach().double().cpu().numpy()
    return array


def _check_points(points: Tensor, name: str = "points") -> np.ndarray:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} must have shape (N, 2), got {tuple(points.shape)}")
    return _array(points)


def _pixels(images: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] to (N, H, W, 3) in [0, 1]."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images must have shape (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}"
        )
    unit = (_array(images).clip(-1, 1) + 1) / 2
    return np.broadcast_to(unit, (len(unit), 3, *unit.shape[2:])).transpose(0, 2, 3, 1)


def _mosaic(pixels: np.ndarray, n_cols: int) -> tuple[np.ndarray, int, int]:
    """Lay images out row by row on white, a thin gap apart; also the pitch down and across."""
    n, height, width, _ = pixels.shape
    n_rows, gap = math.ceil(n / n_cols), max(1, round(height / 14))
    down, across = height + gap, width + gap
    canvas = np.ones((n_rows * down - gap, n_cols * across - gap, 3))
    for i, image in enumerate(pixels):
        top, left = (i // n_cols) * down, (i % n_cols) * across
        canvas[top : top + height, left : left + width] = image
    return canvas, down, across


def _square(axes: Axes, limit: float) -> None:
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)


def _limit(*clouds: np.ndarray) -> float:
    """Half width of a square that holds nearly all points."""
    finite = [cloud[np.isfinite(cloud)] for cloud in clouds]
    return max(1.1 * max(float(np.quantile(np.abs(c), 0.998)) for c in finite if c.size), 1e-3)


@_styled
def sample_grid(
    images: Tensor,
    n_cols: int = 10,
    *,
    labels: Sequence[object] | None = None,
    title: str | None = None,
) -> Figure:
    """Lay images out in a grid, row by row.

    Parameters
    ----------
    images : Tensor, (N, 1, H, W) or (N, 3, H, W)
        Pixels; values outside [-1, 1] are clipped for display.
    n_cols : int
        Images per row.
    labels : sequence, optional
        What to write below each image.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        At most 7 inches wide.

    Raises
    ------
    ValueError
        If images have another shape, ``n_cols`` is less than 1, or labels are not one per image.
    """
    pixels = _pixels(images)
    if n_cols < 1:
        raise ValueError(f"n_cols must be at least 1, got {n_cols}")
    if labels is not None and len(labels) != len(pixels):
        raise ValueError(
            f"labels must be one per image, got {len(labels)} for {len(pixels)} images"
        )
    n_cols = min(n_cols, len(pixels))
    height, width = pixels.shape[1:3]
    if labels is not None:  # room below each image
        room = np.ones((len(pixels), math.ceil(height * 0.22), width, 3))
        pixels = np.concatenate([pixels, room], axis=1)
    canvas, down, across = _mosaic(pixels, n_cols)
    figure_width = min(WIDTH, 0.66 * n_cols + 0.1)
    shape = (figure_width, figure_width * canvas.shape[0] / canvas.shape[1] + 0.3 * bool(title))
    figure, axes = plt.subplots(figsize=shape, layout="constrained")
    axes.imshow(canvas)
    axes.axis("off")
    for i, label in enumerate(labels or ()):
        x, y = (i % n_cols) * across + width / 2 - 0.5, (i // n_cols) * down + height
        axes.text(x, y, str(label), ha="center", va="top", fontsize=7.5)
    axes.set_title(title or "")
    return figure


@_styled
def trajectory_strip(
    states: Sequence[Any],
    times: Sequence[float] | None = None,
    *,
    n_cols: int = 8,
    n_rows: int = 4,
    title: str | None = None,
) -> Figure:
    """Show a sampler's way from noise to data: time runs along the columns.

    Images give one row per sample; planar points give one row of clouds.

    Parameters
    ----------
    states : sequence
        Tensors ``x`` of shape (N, C, H, W) or (N, 2), or a sampler's states with fields ``t`` and ``x``.
    times : sequence of float, optional
        Time of each state, to head the columns; taken from the states if they carry it.
    n_cols : int
        Columns, at least 2; evenly spaced states are picked, first and last among them.
    n_rows : int
        Samples to show, for images.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        7 inches wide.

    Raises
    ------
    ValueError
        If there are no states, their shape is neither, or times are not one per state.
    """
    if not states or n_cols < 2 or n_rows < 1:
        raise ValueError(
            "a trajectory needs a state, n_cols of at least 2 and n_rows of at least 1"
        )
    if times is not None and len(times) != len(states):
        raise ValueError(f"times must be one per state, got {len(times)} for {len(states)} states")
    picked = np.unique(np.linspace(0, len(states) - 1, n_cols).round().astype(int))
    heads = [_time(states[i], None if times is None else times[i]) for i in picked]
    tensors = [getattr(states[i], "x", states[i]) for i in picked]
    if tensors[0].ndim == 4:
        return _image_strip(tensors, heads, n_rows, title)
    return _cloud_strip(tensors, heads, title)


def _time(state: Any, time: float | None) -> str:
    if time is None and isinstance(state, Tensor):
        return ""
    t = float(state.t if time is None else time)
    return f"$t$ = {float(format(t, '.3g')):g}"  # 1000, not 1e+03


def _image_strip(
    tensors: Sequence[Tensor], heads: Sequence[str], n_rows: int, title: str | None
) -> Figure:
    n_rows, n_cols = min(n_rows, len(tensors[0])), len(tensors)
    by_row = torch.stack([x[:n_rows] for x in tensors], dim=1).flatten(0, 1)
    canvas, _, across = _mosaic(_pixels(by_row), n_cols)
    height = WIDTH * canvas.shape[0] / canvas.shape[1] + 0.25 + 0.25 * bool(title)
    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    axes.imshow(canvas)
    axes.axis("off")
    for i, head in enumerate(heads):
        x = i * across + by_row.shape[-1] / 2 - 0.5
        axes.annotate(head, (x, -0.5), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _cloud_strip(tensors: Sequence[Tensor], heads: Sequence[str], title: str | None) -> Figure:
    clouds = [_check_points(x, "states") for x in tensors]
    limit = _limit(*clouds)
    height = WIDTH / len(clouds) + 0.25 + 0.25 * bool(title)
    figure, row = plt.subplots(
        1, len(clouds), figsize=(WIDTH, height), layout="constrained", squeeze=False
    )
    for axes, cloud, head in zip(row[0], clouds, heads, strict=True):
        _dots(axes, cloud, PALETTE[0])
        _square(axes, limit)
        axes.set_title(head, fontsize=8, loc="center")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _dots(axes: Axes, cloud: np.ndarray, color: str, **options: Any) -> None:
    """Small dots, fainter the more there are; drawn as an image, which keeps vector files small."""
    alpha = float(np.clip(40 / math.sqrt(len(cloud) + 1), 0.12, 0.8))
    x, y = cloud.T
    axes.scatter(x, y, s=3.5, alpha=alpha, color=color, linewidths=0, rasterized=True, **options)


@_styled
def schedule_plot(schedules: Mapping[str, Schedule], *, n_points: int = 257) -> Figure:
    """Compare schedules: signal and noise coefficients and log signal-to-noise ratio.

    The horizontal axis is the share of the way from ``t_min`` (data) to ``t_max`` (noise), as schedules
    count time in units of their own. The panel of sigma turns logarithmic if one exceeds 2.

    Parameters
    ----------
    schedules : mapping
        Schedules by name; see `Schedule`. They are called on float64 times of shape (n_points,).
    n_points : int
        Number of times. Infinite values are left out.

    Returns
    -------
    Figure
        7 inches wide.

    Raises
    ------
    ValueError
        If there is no schedule.
    """
    if not schedules:
        raise ValueError("schedule_plot needs at least one schedule")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(WIDTH, 2.6), layout="constrained")
    share = torch.linspace(0, 1, n_points, dtype=torch.float64)
    largest = 0.0
    for name, schedule in schedules.items():
        t = schedule.t_min + share * (schedule.t_max - schedule.t_min)
        curves = (schedule.alpha(t), schedule.sigma(t), schedule.logsnr(t))
        for axes, curve in zip((left, middle, right), curves, strict=True):
            values = _array(curve)
            axes.plot(_array(share), np.where(np.isfinite(values), values, np.nan), label=name)
        largest = max(largest, curves[1].max().item())
    if largest > 2:
        middle.set_yscale("log")
    left.set_title(r"signal $\alpha_t$")
    middle.set_title(r"noise $\sigma_t$")
    right.set_title(r"log SNR $\lambda_t$")
    for axes in (left, middle, right):
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["data", "", "noise"])
    left.set_ylim(bottom=min(0.0, left.get_ylim()[0]))
    _legend_below(figure, left)
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5))


@_styled
def density_field(
    log_prob: Callable[[Tensor], Tensor] | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    *,
    limit: float = 2.5,
    n_points: int = 200,
    n_arrows: int = 19,
    samples: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a planar density as filled colour and a score field as arrows over it.

    Arrow lengths grow as the square root of the score's, so that far and near can both be read.

    Parameters
    ----------
    log_prob : callable, optional
        Maps points (N, 2), float32, to log-densities (N,); they need not be normalised.
    score : callable, optional
        Maps points (N, 2), float32, to vectors (N, 2), for instance gradients of the log-density.
    limit : float
        Half width of the square that is shown.
    n_points : int
        Resolution of the density along each side.
    n_arrows : int
        Number of arrows along each side.
    samples : Tensor, (N, 2), optional
        Points to draw on top.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        About 3.6 inches square.

    Raises
    ------
    ValueError
        If neither function is given, or one returns another shape.
    """
    if log_prob is None and score is None:
        raise ValueError("density_field needs log_prob, score or both")
    figure, axes = plt.subplots(figsize=(3.6, 3.6 + 0.25 * bool(title)), layout="constrained")
    if log_prob is not None:
        values = log_prob(_lattice(limit, n_points)).detach()
        if values.shape != (n_points**2,):
            raise ValueError(f"log_prob must map (N, 2) to (N,), got {tuple(values.shape)}")
        density = _array((values - values.max()).exp()).reshape(n_points, n_points)
        # A square root lifts the tails into view; the map is monotone, so modes keep their order.
        axes.imshow(
            np.sqrt(density),
            extent=(-limit, limit, -limit, limit),
            origin="lower",
            cmap=SEQUENTIAL,
            interpolation="bilinear",
            interpolation_stage="data",
        )
    if score is not None:
        _arrows(axes, score, limit, n_arrows)
    if samples is not None:
        _dots(axes, _check_points(samples, "samples"), PALETTE[1], zorder=3)
    _square(axes, limit)
    axes.set_title(title or "")
    return figure


def _lattice(limit: float, n: int) -> Tensor:
    """Cell centres, row by row from below, (n * n, 2)."""
    side = (torch.arange(n) + 0.5) / n * 2 * limit - limit
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def _arrows(axes: Axes, score: Callable[[Tensor], Tensor], limit: float, n: int) -> None:
    points = _lattice(limit, n)
    vectors = score(points).detach()
    if vectors.shape != points.shape:
        raise ValueError(f"score must map (N, 2) to (N, 2), got {tuple(vectors.shape)}")
    length = vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    vectors = vectors / length * (length / length.max()).sqrt() * (1.9 * limit / n)
    axes.quiver(
        *_array(points).T,
        *_array(vectors).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        width=0.0036,
        headwidth=4.2,
        headlength=4.5,
        headaxislength=4,
        color=INK,
        alpha=0.8,
    )


@_styled
def scatter(
    points: Tensor,
    *,
    labels: Tensor | None = None,
    reference: Tensor | None = None,
    limit: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw planar points, coloured by label if given, over a grey reference if given.

    Parameters
    ----------
    points : Tensor, (N, 2)
        The points.
    labels : Tensor, (N,) int, optional
        Class of each point; the palette has eight colours and then repeats.
    reference : Tensor, (M, 2), optional
        Points to draw below in grey, such as the data.
    limit : float, optional
        Half width of the square that is shown; if omitted it holds nearly all points.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        About 3.6 inches square.

    Raises
    ------
    ValueError
        If points are not planar or labels are not one per point.
    """
    cloud = _check_points(points)
    if labels is not None and labels.shape != (len(cloud),):
        raise ValueError(
            f"labels must have shape ({len(cloud)},) to go with the points, "
            f"got {tuple(labels.shape)}"
        )
    shown = [cloud] if reference is None else [cloud, _check_points(reference, "reference")]
    # A column on the right for the legend keeps it off the data.
    width = 4.1 if labels is not None else 3.6
    figure, axes = plt.subplots(figsize=(width, 3.6 + 0.25 * bool(title)), layout="constrained")
    if reference is not None:
        _dots(axes, shown[1], FAINT)
    if labels is None:
        _dots(axes, cloud, PALETTE[0])
    else:
        for label in np.unique(_array(labels).astype(int)):
            members = cloud[_array(labels).astype(int) == label]
            _dots(axes, members, PALETTE[label % len(PALETTE)], label=str(label))
        legend = figure.legend(loc="outside right upper", markerscale=3)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    _square(axes, limit or _limit(*shown))
    axes.set_title(title or "")
    return figure


@_styled
def scatter_panels(
    clouds: Mapping[str, Tensor], *, reference: Tensor | None = None, limit: float | None = None
) -> Figure:
    """Draw several sets of planar points side by side on one scale, at most four in a row.

    Parameters
    ----------
    clouds : mapping
        Points of shape (N, 2) by title.
    reference : Tensor, (M, 2), optional
        Points to draw below in grey in every panel.
    limit : float, optional
        Half width of the squares; if omitted they hold nearly all points.

    Returns
    -------
    Figure
        At most 7 inches wide.

    Raises
    ------
    ValueError
        If there are no points, or they are not planar.
    """
    if not clouds:
        raise ValueError("scatter_panels needs at least one set of points")
    arrays = [_check_points(points, name) for name, points in clouds.items()]
    below = [] if reference is None else [_check_points(reference, "reference")]
    n_rows = math.ceil(len(arrays) / 4)
    n_cols = math.ceil(len(arrays) / n_rows)
    side = min(WIDTH / n_cols, 2.6)
    figure, grid = plt.subplots(
        n_rows,
        n_cols,
        figsize=(side * n_cols, (side + 0.22) * n_rows),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.flat[len(arrays) :]:
        axes.axis("off")
    for axes, name, cloud in zip(grid.flat, clouds, arrays, strict=False):
        for grey in below:
            _dots(axes, grey, FAINT)
        _dots(axes, cloud, PALETTE[0])
        _square(axes, limit or _limit(*arrays, *below))
        axes.set_title(name, fontsize=9)
    return figure


@_styled
def error_against_steps(
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    floor: tuple[float, float] | None = None,
    xlabel: str = "network evaluations",
    ylabel: str = "error",
    title: str | None = None,
) -> Figure:
    """Draw errors against the number of steps on logarithmic axes, where an order is a slope.

    Parameters
    ----------
    errors : mapping
        Pairs ``(steps, errors)`` by name, positive numbers, equally many.
    floor : tuple of float, optional
        Interval of the two-sample floor, drawn as a band: below it nothing can be told apart.
    xlabel, ylabel : str
        Names of the axes.
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        5.4 by 3.2 inches.

    Raises
    ------
    ValueError
        If there is no curve, or steps and errors of one are not equally many.
    """
    if not errors:
        raise ValueError("error_against_steps needs at least one curve")
    figure, axes = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
    for (name, (steps, values)), marker in zip(errors.items(), _cycle("osD^vPX*"), strict=False):
        if len(steps) != len(values):
            raise ValueError(
                f"steps and errors of {name!r} must be equally many, "
                f"got {len(steps)} and {len(values)}"
            )
        axes.plot(steps, values, marker=marker, markeredgecolor="white", label=name)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    if floor is not None:
        low, high = max(floor[0], axes.get_ylim()[0] * 0.5), floor[1]
        axes.axhspan(low, high, color=FAINT, alpha=0.45, linewidth=0, zorder=0, label="floor")
    _plain_ticks(axes, sorted({step for steps, _ in errors.values() for step in steps}))
    axes.set_title(title or "")
    figure.legend(loc="outside right upper")
    return figure


def _cycle(marks: str) -> list[str]:
    return list(marks) * 8


def _plain_ticks(axes: Axes, steps: Sequence[float]) -> None:
    """Label the steps themselves, leaving out those that would touch the one before."""
    kept: list[float] = []
    for step in steps:
        if not kept or step / kept[-1] > 1.45:
            kept.append(step)
    axes.set_xticks(kept, [f"{step:g}" for step in kept])
    axes.set_xticks([], minor=True)


@_styled
def loss_curve(
    steps: Sequence[float],
    losses: Sequence[float],
    *,
    title: str | None = None,
    ylabel: str = "loss",
) -> Figure:
    """Draw a training loss: every value faintly, a running mean over it, on a logarithmic axis.

    The running mean spans one fiftieth of the values. The axis spans the central 99 % of them, so that
    a few outliers do not flatten the rest; it is linear and spans all if a loss is not positive.

    Parameters
    ----------
    steps, losses : sequence of float
        Optimiser steps and the losses there, equally many, at least one.
    title : str, optional
        Title of the figure.
    ylabel : str
        Name of the vertical axis.

    Returns
    -------
    Figure
        4.6 by 2.8 inches.

    Raises
    ------
    ValueError
        If there are no losses, or steps and losses are not equally many.
    """
    if len(steps) != len(losses) or len(losses) == 0:
        raise ValueError(
            "steps and losses must be equally many and at least one, "
            f"got {len(steps)} and {len(losses)}"
        )
    x, y = np.asarray(steps, dtype=float), np.asarray(losses, dtype=float)
    figure, axes = plt.subplots(figsize=(4.6, 2.8), layout="constrained")
    axes.plot(x, y, color=PALETTE[5], alpha=0.45, linewidth=0.7)
    window = max(1, len(y) // 50)
    mean = np.convolve(y, np.ones(window) / window, mode="valid")
    centre = np.convolve(x, np.ones(window) / window, mode="valid")
    axes.plot(centre, mean, color=PALETTE[0])
    finite = y[np.isfinite(y)]
    if finite.size and finite.min() > 0:
        axes.set_yscale("log")
        axes.set_ylim(0.93 * np.quantile(finite, 0.005), 1.1 * np.quantile(finite, 0.995))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(_two_and_five)
    axes.set(xlabel="optimiser step", ylabel=ylabel)
    axes.set_title(title or "")
    return figure


def _two_and_five(value: float, _: object) -> str:
    """Label only 2 and 5 times the powers of ten between them."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
