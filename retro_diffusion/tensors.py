"""Two helpers on tensors that every module needs."""

from __future__ import annotations

import torch
from torch import Tensor


def match_dims(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a per-sample coefficient so that it multiplies ``x``.

    Coefficients are computed in float64 (a cumulative product of a thousand factors close to one
    loses digits otherwise) and cast here, at use.

    Parameters
    ----------
    coefficient
        Shape ``()`` or ``(B,)``, any floating dtype, any device; or the shape of ``x``, left as it is.
    x
        Shape ``(B, *D)``.

    Returns
    -------
    Tensor
        Shape ``()`` or ``(B, 1, ..., 1)``, with the dtype and device of ``x``.
    """
    if coefficient.ndim == 1:
        coefficient = coefficient.reshape(-1, *(1,) * (x.ndim - 1))
    return coefficient.to(device=x.device, dtype=x.dtype)


def randn_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard normal noise with the shape, dtype and device of ``x``.

    Parameters
    ----------
    x
        Any shape.
    generator
        A generator on any device. The draw is made on the generator's device and then moved, so
        that one seed gives one result whatever the device of ``x``.

    Returns
    -------
    Tensor
        Shape of ``x``.
    """
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
