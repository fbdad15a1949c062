"""DDIM: the forward process applied to the predicted pair (arXiv:2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import reverse_step
from retro_diffusion.samplers.state import State
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims, randn_like
from retro_diffusion.times import check_grid


def ddim_step(
    schedule: NoiseSchedule,
    prediction: Prediction,
    t: Tensor,
    s: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``x_s = alpha_s x0 + sqrt(sigma_s^2 - tau^2) eps + tau z``: one step from ``t`` to ``s``.

    Song et al. 2021 (arXiv:2010.02502), equation 12, with ``tau^2 = eta^2`` times the variance of
    ``q(x_s | x_t, x0)`` (equation 16).

    Parameters
    ----------
    schedule
        The path.
    prediction
        The denoiser's answer at ``t``, tensors of shape (B, *D).
    t, s
        Shape () or (B,), ``s < t``. (With ``eta = 0``, ``s > t`` is a step of inversion.)
    eta
        0 is deterministic, 1 is ancestral sampling with the lower variance.
    generator
        Source of ``z``; nothing is drawn when ``eta`` is 0.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    x0, eps, _ = prediction
    if eta == 0:
        return match_dims(schedule.alpha(s), x0) * x0 + match_dims(schedule.sigma(s), x0) * eps
    tau2 = eta**2 * reverse_step(schedule, t, s).lower
    direction = (schedule.sigma(s) ** 2 - tau2).clamp(min=0).sqrt()
    mean = match_dims(schedule.alpha(s), x0) * x0 + match_dims(direction, x0) * eps
    return mean + match_dims(tau2.sqrt(), x0) * randn_like(x0, generator)


@torch.no_grad()
def ddim(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Sample with DDIM, the first-order solver of the probability-flow ODE when ``eta`` is 0.

    Song et al. 2021 (arXiv:2010.02502), equation 12.

    Parameters
    ----------
    denoiser
        Any denoiser.
    x
        Start, shape (B, *D), e.g. `starting_noise`.
    times
        Decreasing, shape (S + 1,); see `retro_diffusion.times`.
    cond
        Passed to the denoiser.
    eta
        In [0, 1]: 0 is deterministic, 1 is ancestral sampling with the lower variance.
    generator
        Source of the steps' noise when ``eta`` is above 0.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.

    Raises
    ------
    ValueError
        If ``eta`` is outside [0, 1], or the grid is not one (`times.check_grid`).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], not {eta}")
    for t, s in pairwise(check_grid(denoiser.schedule, times)):
        prediction = denoiser(x, t, cond)
        x = ddim_step(denoiser.schedule, prediction, t, s, eta=eta, generator=generator)
        yield State(s, x, prediction)
