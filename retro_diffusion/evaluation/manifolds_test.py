"""Precision and recall, mode statistics and diversity on laws where the answer is known."""

import math

import pytest
import torch
from torch import Generator, Tensor

from retro_diffusion.data.toy import (
    MixtureParameters,
    eight_gaussians,
    eight_gaussians_parameters,
    sample_mixture,
    two_gaussians_parameters,
)
from retro_diffusion.evaluation.manifolds import in_class_diversity, mode_stats, precision_recall


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_precision_and_recall_by_hand() -> None:
    reference = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8 for k = 1
    samples = torch.tensor([[-0.5], [0.5], [30.0]])  # radii 1, 1, 29.5
    result = precision_recall(samples, reference, k=1)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(4 / 4), "the ball around 30 reaches back to 0.5"


def test_dropped_modes_cost_recall_and_strays_cost_precision() -> None:
    reference, samples = eight_gaussians(800, seeded()), eight_gaussians(800, seeded(1))
    floor = precision_recall(samples, reference)
    assert min(floor) > 0.9
    half = precision_recall(samples[samples[:, 0] > 0], reference)
    assert half.recall < 0.6 and half.precision > 0.9
    strays = torch.cat([samples[:400], torch.randn(400, 2, generator=seeded(2)) * 0.3])
    result = precision_recall(strays, reference)
    assert result.precision < 0.65 and result.recall > 0.9
    collapsed = precision_recall(reference[:1].expand(800, 2), reference)
    assert collapsed.precision == 1 and collapsed.recall < 0.01


def test_mode_stats_of_exact_draws() -> None:
    weights = torch.tensor([0.7, 0.3]).double()
    parameters = two_gaussians_parameters()._replace(weights=weights)
    for law in (parameters, eight_gaussians_parameters(std=0.1)):
        tv, sd, outliers = mode_stats(sample_mixture(20_000, law, seeded())[0], law)
        assert tv < 0.015 and sd == pytest.approx(1, abs=0.01)
        assert outliers == pytest.approx(math.exp(-8), abs=4e-4)


def test_mode_stats_see_each_fault() -> None:
    law = eight_gaussians_parameters(std=0.1)
    x, component = sample_mixture(20_000, law, seeded())
    assert mode_stats(x[component < 4], law).weight_tv == pytest.approx(0.5, abs=0.01)
    narrow = law.means[component] + (x - law.means[component]) / 2
    assert mode_stats(narrow, law).sd_ratio == pytest.approx(0.5, abs=0.01)
    x[:2000] = 0
    assert mode_stats(x, law).outlier_share == pytest.approx(0.1, abs=0.002)


def test_in_class_diversity() -> None:
    x = torch.tensor([[0.0, 0], [3, 4], [1, 1], [1, 1], [1, 1]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert in_class_diversity(x, labels) == pytest.approx(2.5)
    normal = torch.randn(2000, 1, 2, 2, generator=seeded())
    expected = math.sqrt(2) * math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert in_class_diversity(normal, torch.arange(2000) % 2) == pytest.approx(expected, rel=0.03)


def test_bad_input() -> None:
    x: Tensor = torch.randn(5, 2, generator=seeded())
    with pytest.raises(ValueError, match="samples must hold at least 4 points, got 3"):
        precision_recall(x[:3], x)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match="samples have 3 dimensions, but the mixture has 2"):
        mode_stats(torch.zeros(5, 3), eight_gaussians_parameters())
    with pytest.raises(ValueError, match="not finite"):
        mode_stats(x / 0, eight_gaussians_parameters())
    with pytest.raises(ValueError, match="class 2 has a single member"):
        in_class_diversity(x, torch.tensor([0, 0, 1, 1, 2]))
    with pytest.raises(ValueError, match=r"labels must have shape \(5,\)"):
        in_class_diversity(x, torch.zeros(4))


def test_mixture_parameters_may_be_those_of_any_mixture() -> None:
    law = MixtureParameters(torch.ones(1), torch.zeros(1, 3), torch.full((1, 3), 2.0))
    x = 2 * torch.randn(5000, 3, generator=seeded())
    assert mode_stats(x, law).sd_ratio == pytest.approx(1, abs=0.03)
