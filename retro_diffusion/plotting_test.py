"""Figures: they draw what they are given, in the style, and refuse what they cannot draw."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from retro_diffusion import plotting


class Line:
    """alpha = 1 - t, sigma = scale * t."""

    t_min, t_max = 0.0, 1.0

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def alpha(self, t: Tensor) -> Tensor:
        assert t.dtype == torch.float64
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return self.scale * t

    def logsnr(self, t: Tensor) -> Tensor:
        return 2 * (self.alpha(t) / self.sigma(t)).log()


class State(NamedTuple):
    t: Tensor
    x: Tensor


IMAGES = torch.linspace(-1, 1, 12 * 64).reshape(12, 1, 8, 8)
POINTS = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))


def pixels(figure: Figure) -> Any:
    return np.asarray(figure.axes[0].images[0].get_array())


def normal_log_prob(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2


DRAWN: dict[str, Callable[[], Figure]] = {
    "grid": lambda: plotting.sample_grid(IMAGES, 5, labels=range(12), title="digits"),
    "colour grid": lambda: plotting.sample_grid(IMAGES.expand(-1, 3, -1, -1), 50),
    "image strip": lambda: plotting.trajectory_strip([IMAGES] * 20, list(range(20)), title="x"),
    "cloud strip": lambda: plotting.trajectory_strip(
        [State(torch.tensor(t), POINTS * t) for t in (1.0, 0.5, 0.1)]
    ),
    "schedules": lambda: plotting.schedule_plot({"line": Line(), "steep": Line(80)}),
    "density": lambda: plotting.density_field(normal_log_prob, lambda x: -x, samples=POINTS),
    "score": lambda: plotting.density_field(score=lambda x: -x, title="score"),
    "scatter": lambda: plotting.scatter(POINTS, labels=torch.arange(200) % 10, reference=POINTS),
    "panels": lambda: plotting.scatter_panels(dict.fromkeys("abcde", POINTS), reference=POINTS),
    "errors": lambda: plotting.error_against_steps(
        {"Euler": ([5, 10, 20], [0.3, 0.2, 0.1]), "Heun": ([5, 10], [0.2, 0.05])},
        floor=(0.01, 0.02),
    ),
    "loss": lambda: plotting.loss_curve(range(200), np.linspace(2, 1, 200).tolist()),
    "one loss": lambda: plotting.loss_curve([0], [-1.0]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_narrow_small_and_closed(name: str) -> None:
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() <= 7.0 and figure.dpi == 150
    assert plt.get_fignums() == [], "nothing piles up, nothing is shown twice"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert 1000 < buffer.tell() < 200_000


def test_outer_settings_neither_matter_nor_change() -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.spines.top": True}):
        figure = plotting.loss_curve([0, 1], [1.0, 0.5])
        assert matplotlib.rcParams["font.size"] == 30
    assert figure.axes[0].xaxis.label.get_fontsize() == 9
    assert not figure.axes[0].spines["top"].get_visible()


def test_use_style_sets_the_defaults() -> None:
    with matplotlib.rc_context():
        plotting.use_style()
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(plotting.PALETTE)


def test_grid_places_images_row_by_row() -> None:
    images = torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, -0.5, 0.0, 0.5, 3.0)])
    canvas = pixels(plotting.sample_grid(images, 3))
    assert canvas.shape == (9, 14, 3)
    assert canvas[0, [0, 5, 10], 0].tolist() == [0, 0.25, 0.5]
    assert canvas[5, [0, 5], 0].tolist() == [0.75, 1]
    assert (canvas[4] == 1).all() and (canvas[:, 4] == 1).all(), "gaps are white"


def test_strip_has_samples_in_rows_and_times_in_columns() -> None:
    states = [torch.stack([torch.full((1, 2, 2), t * s) for s in (0.5, -0.5)]) for t in (0.0, 1.0)]
    figure = plotting.trajectory_strip(states, [1.0, 0.0])
    canvas = pixels(figure)
    assert canvas[[0, 0, 3, 3], [0, 3, 0, 3], 0].tolist() == [0.5, 0.75, 0.5, 0.25]
    assert [text.get_text() for text in figure.axes[0].texts] == ["$t$ = 1", "$t$ = 0"]


def test_a_thousand_steps_are_written_out() -> None:
    figure = plotting.trajectory_strip([IMAGES] * 2, [1000.0, 0.12345])
    assert [text.get_text() for text in figure.axes[0].texts] == ["$t$ = 1000", "$t$ = 0.123"]


def test_strip_picks_first_and_last_state() -> None:
    states = [State(torch.tensor(float(t)), POINTS) for t in range(100, -1, -1)]
    heads = [axes.get_title() for axes in plotting.trajectory_strip(states, n_cols=5).axes]
    assert heads == ["$t$ = 100", "$t$ = 75", "$t$ = 50", "$t$ = 25", "$t$ = 0"]


def test_schedule_curves_are_the_schedule_and_infinities_are_left_out() -> None:
    figure = plotting.schedule_plot({"line": Line()}, n_points=5)
    alpha, sigma, logsnr = (np.asarray(axes.lines[0].get_ydata()) for axes in figure.axes)
    np.testing.assert_allclose(alpha, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(sigma, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(logsnr[1:-1], 2 * np.log([3, 1, 1 / 3]), atol=1e-12)
    assert np.isnan(logsnr[[0, -1]]).all()


def test_density_is_upright_and_arrows_follow_the_score() -> None:
    centre = torch.tensor([1.0, -1.5])
    figure = plotting.density_field(
        lambda x: -(x - centre).square().sum(1), lambda x: centre - x, limit=2, n_points=40
    )
    image = pixels(figure)
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert abs(column / 40 * 4 - 2 - 1) < 0.11 and abs(row / 40 * 4 - 2 + 1.5) < 0.11
    quiver: Any = figure.axes[0].collections[0]
    toward = centre.numpy() - quiver.get_offsets()
    assert (toward * np.stack([quiver.U, quiver.V], axis=1)).sum(1).min() >= 0


def test_bad_input_is_refused_with_what_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\) or \(N, 3, H, W\), got \(4, 8, 8\)"):
        plotting.sample_grid(torch.zeros(4, 8, 8))
    with pytest.raises(ValueError, match="one per image, got 2 for 12"):
        plotting.sample_grid(IMAGES, labels=[1, 2])
    with pytest.raises(ValueError, match=r"points must have shape \(N, 2\), got \(5, 3\)"):
        plotting.scatter(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"labels must have shape \(200,\)"):
        plotting.scatter(POINTS, labels=torch.zeros(3))
    with pytest.raises(ValueError, match=r"states must have shape \(N, 2\)"):
        plotting.trajectory_strip([torch.zeros(5, 3)])
    with pytest.raises(ValueError, match="one per state, got 1 for 2"):
        plotting.trajectory_strip([POINTS, POINTS], [0.0])
    with pytest.raises(ValueError, match="needs log_prob, score or both"):
        plotting.density_field()
    with pytest.raises(ValueError, match=r"log_prob must map \(N, 2\) to \(N,\)"):
        plotting.density_field(lambda x: x)
    with pytest.raises(ValueError, match=r"score must map \(N, 2\) to \(N, 2\)"):
        plotting.density_field(score=lambda x: x[:, 0])
    with pytest.raises(ValueError, match="'Euler' must be equally many, got 1 and 2"):
        plotting.error_against_steps({"Euler": ([1], [0.1, 0.2])})
    with pytest.raises(ValueError, match="equally many and at least one, got 0 and 0"):
        plotting.loss_curve([], [])
    with pytest.raises(ValueError, match="at least one schedule"):
        plotting.schedule_plot({})
