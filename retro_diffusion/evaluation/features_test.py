"""Frechet distance against closed forms; principal components; the digit classifier."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Generator, Tensor

from retro_diffusion.data import digits, split
from retro_diffusion.evaluation.features import frechet_distance, pca_features, train_classifier


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, covariance: Tensor, n: int = 200) -> Tensor:
    """Points whose sample mean and covariance are exactly those given."""
    x = normal(n, len(mean), seed=7)
    x = x - x.mean(0)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False
    )
    values, vectors = torch.linalg.eigh(covariance)
    return mean + (vectors * values.clamp(min=0).sqrt() @ whitened).T


def test_frechet_distance_of_diagonal_gaussians_is_exact() -> None:
    a = with_moments(
        torch.tensor([0.0, 1, 2]).double(), torch.diag(torch.tensor([1.0, 4, 9])).double()
    )
    b = with_moments(
        torch.tensor([1.0, 1, 0]).double(), torch.diag(torch.tensor([4.0, 4, 1])).double()
    )
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 0 + 4, rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_general_gaussians_agrees_with_a_matrix_square_root() -> None:
    factors = normal(2, 6, 6)
    covariance_a, covariance_b = (f @ f.T for f in factors)
    zero = torch.zeros(6).double()
    root = linalg.sqrtm((covariance_a @ covariance_b).numpy())
    expected = (covariance_a + covariance_b).trace().item() - 2 * np.trace(root).real
    a, b = with_moments(zero, covariance_a), with_moments(zero, covariance_b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_singular_covariances() -> None:
    """Dead pixels, and fewer points than dimensions."""
    a, b = normal(500, 3), 2 + 3 * normal(500, 3, seed=1)
    dead = torch.zeros(500, 4).double()
    expected = frechet_distance(a, b)
    assert frechet_distance(torch.cat([a, dead], 1), torch.cat([b, dead], 1)) == pytest.approx(
        expected
    )
    line = torch.zeros(2, 5).double()
    line[1, 0] = 2  # covariance diag(2, 0, 0, 0, 0), mean 1
    assert frechet_distance(line, 3 * line) == pytest.approx(4 + 2 + 18 - 2 * 6)
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_is_biased_at_small_samples() -> None:
    """The reason why only equal sizes may be compared."""
    small = frechet_distance(normal(100, 20), normal(100, 20, seed=1))
    large = frechet_distance(normal(2000, 20), normal(2000, 20, seed=1))
    assert small > 10 * large


def test_principal_components() -> None:
    reference = normal(400, 1, 3, 2) * torch.tensor([[5.0, 0.1], [3.0, 0.1], [0.1, 0.1]])
    features = pca_features(reference, k=2)
    projected = features(reference)
    assert projected.shape == (400, 2)
    torch.testing.assert_close(projected.mean(0), torch.zeros(2).double())
    assert projected[:, 0].std() == pytest.approx(5, rel=0.1)
    assert abs(torch.corrcoef(projected.T)[0, 1]) < 1e-6
    correlation = torch.corrcoef(torch.stack([projected[:, 0], reference[:, 0, 0, 0]]))[0, 1]
    assert correlation > 0.99, "signs are fixed"
    assert features(reference[:1]).shape == (1, 2)
    with pytest.raises(ValueError, match=r"expected points of shape \(1, 3, 2\), got \(6,\)"):
        features(reference.flatten(1))
    with pytest.raises(ValueError, match="between 1 and 6, got 7"):
        pca_features(reference, k=7)


def test_pca_floor_of_digits() -> None:
    halves = split(digits(), [898, 898])
    features = pca_features(digits().x, k=20)
    assert 0.07 < frechet_distance(features(halves[0].x), features(halves[1].x)) < 0.16


def test_classifier_learns_digits_reproducibly() -> None:
    train, test = split(digits(), [1297, 500])
    state = torch.get_rng_state()
    classifier = train_classifier(train)
    assert torch.equal(torch.get_rng_state(), state)
    assert (classifier.predict(test.x) == test.y).double().mean() > 0.965
    noisy = (test.x + 0.4 * normal(*test.x.shape).float()).contiguous()
    assert (classifier.predict(noisy) == test.y).double().mean() > 0.93
    features = classifier.features(test.x)
    assert features.shape == (500, 64) and not features.requires_grad
    first, second = train_classifier(train, steps=20), train_classifier(train, steps=20)
    assert torch.equal(first.features(test.x), second.features(test.x))
    assert not torch.equal(first(test.x), train_classifier(train, seed=1, steps=20)(test.x))
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 8\), got \(1, 28, 28\)"):
        classifier.predict(torch.zeros(1, 1, 28, 28))


def test_classifier_refuses_wrong_ranges_and_lengths() -> None:
    x, y = digits()
    with pytest.raises(ValueError, match=r"scaled to \[-1, 1\]"):
        train_classifier(type(digits())((x + 1) / 2, y), steps=1)
    with pytest.raises(ValueError, match="equally many, got 1797 and 3"):
        train_classifier(type(digits())(x, y[:3]), steps=1)
