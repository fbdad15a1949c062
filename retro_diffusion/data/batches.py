"""Endless mini-batches as plain functions of a generator: ``batches(generator) -> (x, cond)``."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

Batches = Callable[[Generator], tuple[Tensor, Tensor | None]]


def minibatches(x: Tensor, cond: Tensor | None = None, *, batch_size: int) -> Batches:
    """Draw mini-batches from a finite data set, uniformly with replacement.

    ``minibatches(*images, batch_size=128)`` works for a pair `Images`.

    Parameters
    ----------
    x : Tensor, (N, *D)
        The data.
    cond : Tensor, (N, ...), optional
        What goes with each datum, a class label for instance.
    batch_size : int
        ``B``, at least 1; it may exceed ``N``.

    Returns
    -------
    callable
        Maps a generator to ``x`` of shape (B, *D) and ``cond`` of shape (B, ...) or ``None``. A generator
        in the same state gives the same batch.

    Raises
    ------
    ValueError
        If there are no data, ``cond`` has another length, or ``batch_size`` is less than 1.
    """
    _check_batch_size(batch_size)
    if len(x) == 0:
        raise ValueError("mini-batches need at least one datum, got an empty tensor")
    if cond is not None and len(cond) != len(x):
        raise ValueError(f"x and cond must have equal lengths, got {len(x)} and {len(cond)}")

    def batches(generator: Generator) -> tuple[Tensor, Tensor | None]:
        device = generator.device
        index = torch.randint(len(x), (batch_size,), generator=generator, device=device)
        chosen = None if cond is None else cond[index.to(cond.device)]
        return x[index.to(x.device)], chosen

    return batches


def fresh(law: Callable[[int, Generator], Tensor], batch_size: int) -> Batches:
    """Draw every mini-batch anew from a law, so that no datum is seen twice.

    Parameters
    ----------
    law : callable
        ``law(n, generator) -> Tensor (n, *D)``, a toy law for instance.
    batch_size : int
        ``B``, at least 1.

    Returns
    -------
    callable
        Maps a generator to ``x`` of shape (B, *D) and ``None``.

    Raises
    ------
    ValueError
        If ``batch_size`` is less than 1.
    """
    _check_batch_size(batch_size)
    return lambda generator: (law(batch_size, generator), None)


def with_random_flip(batches: Batches, *, probability: float = 0.5) -> Batches:
    """Mirror each image of each mini-batch left to right with some probability.

    Parameters
    ----------
    batches : callable
        Mini-batches of images, ``x`` of shape (B, C, H, W).
    probability : float
        Chance that an image is mirrored, in [0, 1].

    Returns
    -------
    callable
        Mini-batches of the same shapes.

    Raises
    ------
    ValueError
        If ``probability`` is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of a flip must lie in [0, 1], got {probability}")

    def flipped(generator: Generator) -> tuple[Tensor, Tensor | None]:
        x, cond = batches(generator)
        draw = torch.rand(len(x), generator=generator, device=generator.device)
        mirrored = (draw < probability).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(mirrored, x.flip(-1), x), cond

    return flipped


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
