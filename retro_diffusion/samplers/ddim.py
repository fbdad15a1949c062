"""DDIM: the forward process applied to the predicted pair (arXiv:2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.parameterizations import Prediction, from_eps
from retro_diffusion.reverse import reverse_step
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims, randn_like


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


@sampler
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
        If ``eta`` is outside [0, 1], or ``x`` or ``times`` cannot be a start and a grid.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], not {eta}")
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        x = ddim_step(denoiser.schedule, prediction, t, s, eta=eta, generator=generator)
        yield State(s, x, prediction)


@sampler
def ddim_inversion(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
) -> Iterator[State]:
    """Encode data into noise: DDIM's steps with ``eta = 0``, up the same grid.

    Song et al. 2021 (arXiv:2010.02502), section 5.4: Euler's method for the probability-flow ODE,
    run from data to noise; `ddim` on the same grid decodes. The denoiser is asked at the lower end
    of each step, except where that end has no noise (``sigma = 0``): there at the upper one.

    Parameters
    ----------
    denoiser
        Any denoiser.
    x
        Data (a sample at ``times[-1]``), shape (B, *D).
    times
        The grid that `ddim` walks down: decreasing, shape (S + 1,).
    cond
        Passed to the denoiser.

    Yields
    ------
    State
        After each of the S steps, the last at ``times[0]``; one function evaluation each.
    """
    schedule = denoiser.schedule
    for s, t in pairwise(times.flip(0)):
        at = s if schedule.sigma(s) > 0 else t
        prediction = from_eps(schedule, x, denoiser(x, at, cond).eps, s)
        x = ddim_step(schedule, prediction, s, t)
        yield State(t, x, prediction)
