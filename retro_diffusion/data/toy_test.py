"""Toy laws: exact moments, exact parameters, reproducibility."""

import math

import pytest
import torch
from torch import Generator

from retro_diffusion.data import toy

N = 200_000
STDS = {
    "swiss_roll": (0.978, 1.021),
    "moons": (1.224, 0.708),
    "checkerboard": (1.0, 1.0),
    "eight_gaussians": (1.0, 1.0),
    "two_gaussians": (1.0, 1.0),
}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("name", toy.TOY)
def test_mean_and_scale_are_the_documented_ones(name: str) -> None:
    x = toy.TOY[name](N, seeded()).double()
    assert x.mean(0).abs().max() < 5 / math.sqrt(N) * 1.3
    torch.testing.assert_close(x.std(0), torch.tensor(STDS[name]).double(), atol=6e-3, rtol=0)
    assert x.var(0).mean().item() == pytest.approx(1, abs=8e-3)


@pytest.mark.parametrize("name", toy.TOY)
def test_shape_dtype_and_reproducibility(name: str) -> None:
    law = toy.toy_law(name)
    x = law(17, seeded())
    assert x.shape == (17, 2) and x.dtype == torch.float32
    assert torch.equal(x, law(17, seeded()))
    assert not torch.equal(x, law(17, seeded(1)))
    state = torch.get_rng_state()
    law(5, seeded())
    assert torch.equal(torch.get_rng_state(), state), (
        "a given generator leaves the global one alone"
    )
    assert law(1, None).shape == (1, 2)


def test_swiss_roll_without_noise_lies_on_the_spiral() -> None:
    scale = math.sqrt((9.75 * math.pi**2 - 4 - 4 / (9 * math.pi**2)) / 2)
    x = toy.swiss_roll(1000, seeded(), noise=0).double() * scale
    x = x + torch.tensor([2.0, 2 / (3 * math.pi)])
    radius = x.norm(dim=1)
    angle = torch.atan2(x[:, 1], x[:, 0])
    turns = (radius - angle) / (2 * math.pi)
    assert (turns - turns.round()).abs().max() < 1e-5
    assert radius.min() > 1.5 * math.pi - 1e-4 and radius.max() < 4.5 * math.pi + 1e-4


def test_moons_without_noise_lie_on_half_circles_at_random_angles() -> None:
    x = toy.moons(4000, seeded(), noise=0).double()
    scale = math.sqrt((0.75 + 9 / 16 - 1 / math.pi) / 2)
    x = x * scale + torch.tensor([0.5, 0.25])
    to_upper = (x.norm(dim=1) - 1).abs() + (x[:, 1] < 0) * 9
    to_lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs() + (x[:, 1] > 0.5) * 9
    assert torch.minimum(to_upper, to_lower).max() < 1e-5
    share = (to_upper < to_lower).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.04)
    gaps = x[to_upper < to_lower][:, 0].clamp(-1, 1).acos().sort().values.diff()
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.15), "gaps of a grid would be equal"


def test_checkerboard_fills_exactly_the_dark_squares() -> None:
    cells = (toy.checkerboard(8000, seeded()).double() * 4 / math.sqrt(3) / 2 + 2).floor().long()
    assert cells.min() == 0 and cells.max() == 3
    assert (cells.sum(1) % 2 == 0).all()
    counts = (4 * cells[:, 0] + cells[:, 1]).bincount(minlength=16)
    assert (counts > 0).sum() == 8 and counts[counts > 0].min() > 850


@pytest.mark.parametrize(
    "parameters",
    [
        toy.eight_gaussians_parameters(),
        toy.eight_gaussians_parameters(std=0.3),
        toy.two_gaussians_parameters(),
    ],
)
def test_mixture_parameters_have_exactly_unit_variance(parameters: toy.MixtureParameters) -> None:
    weights, means, stds = parameters
    mean = weights @ means
    variance = weights @ (means.square() + stds.square()) - mean.square()
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(variance, torch.ones_like(variance))
    assert weights.sum() == pytest.approx(1)


def test_raw_two_gaussians() -> None:
    _, means, stds = toy.two_gaussians_parameters(standardised=False)
    assert means.tolist() == [[-5, 0], [5, 0]] and stds.tolist() == [[1, 1], [1, 1]]
    x = toy.two_gaussians(N, seeded(), standardised=False)
    assert x[:, 0].std().item() == pytest.approx(math.sqrt(26), rel=0.01)


def test_samples_follow_the_parameters() -> None:
    parameters = toy.MixtureParameters(
        torch.tensor([0.2, 0.8]).double(),
        torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]).double(),
        torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]).double(),
    )
    x, component = toy.sample_mixture(N, parameters, seeded())
    assert component.double().mean().item() == pytest.approx(0.8, abs=0.005)
    for k in range(2):
        mode = x[component == k].double()
        torch.testing.assert_close(mode.mean(0), parameters.means[k], atol=0.04, rtol=0)
        torch.testing.assert_close(mode.std(0), parameters.stds[k], atol=0, rtol=0.02)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="unknown toy law 'spiral'.*swiss_roll.*two_gaussians"):
        toy.toy_law("spiral")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        toy.moons(0)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        toy.eight_gaussians_parameters(std=1)
