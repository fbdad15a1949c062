"""Planar laws of known mean and scale, each drawn as ``law(n, generator) -> (n, 2)`` float32.

Every law is centred with its exact mean and divided by its exact scale (constants in closed form,
never estimated from the draw), so that one noise schedule suits them all. Where the law is a mixture
of Gaussians its parameters are exposed too, which is all that an exact denoiser needs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor


class MixtureParameters(NamedTuple):
    """A mixture of ``K`` Gaussians in ``D`` dimensions with diagonal covariances.

    Attributes
    ----------
    weights : Tensor, (K,) float64
        Probabilities of the components; they sum to 1.
    means : Tensor, (K, D) float64
        Means of the components.
    stds : Tensor, (K, D) float64
        Standard deviation of every component along every axis.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"the number of points must be at least 1, got {n}")


def _uniform(n: int, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    return torch.rand(n, generator=generator, device=device, dtype=torch.float64)


def _normal(n: int, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    return torch.randn(n, 2, generator=generator, device=device, dtype=torch.float64)


def _standardise(points: Tensor, mean: tuple[float, float], scale: float) -> Tensor:
    return ((points - points.new_tensor(mean)) / scale).float()


def swiss_roll(n: int, generator: Generator | None = None, *, noise: float = 0.5) -> Tensor:
    """Draw points from a planar spiral of one and a half turns.

    Before standardisation a point is ``a * (cos a, sin a) + noise * N(0, I)`` with the angle ``a``
    uniform on ``[1.5 pi, 4.5 pi]``. Its mean is ``(2, 2 / (3 pi))`` and its variances are
    ``(9.75 pi^2 - 0.5) / 2 - 4 + noise^2`` and ``(9.75 pi^2 + 0.5) / 2 - 4 / (9 pi^2) + noise^2``. The
    mean is subtracted and both axes are divided by the root of the average of the two variances, about
    6.81 for the default noise.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.
    noise : float
        Standard deviation of the blur before standardisation; the arms are ``2 pi`` apart there.

    Returns
    -------
    Tensor, (n, 2) float32
        Mean 0; standard deviations about 0.978 and 1.021, average variance exactly 1.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    _check_count(n)
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    roll = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    mean = (2.0, 2 / (3 * math.pi))
    variance = 9.75 * math.pi**2 / 2 - (mean[0] ** 2 + mean[1] ** 2) / 2 + noise**2
    return _standardise(roll + noise * _normal(n, generator), mean, math.sqrt(variance))


def moons(n: int, generator: Generator | None = None, *, noise: float = 0.1) -> Tensor:
    """Draw points from two interleaved half circles, with random (not evenly spaced) angles.

    Before standardisation half of the points are ``(cos a, sin a)`` and half are
    ``(1 - cos a, 1/2 - sin a)``, with ``a`` uniform on ``[0, pi]``, plus ``noise * N(0, I)``. The mean is
    ``(1/2, 1/4)`` and the variances are ``3/4 + noise^2`` and ``9/16 - 1/pi + noise^2``. The mean is
    subtracted and both axes are divided by the root of the average of the two variances, about 0.712
    for the default noise. Each point picks its half circle by a fair coin.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.
    noise : float
        Standard deviation of the blur before standardisation; the circles have radius 1 there.

    Returns
    -------
    Tensor, (n, 2) float32
        Mean 0; standard deviations about 1.224 and 0.708, average variance exactly 1.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    _check_count(n)
    angle = math.pi * _uniform(n, generator)
    lower = _uniform(n, generator) < 0.5
    x = torch.where(lower, 1 - angle.cos(), angle.cos())
    y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
    variance = (0.75 + 9 / 16 - 1 / math.pi) / 2 + noise**2
    points = torch.stack([x, y], dim=1) + noise * _normal(n, generator)
    return _standardise(points, (0.5, 0.25), math.sqrt(variance))


def checkerboard(n: int, generator: Generator | None = None) -> Tensor:
    """Draw points uniformly from the dark squares of a 4 x 4 board.

    Before standardisation the board is ``[-4, 4]^2`` with squares of side 2, those with an even sum of
    row and column being dark. The mean is 0 and both variances are 16/3, so points are divided by
    ``4 / sqrt(3)``, about 2.309; the standardised board is ``[-sqrt(3), sqrt(3)]^2``.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.

    Returns
    -------
    Tensor, (n, 2) float32
        Mean 0; standard deviation exactly 1 on each axis.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    _check_count(n)
    x = 4 * _uniform(n, generator)
    column = x.floor()
    row = 2 * (2 * _uniform(n, generator)).floor() + column % 2
    y = row + _uniform(n, generator)
    return _standardise(2 * torch.stack([x, y], dim=1) - 4, (0.0, 0.0), 4 / math.sqrt(3))


def eight_gaussians_parameters(*, std: float = 0.1) -> MixtureParameters:
    """Parameters of eight equal Gaussians evenly spaced on a circle.

    The radius is ``sqrt(2 * (1 - std^2))``, about 1.407 by default, which makes the variance of the
    mixture exactly 1 on each axis.

    Parameters
    ----------
    std : float
        Standard deviation of each mode, in (0, 1). Neighbouring modes are ``0.765 * radius`` apart.

    Returns
    -------
    MixtureParameters
        Weights 1/8; ``means`` and ``stds`` of shape (8, 2).

    Raises
    ------
    ValueError
        If ``std`` is not strictly between 0 and 1.
    """
    if not 0 < std < 1:
        raise ValueError(f"std of a mode must lie strictly between 0 and 1, got {std}")
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = math.sqrt(2 * (1 - std**2)) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return MixtureParameters(torch.full_like(angle, 1 / 8), means, torch.full_like(means, std))


def eight_gaussians(n: int, generator: Generator | None = None, *, std: float = 0.1) -> Tensor:
    """Draw points from eight equal Gaussians on a circle; see `eight_gaussians_parameters`.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.
    std : float
        Standard deviation of each mode, in (0, 1).

    Returns
    -------
    Tensor, (n, 2) float32
        Mean 0; standard deviation exactly 1 on each axis.

    Raises
    ------
    ValueError
        If ``n`` is less than 1 or ``std`` is not strictly between 0 and 1.
    """
    return sample_mixture(n, eight_gaussians_parameters(std=std), generator)[0]


def two_gaussians_parameters(*, standardised: bool = True) -> MixtureParameters:
    """Parameters of two equal Gaussians with means (-5, 0) and (5, 0) and identity covariance.

    The variances of that mixture are 26 and 1. Standardising divides each axis by its own standard
    deviation, ``(sqrt(26), 1)``: the means become ``(-+0.981, 0)`` and the modes are ellipses of standard
    deviations ``(0.196, 1)``.

    Parameters
    ----------
    standardised : bool
        Whether to give each axis unit variance.

    Returns
    -------
    MixtureParameters
        Weights 1/2; ``means`` and ``stds`` of shape (2, 2).
    """
    means = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    scale = torch.tensor([math.sqrt(26.0) if standardised else 1.0, 1.0], dtype=torch.float64)
    return MixtureParameters(weights, means / scale, torch.ones_like(means) / scale)


def two_gaussians(
    n: int, generator: Generator | None = None, *, standardised: bool = True
) -> Tensor:
    """Draw points from two equal Gaussians; see `two_gaussians_parameters`.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.
    standardised : bool
        Whether to give each axis unit variance; otherwise standard deviations are (sqrt(26), 1).

    Returns
    -------
    Tensor, (n, 2) float32
        Mean 0; standard deviation exactly 1 on each axis when standardised.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    return sample_mixture(n, two_gaussians_parameters(standardised=standardised), generator)[0]


def sample_mixture(
    n: int, parameters: MixtureParameters, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw points from a mixture of Gaussians together with the component of each.

    Parameters
    ----------
    n : int
        Number of points, at least 1.
    parameters : MixtureParameters
        The mixture, ``K`` components in ``D`` dimensions.
    generator : Generator, optional
        Source of randomness (its device is used); torch's global generator if omitted.

    Returns
    -------
    x : Tensor, (n, D) float32
        The points.
    component : Tensor, (n,) int64
        Index of the component of each point, in ``0 ... K - 1``; usable as a class label.

    Raises
    ------
    ValueError
        If ``n`` is less than 1.
    """
    _check_count(n)
    device = generator.device if generator is not None else parameters.means.device
    weights, means, stds = (part.to(device) for part in parameters)
    component = torch.multinomial(weights, n, replacement=True, generator=generator)
    shape = (n, means.shape[1])
    noise = torch.randn(shape, generator=generator, device=device, dtype=torch.float64)
    return (means[component] + stds[component] * noise).float(), component


ToyLaw = Callable[[int, Generator | None], Tensor]

TOY: dict[str, ToyLaw] = {
    "swiss_roll": swiss_roll,
    "moons": moons,
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "two_gaussians": two_gaussians,
}


def toy_law(name: str) -> ToyLaw:
    """Look a law up by name, for command lines.

    Parameters
    ----------
    name : str
        A key of `TOY`.

    Returns
    -------
    callable
        The law, called as ``law(n, generator)``.

    Raises
    ------
    ValueError
        If there is no law of that name; the message lists those there are.
    """
    if name not in TOY:
        raise ValueError(f"unknown toy law {name!r}; choose one of {', '.join(TOY)}")
    return TOY[name]
