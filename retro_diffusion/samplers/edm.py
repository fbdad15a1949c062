"""EDM's stochastic sampler: Heun's method with noise added on the way (arXiv:2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.parameterizations import velocity
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.schedules import SigmaSchedule
from retro_diffusion.tensors import match_dims, randn_like


@sampler
def edm_stochastic(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    churn: float = 40.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Before each of Heun's steps, raise the noise level a little; then step down from there.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 2. Noise of variance ``t_hat^2 - t^2`` takes the
    sample to ``t_hat = (1 + gamma) t``, ``gamma = min(churn / S, sqrt(2) - 1)``, but not above the
    schedule's ``t_max``: fresh noise replaces old, and with it errors made so far. With ``churn = 0``
    this is `heun`.

    Parameters
    ----------
    denoiser
        A denoiser on a `SigmaSchedule`, whose time is the noise level.
    x
        Start, shape (B, *D), e.g. `starting_noise`.
    times
        Decreasing noise levels, shape (S + 1,), e.g. `times.karras`.
    cond
        Passed to the denoiser.
    churn
        The paper's S_churn, >= 0: the noise added, spread over the S steps.
    s_min, s_max
        Noise is added at levels in this range only.
    s_noise
        Standard deviation of the noise added, in units of the right one.
    generator
        Source of the noise.

    Yields
    ------
    State
        After each of the S steps; two function evaluations each, one for the step to 0.

    Raises
    ------
    ValueError
        If the schedule is not a `SigmaSchedule`, or ``churn`` is negative.
    """
    schedule = denoiser.schedule
    if not isinstance(schedule, SigmaSchedule):
        raise ValueError(
            f"edm_stochastic needs a SigmaSchedule, on which t is the noise level, "
            f"not {type(schedule).__name__}"
        )
    if not churn >= 0:
        raise ValueError(f"churn must be >= 0, not {churn}")
    gamma = min(churn / (len(times) - 1), math.sqrt(2) - 1)
    for t, s in pairwise(times):
        t_hat = t
        if gamma > 0 and s_min <= t <= s_max:
            t_hat = (t * (1 + gamma)).clamp(max=schedule.t_max)
            added = s_noise * (t_hat**2 - t**2).sqrt()
            x = x + match_dims(added, x) * randn_like(x, generator)
        prediction, dt = denoiser(x, t_hat, cond), match_dims(s - t_hat, x)
        slope = velocity(schedule, prediction, t_hat)
        end = x + dt * slope
        if s > 0:
            slope_there = velocity(schedule, denoiser(end, s, cond), s)
            end = x + dt * (slope + slope_there) / 2
        x = end
        yield State(s, x, prediction)
