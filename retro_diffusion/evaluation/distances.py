"""Distances between two samples, computed in float64 and block by block.

A sample is a tensor of ``N`` points whose trailing dimensions are flattened, so that images may be
given as they are. Memory grows with ``N``, not with ``N^2``.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

_BLOCK_ENTRIES = 1 << 22  # distances held at a time: 32 MiB


def as_points(x: Tensor, name: str = "samples", least: int = 2) -> Tensor:
    """Flatten a sample to float64 points and check it.

    Parameters
    ----------
    x : Tensor, (N, *D)
        The sample.
    name : str
        What to call it in messages.
    least : int
        Fewest points accepted.

    Returns
    -------
    Tensor, (N, prod(D)) float64
        The points, detached.

    Raises
    ------
    ValueError
        If there is no dimension besides the first, there are too few points, or some are not finite.
    """
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (N, D) or (N, C, H, W), got {tuple(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{name} must hold at least {least} points, got {len(x)}")
    points = x.detach().flatten(1).double()
    if not points.isfinite().all():
        raise ValueError(f"{name} contain values that are not finite")
    return points


def as_pair(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Flatten two samples with `as_points` and check that their points are alike.

    Parameters
    ----------
    a, b : Tensor, (N, *D) and (M, *D)
        The samples.
    least : int
        Fewest points accepted in each.

    Returns
    -------
    tuple of Tensor
        Points of shapes (N, prod(D)) and (M, prod(D)), float64.

    Raises
    ------
    ValueError
        If the trailing shapes differ, or `as_points` objects.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            "samples and reference must agree in shape after the first dimension, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return as_points(a, "samples", least), as_points(b, "reference", least)


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances from each point of one set to every point of another, some rows at a time.

    Parameters
    ----------
    a, b : Tensor, (N, D) and (M, D)
        Points, float64.

    Yields
    ------
    rows : slice
        Which points of ``a``.
    distances : Tensor, (rows, M)
        Their distances to all of ``b``.
    """
    step = max(1, _BLOCK_ENTRIES // len(b))
    # Differences are exact for coincident points; the matrix product is much faster in high dimension.
    high = a.shape[1] > 16
    mode = "use_mm_for_euclid_dist" if high else "donot_use_mm_for_euclid_dist"
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        yield rows, torch.cdist(a[rows], b, compute_mode=mode)


def _mean_distance(a: Tensor, b: Tensor) -> float:
    total = sum(block.sum().item() for _, block in distance_blocks(a, b))
    return total / (len(a) * len(b))


def energy_distance(samples: Tensor, reference: Tensor) -> float:
    """Energy distance ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of the two empirical laws.

    Zero only for equal laws, and never negative. Averages run over all pairs, a point with itself
    included, so that even two draws of one law are a positive distance apart, which decays as ``1/N``:
    read it against its floor (`measure`). ``scipy.stats.energy_distance`` is its square root, in one
    dimension.

    Parameters
    ----------
    samples, reference : Tensor, (N, *D) and (M, *D)
        The two samples, at least 2 points each.

    Returns
    -------
    float
        The distance, at least 0 up to rounding; it scales like the data.

    Raises
    ------
    ValueError
        If shapes disagree, points are too few, or values are not finite.

    References
    ----------
    Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013.
    """
    a, b = as_pair(samples, reference)
    return 2 * _mean_distance(a, b) - _mean_distance(a, a) - _mean_distance(b, b)


def _wasserstein_power(a: Tensor, b: Tensor, p: float) -> Tensor:
    """p-th power of the exact Wasserstein-p distance per column of sorted (N, P) and (M, P)."""
    n, m = len(a), len(b)
    if n == m:
        return (a - b).abs().pow(p).mean(0)
    # Both quantile functions are constant between consecutive multiples of 1/n and 1/m; in units of
    # 1/(n m) those are integers.
    steps_a, steps_b = torch.arange(n + 1) * m, torch.arange(m + 1) * n
    edges = torch.cat([steps_a, steps_b]).unique()
    widths = (edges.diff().double() / (n * m)).to(a.device)
    difference = a[(edges[:-1] // m).to(a.device)] - b[(edges[:-1] // n).to(b.device)]
    return (widths[:, None] * difference.abs().pow(p)).sum(0)


def sliced_wasserstein(
    samples: Tensor,
    reference: Tensor,
    *,
    n_projections: int = 128,
    p: float = 2.0,
    generator: Generator | None = None,
) -> float:
    """Sliced Wasserstein distance: the exact one-dimensional distance, averaged over directions.

    ``(E |W_p(<u, X>, <u, Y>)|^p)^(1/p)`` with ``u`` uniform on the unit sphere. A shift by ``d`` in ``D``
    dimensions gives ``|d| / sqrt(D)`` for ``p = 2``.

    Parameters
    ----------
    samples, reference : Tensor, (N, *D) and (M, *D)
        The two samples, at least 2 points each; sizes may differ.
    n_projections : int
        Number of random directions, at least 1.
    p : float
        Order of the distance, at least 1.
    generator : Generator, optional
        Source of the directions; if omitted they are always the same ones.

    Returns
    -------
    float
        The distance, in units of the data.

    Raises
    ------
    ValueError
        If shapes disagree, points are too few, values are not finite, or an option is out of range.

    References
    ----------
    Bonneel, Rabin, Peyre and Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015.
    """
    if n_projections < 1 or p < 1:
        raise ValueError(
            f"n_projections and p must be at least 1, got n_projections={n_projections} and p={p}"
        )
    a, b = as_pair(samples, reference)
    generator = generator or Generator().manual_seed(0)
    shape = (a.shape[1], n_projections)
    directions = torch.randn(
        shape, generator=generator, device=generator.device, dtype=torch.float64
    ).to(a.device)
    directions = directions / directions.norm(dim=0)
    powers = [
        _wasserstein_power((a @ some).sort(dim=0).values, (b @ some).sort(dim=0).values, p)
        for some in directions.split(32, dim=1)
    ]
    return torch.cat(powers).mean().item() ** (1 / p)


def median_bandwidth(x: Tensor, *, n_points: int = 1000) -> float:
    """Median distance between points of a sample, the customary width of a Gaussian kernel.

    Parameters
    ----------
    x : Tensor, (N, *D)
        The sample, at least 2 points.
    n_points : int
        Evenly spaced rows are taken if there are more points than this.

    Returns
    -------
    float
        The median over pairs of distinct rows.

    Raises
    ------
    ValueError
        If points are too few or not finite, or if more than half of the pairs coincide.
    """
    points = as_points(x)
    if len(points) > n_points:
        points = points[torch.linspace(0, len(points) - 1, n_points).long()]
    median = torch.pdist(points).median().item()
    if median == 0:
        raise ValueError("the median distance is 0: too many points coincide to set a bandwidth")
    return median


def mmd(samples: Tensor, reference: Tensor, *, bandwidths: Sequence[float] | None = None) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy under Gaussian kernels.

    The kernel is the average of ``exp(-|x - y|^2 / (2 h^2))`` over the bandwidths ``h``. Being unbiased
    the estimate averages 0 for equal laws and may be negative: judge it by its interval, not by a
    ratio. To compare several models give all of them the same bandwidths.

    Parameters
    ----------
    samples, reference : Tensor, (N, *D) and (M, *D)
        The two samples, at least 2 points each.
    bandwidths : sequence of float, optional
        Positive kernel widths; half, once and twice `median_bandwidth` of the reference if omitted.

    Returns
    -------
    float
        The estimate, at most 2.

    Raises
    ------
    ValueError
        If shapes disagree, points are too few, values are not finite, or a bandwidth is not positive.

    References
    ----------
    Gretton et al., "A kernel two-sample test", JMLR 2012, equation (3).
    """
    a, b = as_pair(samples, reference)
    if bandwidths is None:
        median = median_bandwidth(b)
        bandwidths = (median / 2, median, 2 * median)
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f"bandwidths must be positive and at least one, got {list(bandwidths)}")
    within_a = (_kernel_sum(a, a, bandwidths) - len(a)) / (len(a) * (len(a) - 1))
    within_b = (_kernel_sum(b, b, bandwidths) - len(b)) / (len(b) * (len(b) - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b, bandwidths) / (len(a) * len(b))


def _kernel_sum(a: Tensor, b: Tensor, bandwidths: Sequence[float]) -> float:
    total = 0.0
    for _, block in distance_blocks(a, b):
        square = block.square()
        total += sum((square / (-2 * h**2)).exp().sum().item() for h in bandwidths)
    return total / len(bandwidths)


def nn_distance(samples: Tensor, reference: Tensor) -> Tensor:
    """Distance from each sample to the nearest reference point: small ones betray memorisation.

    Compare the distances to the training set with those to a held-out set of the same size.

    Parameters
    ----------
    samples, reference : Tensor, (N, *D) and (M, *D)
        The two samples, at least 1 point each.

    Returns
    -------
    Tensor, (N,) float64
        Euclidean distances, in units of the data.

    Raises
    ------
    ValueError
        If shapes disagree, a sample is empty, or values are not finite.
    """
    a, b = as_pair(samples, reference, least=1)
    return torch.cat([block.min(dim=1).values for _, block in distance_blocks(a, b)])
