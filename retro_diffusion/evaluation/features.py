"""Feature spaces for images, and the Frechet distance between Gaussians fitted in them."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from retro_diffusion.data.images import Images, check_image_range
from retro_diffusion.evaluation.distances import as_pair, as_points


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Frechet (Wasserstein-2) distance between the Gaussians fitted to two sets of features.

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``. With factors ``F' F = S`` the last trace is
    the sum of the singular values of ``F_a F_b'``; factors come from QR of the centred features, hence
    no matrix square root, no jitter, and singular covariances are exact. The estimate is biased
    upwards at small ``N``: compare it only between equal ``N``, and with its floor.

    Parameters
    ----------
    features_a, features_b : Tensor, (N, *D) and (M, *D)
        The two sets, at least 2 points each.

    Returns
    -------
    float
        The squared distance, at least 0.

    Raises
    ------
    ValueError
        If shapes disagree, points are too few, or values are not finite.

    References
    ----------
    Dowson and Landau, 1982; Heusel et al., "GANs trained by a two time-scale update rule converge to
    a local Nash equilibrium", NeurIPS 2017, equation (6).
    """
    a, b = as_pair(features_a, features_b)
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    cross = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    trace = factor_a.square().sum() + factor_b.square().sum() - 2 * cross
    return max(0.0, ((a.mean(0) - b.mean(0)).square().sum() + trace).item())


def _covariance_factor(x: Tensor) -> Tensor:
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    return torch.linalg.qr(centred, mode="r").R


def pca_features(reference: Tensor, k: int = 20) -> Callable[[Tensor], Tensor]:
    """Projection on the leading principal components of a reference, not whitened.

    Parameters
    ----------
    reference : Tensor, (N, *D)
        Points that define mean and components.
    k : int
        Number of components, at most ``min(N - 1, prod(D))``.

    Returns
    -------
    callable
        Maps (M, *D) to features (M, k), float64, centred on the reference's mean. Singular directions
        have a fixed sign: the largest loading is positive.

    Raises
    ------
    ValueError
        If ``k`` is out of range, or the reference is too small or not finite. The callable raises it
        for points of another shape.
    """
    points = as_points(reference, "reference")
    most = min(len(points) - 1, points.shape[1])
    if not 1 <= k <= most:
        raise ValueError(f"the number of components must lie between 1 and {most}, got {k}")
    mean = points.mean(0)
    components = torch.linalg.svd(points - mean, full_matrices=False).Vh[:k]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()

    def features(x: Tensor) -> Tensor:
        if x.shape[1:] != reference.shape[1:]:
            raise ValueError(
                f"expected points of shape {tuple(reference.shape[1:])}, got {tuple(x.shape[1:])}"
            )
        return (as_points(x, least=1) - mean.to(x.device)) @ components.to(x.device).T

    return features


class SmallClassifier(nn.Module):
    """Two hidden layers on flattened images; the second one serves as a feature space.

    Parameters
    ----------
    shape : tuple of int
        Shape (C, H, W) of an image.
    n_classes : int
        Number of classes.
    width : int
        Units of the first hidden layer.
    n_features : int
        Units of the second hidden layer, the dimension of `features`.
    """

    def __init__(
        self, shape: tuple[int, ...], n_classes: int, *, width: int = 256, n_features: int = 64
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width),
            nn.SiLU(),
            nn.Linear(width, n_features),
            nn.SiLU(),
        )
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images.

        Parameters
        ----------
        x : Tensor, (N, C, H, W)
            Images in [-1, 1].

        Returns
        -------
        Tensor, (N, n_classes)
            Unnormalised log-probabilities.
        """
        logits: Tensor = self.head(self.body(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer, without gradients.

        Parameters
        ----------
        x : Tensor, (N, C, H, W)
            Images in [-1, 1].

        Returns
        -------
        Tensor, (N, n_features)
            Features.

        Raises
        ------
        ValueError
            If images are of another shape than the network's.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"the classifier reads images of shape {self.shape}, got {tuple(x.shape[1:])}"
            )
        with torch.no_grad():
            return torch.cat([self.body(part) for part in x.split(4096)])

    def predict(self, x: Tensor) -> Tensor:
        """Most probable class of each image.

        Parameters
        ----------
        x : Tensor, (N, C, H, W)
            Images in [-1, 1].

        Returns
        -------
        Tensor, (N,) int64
            Class labels.

        Raises
        ------
        ValueError
            If images are of another shape than the network's.
        """
        features = self.features(x)
        with torch.no_grad():
            labels: Tensor = self.head(features).argmax(dim=1)
        return labels


def train_classifier(
    images: Images,
    *,
    seed: int = 0,
    steps: int = 1500,
    batch_size: int = 128,
    lr: float = 2e-3,
    noise: float = 0.5,
) -> SmallClassifier:
    """Fit a `SmallClassifier`, with noise added to images so that its features are smooth.

    Adam with a learning rate that decays along a half cosine, cross entropy, and Gaussian noise of
    standard deviation uniform on ``[0, noise]``, drawn per image. Train it on images that neither the
    generative model nor the reference nor the held-out set of a floor contains: the features of its
    own training images are tighter, which moves a Frechet distance by a fifth.

    Parameters
    ----------
    images : Images
        Training images in [-1, 1]; labels count from 0.
    seed : int
        Seed of weights, batches and noise; torch's global generator is left as it was.
    steps : int
        Optimiser steps.
    batch_size : int
        Images per step, drawn with replacement.
    lr : float
        Initial learning rate.
    noise : float
        Largest standard deviation of the added noise.

    Returns
    -------
    SmallClassifier
        In evaluation mode, on the images' device, with gradients of its weights turned off.

    Raises
    ------
    ValueError
        If pixels are not in [-1, 1] or images and labels differ in number.
    """
    x, y = check_image_range(images.x), images.y
    if len(x) != len(y):
        raise ValueError(f"images and labels must be equally many, got {len(x)} and {len(y)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = SmallClassifier(tuple(x.shape[1:]), int(y.max()) + 1).to(x.device)
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(len(x), (batch_size,), generator=generator)
        level = noise * torch.rand(batch_size, *[1] * (x.ndim - 1), generator=generator)
        perturbation = level * torch.randn(batch_size, *x.shape[1:], generator=generator)
        index = index.to(x.device)
        logits = classifier(x[index] + perturbation.to(x.device))
        optimizer.zero_grad()
        functional.cross_entropy(logits, y[index]).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)
