"""Distances against closed forms, scipy and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from retro_diffusion.evaluation import distances
from retro_diffusion.evaluation.distances import (
    energy_distance,
    median_bandwidth,
    mmd,
    nn_distance,
    sliced_wasserstein,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (30, 71)])
def test_energy_distance_is_the_square_of_scipys(n: int, m: int) -> None:
    a, b = normal(n, 1), 1 + 2 * normal(m, 1, seed=1)
    expected = stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_of_shifted_gaussians() -> None:
    """E|X - Y| of X - Y ~ N(d, 2) is a folded normal mean."""
    shift, sd = 1.0, math.sqrt(2)
    folded = sd * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * folded - 2 * sd * math.sqrt(2 / math.pi)
    a, b = normal(6000, 1), shift + normal(6000, 1, seed=1)
    assert energy_distance(a, b) == pytest.approx(expected, rel=0.1)


def test_equal_samples_are_at_distance_zero_and_point_masses_at_twice_theirs() -> None:
    a = normal(20, 3)
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(a, a) == 0
    assert energy_distance(torch.zeros(4, 2), torch.tensor([[3.0, 4.0]] * 5)) == pytest.approx(10)


@pytest.mark.parametrize("dimension", [2, 40])
def test_blocks_do_not_change_the_result(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(37, dimension), normal(23, dimension, seed=1)
    whole = [energy_distance(a, b), mmd(a, b), nn_distance(a, b).sum().item()]
    monkeypatch.setattr(distances, "_BLOCK_ENTRIES", 50)
    parts = [energy_distance(a, b), mmd(a, b), nn_distance(a, b).sum().item()]
    assert parts == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "p"), [(40, 40, 2.0), (30, 45, 1.0), (7, 13, 1.0)])
def test_sliced_wasserstein_in_one_dimension_is_scipys(n: int, m: int, p: float) -> None:
    a, b = normal(n, 1), 0.3 + normal(m, 1, seed=1)
    if p == 1:
        expected = stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    else:
        expected = np.sqrt(np.mean((np.sort(a[:, 0]) - np.sort(b[:, 0])) ** 2))
    assert sliced_wasserstein(a, b, p=p, n_projections=3) == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein_of_unequal_sizes_is_that_of_repeated_points() -> None:
    a, b = normal(6, 2), normal(4, 2, seed=1)
    expected = sliced_wasserstein(a.repeat_interleave(2, 0), b.repeat_interleave(3, 0))
    assert sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein_of_a_shift_and_of_a_scaling() -> None:
    a = normal(2000, 5)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0])
    expected = shift.norm().item() / math.sqrt(5)
    assert sliced_wasserstein(a, a + shift, n_projections=1000) == pytest.approx(expected, rel=0.05)
    b = 3 * normal(2000, 5, seed=1)
    assert sliced_wasserstein(a, b) == pytest.approx(2, rel=0.03)


def test_directions_are_fixed_unless_a_generator_is_given() -> None:
    a, b = normal(30, 3), normal(30, 3, seed=1)
    assert sliced_wasserstein(a, b) == sliced_wasserstein(a, b)
    other = sliced_wasserstein(a, b, generator=Generator().manual_seed(5))
    assert other != sliced_wasserstein(a, b)


def test_mmd_is_the_sum_over_pairs() -> None:
    a, b = normal(5, 2), normal(4, 2, seed=1)
    h = 0.7

    def kernel(x: Tensor, y: Tensor) -> float:
        return math.exp(-(x - y).square().sum().item() / (2 * h * h))

    within_a = sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(kernel(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(kernel(x, y) for x in a for y in b) / 20
    expected = within_a + within_b - 2 * between
    assert mmd(a, b, bandwidths=[h]) == pytest.approx(expected, rel=1e-10)


def test_mmd_is_unbiased_and_has_the_closed_form_of_gaussians() -> None:
    h = 1.0
    pairs = [(normal(20, 1, seed=2 * i), normal(20, 1, seed=2 * i + 1)) for i in range(600)]
    equal = [mmd(a, b, bandwidths=[h]) for a, b in pairs]
    error = np.std(equal) / math.sqrt(len(equal))
    assert abs(np.mean(equal)) < 3.5 * error and min(equal) < 0

    def expected_kernel(mean: float, variance: float) -> float:
        return h / math.sqrt(h**2 + variance) * math.exp(-(mean**2) / (2 * (h**2 + variance)))

    expected = 2 * expected_kernel(0, 2) - 2 * expected_kernel(1, 2)
    shifted = [mmd(a, 1 + b, bandwidths=[h]) for a, b in pairs]
    error = np.std(shifted) / math.sqrt(len(shifted))
    assert np.mean(shifted) == pytest.approx(expected, abs=3.5 * float(error))


def test_median_bandwidth() -> None:
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]])) == 2
    expected = math.sqrt(2) * stats.norm.ppf(0.75)
    assert median_bandwidth(normal(3000, 1)) == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="median distance is 0"):
        median_bandwidth(torch.zeros(5, 2))


def test_nn_distance_finds_copies_and_takes_images() -> None:
    reference = normal(10, 1, 2, 2)
    samples = torch.cat([reference[3:4], reference[:1] + 0.5])
    distance = nn_distance(samples, reference)
    assert distance[0] == 0 and 0 < distance[1] <= 1 + 1e-9
    assert nn_distance(reference[:1], reference).shape == (1,)


@pytest.mark.parametrize("metric", [energy_distance, sliced_wasserstein, mmd, nn_distance])
def test_bad_input(metric: object) -> None:
    assert callable(metric)
    a = normal(5, 2)
    with pytest.raises(ValueError, match=r"agree in shape.*\(5, 2\) and \(5, 3\)"):
        metric(a, normal(5, 3))
    with pytest.raises(ValueError, match="reference contain values that are not finite"):
        metric(a, a * math.nan)
    with pytest.raises(ValueError, match=r"samples must hold at least \d points, got 0"):
        metric(a[:0], a)
    with pytest.raises(ValueError, match=r"shape \(N, D\) or \(N, C, H, W\), got \(5,\)"):
        metric(a[:, 0], a[:, 0])


def test_bad_options() -> None:
    a = normal(5, 2)
    with pytest.raises(ValueError, match="n_projections=0"):
        sliced_wasserstein(a, a, n_projections=0)
    with pytest.raises(ValueError, match=r"bandwidths must be positive.*\[0\]"):
        mmd(a, a, bandwidths=[0])
