"""Batches are tensors within tuples, lists and dictionaries: to count, to cut, to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], nest: Any) -> Any:
    """Apply a function to every tensor.

    Parameters
    ----------
    function
        Maps a tensor to another.
    nest
        Tensors within tuples (named ones, too), lists and dictionaries.

    Returns
    -------
    Any
        The same nest of the results; what is not a tensor stays as it is.
    """
    if isinstance(nest, Tensor):
        return function(nest)
    if isinstance(nest, dict):
        return {key: map_tensors(function, value) for key, value in nest.items()}
    if isinstance(nest, list | tuple):
        items = [map_tensors(function, value) for value in nest]
        return type(nest)(*items) if hasattr(nest, "_fields") else type(nest)(items)
    return nest


def to_device(nest: Any, device: torch.device) -> Any:
    """Move every tensor to a device; the same nest."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), nest)


def length(nest: Any) -> int:
    """Count a batch: the first dimension of its first tensor that has one, or 1 if none does."""
    return next((len(tensor) for tensor in _tensors(nest) if tensor.ndim), 1)


def part(nest: Any, index: int, n_parts: int) -> Any:
    """Cut a batch into equal parts and take one.

    Parameters
    ----------
    nest
        A batch. Tensors as long as the batch are cut; others belong to all of it.
    index
        Which part, 0 ... ``n_parts - 1``.
    n_parts
        How many there are.

    Returns
    -------
    Any
        A nest of the same kind.

    Raises
    ------
    ValueError
        If the batch cannot be cut into that many equal parts.
    """
    if n_parts == 1:
        return nest
    n = length(nest)
    if n % n_parts:
        raise ValueError(f"a batch of {n} cannot be cut into {n_parts} equal parts")
    rows = slice(index * n // n_parts, (index + 1) * n // n_parts)
    return map_tensors(lambda x: x[rows] if x.ndim and len(x) == n else x, nest)


def _tensors(nest: Any) -> Iterator[Tensor]:
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict | list | tuple):
        for value in nest.values() if isinstance(nest, dict) else nest:
            yield from _tensors(value)
