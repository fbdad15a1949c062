"""Ancestral sampling: draw every step from the model's reverse kernel (DDPM, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.reverse import StepVariance, lower_variance, posterior_mean, reverse_step
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.tensors import match_dims, randn_like


@sampler
def ancestral(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    variance: StepVariance = lower_variance,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Sample ``x_s ~ N(posterior mean with x0 = x0_hat, variance)`` down the grid.

    Ho et al. 2020 (arXiv:2006.11239), algorithm 2; a grid that leaves steps out is the respaced
    sampler of Nichol and Dhariwal 2021, equation 19. The step that ends at ``sigma = 0`` adds no
    noise.

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
    variance
        `reverse.lower_variance`, `reverse.upper_variance` or `reverse.learned_variance`.
    generator
        Source of the steps' noise.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.
    """
    schedule = denoiser.schedule
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        step = reverse_step(schedule, t, s)
        x = posterior_mean(step, x, prediction.x0)
        if schedule.sigma(s) > 0:
            x = x + match_dims(variance(step, prediction), x).sqrt() * randn_like(x, generator)
        yield State(s, x, prediction)
