"""Solvers of the probability-flow ODE ``dx/dt = alpha_dot x0_hat + sigma_dot eps_hat``.

Song et al. 2021 (arXiv:2011.13456), equation 13, written for the predicted pair. `euler` and `heun`
step in the schedule's own time; `adaptive` hands the ODE to SciPy. (`ddim` and the DPM-Solvers solve
the same ODE after integrating its linear part exactly.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.integrate import solve
from retro_diffusion.parameterizations import Prediction, velocity
from retro_diffusion.samplers.state import State, sampler
from retro_diffusion.tensors import match_dims


@sampler
def euler(denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None) -> Iterator[State]:
    """Solve the probability-flow ODE by Euler's method, of first order.

    Parameters
    ----------
    denoiser
        Any denoiser.
    x
        Start, shape (B, *D), e.g. `starting_noise`.
    times
        Decreasing, shape (S + 1,).
    cond
        Passed to the denoiser.

    Yields
    ------
    State
        After each of the S steps; one function evaluation each.
    """
    for t, s in pairwise(times):
        prediction = denoiser(x, t, cond)
        x = x + match_dims(s - t, x) * velocity(denoiser.schedule, prediction, t)
        yield State(s, x, prediction)


@sampler
def heun(denoiser: DenoiserLike, x: Tensor, times: Tensor, cond: Any = None) -> Iterator[State]:
    """Solve the probability-flow ODE by Heun's method, of second order.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1, for any schedule: an Euler step, then the
    trapezoidal rule with the velocity at its end. A step that ends at ``sigma = 0`` is Euler's.

    Parameters
    ----------
    denoiser, x, times, cond
        As for `euler`, shapes too.

    Yields
    ------
    State
        After each of the S steps; two function evaluations each, one where ``sigma = 0``.
    """
    schedule = denoiser.schedule
    for t, s in pairwise(times):
        prediction, dt = denoiser(x, t, cond), match_dims(s - t, x)
        slope = velocity(schedule, prediction, t)
        end = x + dt * slope
        if schedule.sigma(s) > 0:
            slope_there = velocity(schedule, denoiser(end, s, cond), s)
            end = x + dt * (slope + slope_there) / 2
        x = end
        yield State(s, x, prediction)


@sampler
def adaptive(
    denoiser: DenoiserLike,
    x: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
) -> Iterator[State]:
    """Solve the probability-flow ODE to a tolerance, with SciPy's ``solve_ivp``.

    Song et al. 2021 (arXiv:2011.13456), section 4.3 and appendix D.4: Dormand-Prince with both
    tolerances 1e-5. The batch is one system of B D unknowns: its steps are those that suit all.

    Parameters
    ----------
    denoiser, x, cond
        As for `euler`.
    times
        Decreasing, shape (S + 1,), ending where ``sigma > 0``: a state at each; the solver chooses
        its own steps between them.
    rtol, atol
        Relative and absolute tolerance, > 0; at least 1e-6 for a float32 ``x``, whose rounding
        would otherwise look like error, and the solver stall.
    method
        A method of ``scipy.integrate.solve_ivp``: RK45, DOP853, RK23, ...

    Yields
    ------
    State
        At each time but the first; as many function evaluations as the tolerance asks for.

    Raises
    ------
    ValueError
        If the grid ends at ``sigma = 0``, or a tolerance is too small.
    FloatingPointError
        If the velocity is not finite.
    RuntimeError
        If the solver gives up.
    """
    schedule = denoiser.schedule
    if schedule.sigma(times[-1]) == 0:
        raise ValueError(
            f"times must end where sigma > 0, not at {float(times[-1]):g}: "
            "the velocity is not defined there; stop earlier, e.g. at 1e-3 or 1e-5"
        )
    prediction = Prediction(x, x)

    def slope(t: Tensor, x: Tensor) -> Tensor:
        nonlocal prediction
        prediction = denoiser(x, t, cond)
        return velocity(schedule, prediction, t)

    for t, s in pairwise(times):
        x, _ = solve(slope, x, t, s, rtol=rtol, atol=atol, method=method)
        yield State(s, x, prediction)
