"""Floors and intervals: coverage, ratios, matched labels."""

import math
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from retro_diffusion.data import digits, eight_gaussians, split
from retro_diffusion.evaluation.distances import energy_distance, mmd, sliced_wasserstein
from retro_diffusion.evaluation.features import frechet_distance, pca_features
from retro_diffusion.evaluation.measurement import Measurement, label_matched, measure


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def frechet_1d(a: Tensor, b: Tensor) -> float:
    return frechet_distance(a, b)


@pytest.mark.parametrize("metric", [energy_distance, frechet_1d])
def test_intervals_cover_the_expected_metric_at_nearly_the_nominal_rate(metric: object) -> None:
    """Nominal 0.95; the truth is the mean over fresh sets of the same size, same reference."""
    assert callable(metric)
    reference = normal(60, 2)
    n, splits, trials = 20, 5, 300
    truth = (
        torch.tensor([metric(0.5 + normal(n, 2, seed=10_000 + i), reference) for i in range(1500)])
        .mean()
        .item()
    )
    covered = 0
    for i in range(trials):
        samples = 0.5 + normal(n * splits, 2, seed=i)
        held_out = normal(n * splits, 2, seed=50_000 + i)
        result = measure(metric, samples, reference, held_out=held_out, n_splits=splits)
        covered += int(result.low <= truth <= result.high)
    assert 0.90 < covered / trials < 0.985


def test_equal_laws_have_ratio_one_and_others_do_not() -> None:
    ratios: dict[str, list[float]] = {"equal": [], "narrow": []}
    for seed in range(6):
        reference, held_out, samples = (
            eight_gaussians(1000, Generator().manual_seed(3 * seed + i)) for i in range(3)
        )
        for name, x in (("equal", samples), ("narrow", samples * 0.8)):
            result = measure(energy_distance, x, reference, held_out=held_out)
            ratios[name].append(result.ratio)
            assert result.n == 200 and result.low <= result.value <= result.high
    assert 0.8 < sum(ratios["equal"]) / 6 < 1.25
    assert min(ratios["narrow"]) > 1.5 * max(ratios["equal"])


def test_equal_laws_are_exchangeable_so_neither_side_wins() -> None:
    wins = 0
    for seed in range(200):
        samples, held_out = normal(50, 2, seed=2 * seed), normal(50, 2, seed=2 * seed + 1)
        result = measure(frechet_1d, samples, normal(80, 2, seed=-1 - seed), held_out=held_out)
        wins += result.value > result.floor
    assert 70 < wins < 130


def test_resampling_with_repetition_would_be_biased() -> None:
    """Why parts are disjoint: repeated points are at distance zero of each other."""
    a, b = normal(200, 2), normal(200, 2, seed=1)
    generator = Generator().manual_seed(0)
    draws = [torch.randint(200, (2, 200), generator=generator) for _ in range(30)]
    bootstrap = sum(energy_distance(a[i], b[j]) for i, j in draws) / 30
    assert bootstrap > 1.5 * energy_distance(a, b)


def test_digits_by_principal_components() -> None:
    samples, reference, held_out = (part.x for part in split(digits(), [599, 599, 599]))
    features = pca_features(digits().x)

    def metric(a: Tensor, b: Tensor) -> float:
        return frechet_distance(features(a), features(b))

    good = measure(metric, samples, reference, held_out=held_out)
    assert 0.8 < good.ratio < 1.25 and good.n == 119
    blurred = samples + 0.5 * normal(*samples.shape)
    assert measure(metric, blurred, reference, held_out=held_out).low > good.floor_high


def test_half_of_the_reference_serves_if_nothing_is_held_out() -> None:
    result = measure(sliced_wasserstein, normal(1000, 2), normal(400, 2, seed=1), n_splits=4)
    assert result.n == 50 and 0.6 < result.ratio < 1.6
    again = measure(sliced_wasserstein, normal(1000, 2), normal(400, 2, seed=1), n_splits=4)
    assert again == result


def test_an_unbiased_metric_has_no_ratio_but_an_interval() -> None:
    metric = partial(mmd, bandwidths=[1.0])
    reference, held_out = normal(300, 2), normal(300, 2, seed=1)
    result = measure(metric, normal(300, 2, seed=2), reference, held_out=held_out)
    assert math.isnan(result.ratio) and result.floor_low < 0 < result.floor_high
    shifted = measure(metric, 1 + normal(300, 2, seed=2), reference, held_out=held_out)
    assert shifted.low > result.floor_high


def test_confidence_widens_and_text_is_one_line() -> None:
    x, reference = normal(100, 2), normal(100, 2, seed=1)
    narrow = measure(energy_distance, x, reference, confidence=0.5)
    wide = measure(energy_distance, x, reference, confidence=0.99)
    assert narrow.value == wide.value and wide.high - wide.low > 3 * (narrow.high - narrow.low)
    text = str(Measurement(0.123456, 0.1, 0.15, 0.06, 0.05, 0.07, 2.0576, 99))
    assert text == "0.1235 [0.1, 0.15], floor 0.06 [0.05, 0.07], ratio 2.06 (n = 99)"


def test_matched_labels_stay_matched_in_every_part() -> None:
    data, labels = torch.arange(100.0)[:, None], torch.arange(100) % 4
    wanted = torch.tensor([0, 1] * 20)
    held_out = label_matched(data, labels, wanted)
    assert held_out.unique().numel() == 40
    assert torch.equal(held_out[:, 0].long() % 4, wanted)
    seen: list[float] = []
    samples = wanted.float()[:, None]
    parts: list[Tensor] = []

    def share_of_ones(part: Tensor, _: Tensor) -> float:
        parts.append(part)
        seen.append((part[:, 0] % 4).mean().item())
        return seen[-1]

    measure(share_of_ones, samples, data, held_out=held_out)
    assert seen[:5] == seen[5:], "the same classes meet in part i of both"
    with pytest.raises(ValueError, match="class 1 is wanted 26 times, but there are 25"):
        label_matched(data, labels, torch.ones(26, dtype=torch.long))
    with pytest.raises(ValueError, match="equally many, got 100 and 3"):
        label_matched(data, labels[:3], wanted)


def test_bad_input() -> None:
    x = normal(10, 2)
    with pytest.raises(ValueError, match="n_splits of at least 2.*got 1 and 0.95"):
        measure(energy_distance, x, x, n_splits=1)
    with pytest.raises(ValueError, match="between 0 and 1, got 5 and 1"):
        measure(energy_distance, x, x, confidence=1)
    with pytest.raises(ValueError, match="10 samples and 5 held-out points are too few for 5"):
        measure(energy_distance, x, x)
    with pytest.raises(ValueError, match="agree in shape"):
        measure(energy_distance, normal(50, 3), normal(50, 2))
