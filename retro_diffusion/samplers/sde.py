"""Solvers of the reverse-time SDE, with and without a Langevin corrector (arXiv:2011.13456).

The forward SDE ``dx = f(t) x dt + g(t) dw`` has a family of reversals with the same marginals,

    dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dw    (time running down),

from the probability-flow ODE at ``eta = 0`` (equation 13) to the reverse SDE at ``eta = 1``
(equation 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion import parameterizations
from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import reverse_step
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims, randn_like

PredictorStep = Callable[
    [NoiseSchedule, Tensor, Prediction, Tensor, Tensor, torch.Generator | None], Tensor
]


def euler_maruyama_step(
    schedule: NoiseSchedule,
    x: Tensor,
    prediction: Prediction,
    t: Tensor,
    s: Tensor,
    generator: torch.Generator | None = None,
    *,
    eta: float = 1.0,
) -> Tensor:
    """One Euler-Maruyama step of the reverse SDE (or of its family, above) from ``t`` to ``s``.

    Parameters
    ----------
    schedule
        The path.
    x
        Sample at ``t``, shape (B, *D).
    prediction
        The denoiser's answer there.
    t, s
        Shape (), ``s < t``, with ``alpha(t) > 0``.
    generator
        Source of the noise; none is drawn if ``sigma(s) = 0`` or ``eta = 0``.
    eta
        0 is the ODE, 1 the reverse SDE; any value >= 0 has the same marginals.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    f, g, dt = match_dims(schedule.drift(t), x), match_dims(schedule.diffusion(t), x), s - t
    score = parameterizations.score(schedule, prediction, t)
    x = x + (f * x - (1 + eta**2) / 2 * g**2 * score) * match_dims(dt, x)
    if eta == 0 or schedule.sigma(s) == 0:
        return x
    return x + eta * g * match_dims(-dt, x).sqrt() * randn_like(x, generator)


def reverse_diffusion_step(
    schedule: NoiseSchedule,
    x: Tensor,
    prediction: Prediction,
    t: Tensor,
    s: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step that discretises the reverse SDE as the forward one is discretised.

    Song et al. 2021, equation 46: for ``q(x_t | x_s) = N(a x_s, b I)`` it is
    ``x_s = (2 - a) x + b score + sqrt(b) z``. On a variance-exploding path
    ``b = sigma_t^2 - sigma_s^2`` (algorithm 2), on a DDPM chain ``b = beta`` (algorithm 3).

    Parameters
    ----------
    schedule, x, prediction, t, s
        As for `euler_maruyama_step`.
    generator
        Source of the noise; none is drawn if ``sigma(s) = 0``.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    kept = match_dims(schedule.alpha(t) / schedule.alpha(s), x)
    added = match_dims(reverse_step(schedule, t, s).upper, x)
    x = (2 - kept) * x + added * parameterizations.score(schedule, prediction, t)
    if schedule.sigma(s) == 0:
        return x
    return x + added.sqrt() * randn_like(x, generator)


def corrector_step(
    x: Tensor, score: Tensor, snr: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """``x + e score + sqrt(2 e) z`` with ``e = 2 (snr |z| / |score|)^2``, norms averaged over the batch.

    Song et al. 2021, algorithms 4 and 5: a step of Langevin dynamics whose score part is ``snr`` times as
    long as its noise.

    Parameters
    ----------
    x, score
        Sample and score of its law, shape (B, *D).
    snr
        The paper's ``r``, shape (); on a path with ``alpha < 1``, times ``alpha``.
    generator
        Source of ``z``.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    z = randn_like(x, generator)
    noise_norm, score_norm = z.flatten(1).norm(dim=1).mean(), score.flatten(1).norm(dim=1).mean()
    size = 2 * (match_dims(snr, x) * noise_norm / score_norm) ** 2
    return x + size * score + (2 * size).sqrt() * z


@sampler
def euler_maruyama(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Solve the reverse SDE by the Euler-Maruyama method (Song et al. 2021, section 4.1).

    Parameters
    ----------
    denoiser
        Any denoiser.
    x
        Start, shape (B, *D), e.g. `starting_noise`.
    times
        Decreasing, shape (S + 1,), from a time where ``alpha > 0``.
    cond
        Passed to the denoiser.
    eta
        1 is the reverse SDE, 0 the probability-flow ODE.
    generator
        Source of the noise.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.

    Raises
    ------
    ValueError
        If ``eta`` is negative, or ``alpha = 0`` at the first time.
    """
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, not {eta}")
    schedule = denoiser.schedule
    _check_drift(schedule, times[0])
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        x = euler_maruyama_step(schedule, x, prediction, t, s, generator, eta=eta)
        yield State(s, x, prediction)


@sampler
def predictor_corrector(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    predictor: PredictorStep = reverse_diffusion_step,
    n_corrector_steps: int = 1,
    snr: float = 0.16,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Alternate a step of the reverse SDE with steps of Langevin dynamics at the level it reached.

    Song et al. 2021 (arXiv:2011.13456), algorithm 1, with the corrector of algorithms 4 and 5 (on a path
    with ``alpha < 1`` its size has the factor ``alpha_s^2``). Nothing is corrected where ``sigma = 0``. (The
    released code runs the corrector first, at the level where the predictor is about to start: the same
    chain but for its first and last moves.)

    Parameters
    ----------
    denoiser, x, times, cond
        As for `euler_maruyama`, shapes too.
    predictor
        `reverse_diffusion_step` or `euler_maruyama_step`.
    n_corrector_steps
        Langevin steps after each step of the predictor, >= 0.
    snr
        The paper's ``r``, > 0: how strong the corrector's step is beside its noise.
    generator
        Source of the noise.

    Yields
    ------
    State
        After each predictor step and its corrections; ``1 + n_corrector_steps`` function evaluations
        each.

    Raises
    ------
    ValueError
        If ``n_corrector_steps`` is negative, ``snr`` is not positive, or ``alpha = 0`` at the first
        time.
    """
    if n_corrector_steps < 0 or not snr > 0:
        raise ValueError(
            f"n_corrector_steps must be >= 0 and snr > 0, not {n_corrector_steps} and {snr}"
        )
    schedule = denoiser.schedule
    _check_drift(schedule, times[0])
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        x = predictor(schedule, x, prediction, t, s, generator)
        for _ in range(n_corrector_steps if schedule.sigma(s) > 0 else 0):
            prediction = denoiser(x, s, cond)
            score = parameterizations.score(schedule, prediction, s)
            x = corrector_step(x, score, snr * schedule.alpha(s), generator)
        yield State(s, x, prediction)


def _check_drift(schedule: NoiseSchedule, t: Tensor) -> None:
    if schedule.alpha(t) == 0:
        raise ValueError(
            f"the reverse SDE of {type(schedule).__name__} is singular at times[0] = {float(t):g}, "
            "where alpha = 0: start below it, or use a solver of the probability-flow ODE"
        )
