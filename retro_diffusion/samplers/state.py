"""What a sampler yields, and where it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from retro_diffusion.parameterizations import Prediction
from retro_diffusion.schedules import NoiseSchedule


class State(NamedTuple):
    """One moment of sampling: the sample ``x`` of shape (B, *D) at time ``t``.

    ``prediction`` is the one that led here, made at the previous time.
    """

    t: Tensor
    x: Tensor
    prediction: Prediction


def last(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end and return the sample.

    Parameters
    ----------
    states
        A sampler's states.

    Returns
    -------
    Tensor
        The last ``x``, shape (B, *D).

    Raises
    ------
    ValueError
        If there are no states.
    """
    state = None
    for state in states:  # noqa: B007
        pass
    if state is None:
        raise ValueError("there are no states: the sampler took no step")
    return state.x


def starting_noise(
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the sampler's start, ``N(0, (alpha^2 + sigma^2) I)`` at the noise end of the schedule.

    This is the variance that data of unit variance have there: 1 for every variance-preserving
    path and for rectified flow, ``1 + sigma_max^2`` for a variance-exploding one.

    Parameters
    ----------
    schedule
        The path.
    shape
        (B, *D).
    generator
        Source of randomness.
    dtype, device
        Of the result.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    end = torch.tensor(schedule.t_max, dtype=torch.float64)
    scale = float((schedule.alpha(end) ** 2 + schedule.sigma(end) ** 2).sqrt())
    source = "cpu" if generator is None else generator.device
    return scale * torch.randn(shape, generator=generator, dtype=dtype, device=source).to(device)
