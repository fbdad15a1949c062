"""Labelled images in memory: the tuple that loaders return, its range check and its split."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor


class Images(NamedTuple):
    """Labelled images.

    Attributes
    ----------
    x : Tensor, (N, C, H, W) float32
        Pixels in [-1, 1].
    y : Tensor, (N,) int64
        Class labels, counted from 0.
    """

    x: Tensor
    y: Tensor


def check_image_range(x: Tensor) -> Tensor:
    """Check that pixels span [-1, 1], the range that every image model here is built for.

    Data scaled to [0, 1] also lies within [-1, 1]; they are recognised by having no negative pixel and
    a brightest pixel above 0.99.

    Parameters
    ----------
    x : Tensor, any shape
        Pixels.

    Returns
    -------
    Tensor
        ``x`` itself.

    Raises
    ------
    ValueError
        If pixels are not floating point, not finite, out of [-1, 1], or look scaled to [0, 1].
    """
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point in [-1, 1], got {x.dtype}")
    low, high = x.min().item(), x.max().item()
    inside = -1 - 1e-6 <= low <= high <= 1 + 1e-6
    if not inside or (low >= 0 and high > 0.99):
        raise ValueError(
            f"images must be scaled to [-1, 1], but their values range over [{low:.4g}, {high:.4g}]"
        )
    return x


def _sizes(parts: Sequence[float], total: int) -> list[int]:
    if all(isinstance(part, int) for part in parts):
        sizes = [int(part) for part in parts]
    else:
        edges = torch.tensor([0.0, *parts], dtype=torch.float64).cumsum(0) * total
        sizes = [int(b - a) for a, b in pairwise(edges.round().tolist())]
    if not sizes or min(sizes) < 1 or sum(sizes) > total:
        raise ValueError(
            f"parts must be sizes or fractions that give at least 1 and in all at most {total} "
            f"images, got {list(parts)}"
        )
    return sizes


def split(images: Images, parts: Sequence[float], *, seed: int = 0) -> tuple[Images, ...]:
    """Split images into disjoint parts that share the class frequencies of the whole.

    Every class is shuffled and its images are spread evenly over one line, which is then cut: each part
    holds its share of each class to within two images. Parts are shuffled in the end.

    Parameters
    ----------
    images : Images
        The whole, ``N`` images.
    parts : sequence of int or of float
        Sizes if all are ``int``, else fractions of ``N`` (rounded). They may leave images over.
    seed : int
        The same seed gives the same split.

    Returns
    -------
    tuple of Images
        One per entry of ``parts``.

    Raises
    ------
    ValueError
        If a part is empty or the parts together hold more than ``N`` images.
    """
    total = len(images.y)
    sizes = _sizes(parts, total)
    generator = Generator().manual_seed(seed)
    place = torch.empty(total, dtype=torch.float64)
    for label in images.y.unique():
        (members,) = torch.where(images.y == label)
        order = torch.randperm(len(members), generator=generator)
        shift = torch.rand((), generator=generator, dtype=torch.float64)
        place[members[order]] = (torch.arange(len(members)) + shift) / len(members)
    chunks = place.argsort()[: sum(sizes)].split(sizes)
    shuffled = [chunk[torch.randperm(len(chunk), generator=generator)] for chunk in chunks]
    return tuple(Images(images.x[index], images.y[index]) for index in shuffled)
