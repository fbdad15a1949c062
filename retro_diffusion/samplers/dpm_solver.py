"""DPM-Solver++ and UniPC: exponential integrators of the probability-flow ODE in log-SNR.

With ``lambda = log(alpha / sigma)``, half of the log-SNR, the ODE's linear part integrates exactly,

    x_s = (sigma_s / sigma_t) x_t + sigma_s integral from lambda_t to lambda_s of e^l x0_hat(l) dl

(Lu et al. 2022, arXiv:2211.01095, equation 8). The solvers differ in how they extrapolate ``x0_hat``
along the step, of length ``h = lambda_s - lambda_t``. Held constant it gives DDIM. Where a step ends
at ``sigma = 0`` and ``h`` is infinite, all take that first-order step, which returns ``x0_hat``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims


def _step_length(schedule: NoiseSchedule, t: Tensor, s: Tensor) -> Tensor:
    """``h = lambda_s - lambda_t``; infinite where ``sigma(s) = 0``."""
    return (schedule.logsnr(s) - schedule.logsnr(t)) / 2


def dpm_solver_step(schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """``(sigma_s / sigma_t) x - alpha_s (e^{-h} - 1) x0``: the exact step for a constant ``x0``.

    Lu et al. 2022 (arXiv:2211.01095), section 4.1: DDIM, written for ``x0``.

    Parameters
    ----------
    schedule
        The path.
    x
        Sample at ``t``, shape (B, *D).
    x0
        What stands for the data along the step, shape (B, *D).
    t, s
        Shape (), ``s < t``.

    Returns
    -------
    Tensor
        Sample at ``s``, shape (B, *D).
    """
    of_x = schedule.sigma(s) / schedule.sigma(t)
    of_x0 = -schedule.alpha(s) * torch.expm1(-_step_length(schedule, t, s))
    return match_dims(of_x, x) * x + match_dims(of_x0, x) * x0


@sampler
def dpm_solver_pp_2s(
    denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None
) -> Iterator[State]:
    """DPM-Solver++(2S): second order, from a second evaluation halfway in log-SNR.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 1 with ``r = 1/2``.

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

    Yields
    ------
    State
        After each of the S steps; two function evaluations each, one where ``sigma = 0``.

    Raises
    ------
    ValueError
        If ``alpha = 0`` at the first time.
    """
    schedule = denoiser.schedule
    _check_logsnr(schedule, times[0])
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        x0 = prediction.x0
        if schedule.sigma(s) > 0:
            middle = schedule.time_at((schedule.logsnr(t) + schedule.logsnr(s)) / 2)
            x0 = denoiser(dpm_solver_step(schedule, x, x0, t, middle), middle, cond).x0
        x = dpm_solver_step(schedule, x, x0, t, s)
        yield State(s, x, prediction)


@sampler
def dpm_solver_pp_2m(
    denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None
) -> Iterator[State]:
    """DPM-Solver++(2M): second order, from the evaluation of the step before.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2: ``x0_hat`` is extrapolated to the middle of the
    step along the line through its last two values. The first step is of first order.

    Parameters
    ----------
    denoiser, x, times, cond
        As for `dpm_solver_pp_2s`, shapes too, but ``alpha`` may be 0 at the first time.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.
    """
    schedule = denoiser.schedule
    previous, h_previous = None, torch.tensor(math.inf)
    for t, s in pairwise(times):
        prediction, h = denoiser(x, t, cond), _step_length(schedule, t, s)
        x0 = prediction.x0
        if previous is not None and h.isfinite():
            x0 = x0 + match_dims(h / (2 * h_previous), x) * (x0 - previous)
        x = dpm_solver_step(schedule, x, x0, t, s)
        previous, h_previous = prediction.x0, h
        yield State(s, x, prediction)


@sampler
def dpm_solver_pp_3m(
    denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None
) -> Iterator[State]:
    """DPM-Solver++(3M): third order, from the evaluations of the two steps before.

    The parabola through the last three values of ``x0_hat`` is integrated exactly (Lu et al. 2022,
    arXiv:2211.01095, section 4.2, carried one order further as in their code). The first step is of
    first order, the second of second.

    Parameters
    ----------
    denoiser, x, times, cond
        As for `dpm_solver_pp_2s`, shapes too.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.

    Raises
    ------
    ValueError
        If ``alpha = 0`` at the first time.
    """
    schedule = denoiser.schedule
    _check_logsnr(schedule, times[0])
    history: list[tuple[Tensor, Tensor]] = []  # (lambda, x0_hat), the newest first
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        history = [(schedule.logsnr(t) / 2, prediction.x0), *history[:2]]
        x0 = prediction.x0
        if schedule.sigma(s) > 0 and len(history) > 1:
            x0 = _mean_along_step(history, _step_length(schedule, t, s))
        x = dpm_solver_step(schedule, x, x0, t, s)
        yield State(s, x, prediction)


def _mean_along_step(history: list[tuple[Tensor, Tensor]], h: Tensor) -> Tensor:
    """Mean of the polynomial through ``history``, weighted by e^l over a step of length ``h``.

    In Newton's form: ``d1`` and ``d2`` are divided differences. The means of ``u`` and ``u (u - u_1)``,
    u being the distance from the newest point, are integrals of e^u u and e^u u^2 over that of e^u.
    """
    (now, x0), (before, x0_before) = history[:2]
    d1 = (x0 - x0_before) / match_dims(now - before, x0)
    mean_u = (h + torch.expm1(-h)) / -torch.expm1(-h)
    if len(history) == 2:
        return x0 + match_dims(h / 2, x0) * d1  # as 2M does: u at the middle of the step
    earlier, x0_earlier = history[2]
    d1_before = (x0_before - x0_earlier) / match_dims(before - earlier, x0)
    d2 = (d1 - d1_before) / match_dims(now - earlier, x0)
    mean_u2 = (h**2 - 2 * h - 2 * torch.expm1(-h)) / -torch.expm1(-h)
    return x0 + match_dims(mean_u, x0) * d1 + match_dims(mean_u2 + (now - before) * mean_u, x0) * d2


@sampler
def unipc(
    denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None, *, order: int = 2
) -> Iterator[State]:
    """UniPC: predict, evaluate there, then correct with the same evaluation; none is extra.

    Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 to 8, for ``x0_hat`` and with
    ``B(h) = e^h - 1``; first steps are of lower order for want of history.

    Parameters
    ----------
    denoiser, x, times, cond
        As for `dpm_solver_pp_2s`, shapes too.
    order
        Number of evaluations that the predictor uses, 1 to 3; the method converges with order
        ``order + 1``, thanks to the corrector.

    Yields
    ------
    State
        After each of the S steps, corrected except for the last; one function evaluation each.

    Raises
    ------
    ValueError
        If ``order`` is not 1, 2 or 3, or ``alpha = 0`` at the first time.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, not {order}")
    schedule = denoiser.schedule
    _check_logsnr(schedule, times[0])
    history: list[tuple[Tensor, Tensor]] = []  # (lambda, x0_hat), the newest first
    prediction = denoiser(x, times[0], cond)
    for i, (t, s) in enumerate(pairwise(times)):
        now, h, x0 = schedule.logsnr(t) / 2, _step_length(schedule, t, s), prediction.x0
        if schedule.sigma(s) == 0:  # h is infinite: hold x0 constant
            history = []
        ratios = [(past - now) / h for past, _ in history]
        slopes = [
            (past - x0) / match_dims(ratio, x)
            for (_, past), ratio in zip(history, ratios, strict=True)
        ]
        constant = dpm_solver_step(schedule, x, x0, t, s)
        scale = match_dims(-schedule.alpha(s) * torch.expm1(-h), x)
        state = State(s, constant + scale * _sum(_predictor_weights(ratios, h), slopes), prediction)
        if i + 2 < len(times):
            prediction = denoiser(state.x, s, cond)
            slopes = [*slopes, prediction.x0 - x0]
            corrected = constant + scale * _sum(_corrector_weights(ratios, h), slopes)
            state = state._replace(x=corrected)
        x, history = state.x, [(now, x0), *history][: order - 1]
        yield state


def _sum(weights: list[Tensor], slopes: list[Tensor]) -> Tensor | float:
    terms = zip(weights, slopes, strict=True)
    return sum((match_dims(weight, slope) * slope for weight, slope in terms), start=0.0)


def _predictor_weights(ratios: list[Tensor], h: Tensor) -> list[Tensor]:
    """Weights of the past slopes; 1/2 for a single one, as the authors simplify."""
    return [torch.tensor(0.5)] if len(ratios) == 1 else _weights(ratios, h)


def _corrector_weights(ratios: list[Tensor], h: Tensor) -> list[Tensor]:
    """Weights of the past slopes and of the new one, whose ratio is 1; 1/2 for that one alone."""
    return [torch.tensor(0.5)] if not ratios else _weights([*ratios, torch.ones_like(h)], h)


def _weights(ratios: list[Tensor], h: Tensor) -> list[Tensor]:
    """Weights that integrate e^u times a polynomial exactly, from its slopes at these ratios of h.

    Zhao et al. 2023 (arXiv:2302.04867), theorem 3.1: a Vandermonde system, one row for each power of
    ``u / h``, whose right-hand side is that power's mean weighted by e^u.
    """
    if not ratios:
        return []
    phi, moments = torch.expm1(-h), []
    for k in range(1, len(ratios) + 1):
        phi = phi / -h - 1 / math.factorial(k)
        moments.append(math.factorial(k) * phi / torch.expm1(-h))
    powers = torch.stack(ratios) ** torch.arange(len(ratios))[:, None]
    return list(torch.linalg.solve(powers, torch.stack(moments)))


def _check_logsnr(schedule: NoiseSchedule, t: Tensor) -> None:
    if schedule.alpha(t) == 0:
        raise ValueError(
            f"log-SNR is infinite at times[0] = {float(t):g} of {type(schedule).__name__}, where "
            "alpha = 0: start below it"
        )
