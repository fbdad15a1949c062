"""Langevin dynamics: sampling with the score alone, at one noise level or at many in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from retro_diffusion import parameterizations
from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.tensors import match_dims, randn_like

LangevinStep = Callable[[Tensor, Tensor, Tensor, torch.Generator | None], Tensor]


def langevin_step(
    x: Tensor, score: Tensor, step_size: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """``x + (a / 2) score + sqrt(a) z``: one step as the paper writes it.

    Song and Ermon 2019 (arXiv:1907.05600), equation 4 and algorithm 1.

    Parameters
    ----------
    x, score
        Sample and score of its law, shape (B, *D).
    step_size
        ``a``, shape () or (B,), > 0.
    generator
        Source of ``z``.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    a = match_dims(step_size, x)
    return x + a / 2 * score + a.sqrt() * randn_like(x, generator)


def released_langevin_step(
    x: Tensor, score: Tensor, step_size: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """``x + a score + sqrt(2 a) z``: one step as the released code takes it, twice the paper's.

    The code of Song and Ermon 2019, of its successor (arXiv:2006.09011), and the corrector of Song et
    al. 2021 (arXiv:2011.13456). Parameters and shapes as for `langevin_step`.
    """
    return langevin_step(x, score, 2 * step_size, generator)


@sampler
def annealed_langevin(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    n_steps: int = 100,
    step_size: float = 2e-5,
    step: LangevinStep = langevin_step,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Run Langevin dynamics at each noise level of a grid, from the largest to the smallest.

    Song and Ermon 2019 (arXiv:1907.05600), algorithm 1: the step size at level ``sigma_i`` is
    ``step_size (sigma_i / sigma_L)^2``. If the grid goes on to ``sigma = 0`` the chain ends with the
    denoiser's ``x0``, which removes the noise ``sigma_L`` that is left (Song and Ermon 2020,
    arXiv:2006.09011, algorithm 1); if it ends at ``sigma_L``, as in 2019, that noise stays.

    Parameters
    ----------
    denoiser
        Any denoiser.
    x
        Start, shape (B, *D).
    times
        Decreasing, shape (L,) or, with a 0 at the end, (L + 1,): e.g. `times.geometric`.
    cond
        Passed to the denoiser.
    n_steps
        Steps per level, >= 1: the paper's ``T``.
    step_size
        Size of a step at the smallest level, > 0: the paper's epsilon.
    step
        `langevin_step`, or `released_langevin_step` for the code's convention.
    generator
        Source of the noise.

    Yields
    ------
    State
        After each level; ``n_steps`` function evaluations each, one where ``sigma = 0``.

    Raises
    ------
    ValueError
        If ``n_steps`` or ``step_size`` is not positive.
    """
    if n_steps < 1 or not step_size > 0:
        raise ValueError(f"n_steps and step_size must be positive, not {n_steps} and {step_size}")
    schedule = denoiser.schedule
    levels = [t for t in times if schedule.sigma(t) > 0]
    smallest = schedule.sigma(levels[-1])
    for t in levels:
        size = step_size * (schedule.sigma(t) / smallest) ** 2
        for _ in range(n_steps):
            prediction = denoiser(x, t, cond)
            x = step(x, parameterizations.score(schedule, prediction, t), size, generator)
        yield State(t, x, prediction)
    if schedule.sigma(times[-1]) == 0:
        prediction = denoiser(x, levels[-1], cond)
        yield State(times[-1], schedule.alpha(times[-1]) * prediction.x0, prediction)
