"""Solvers of the probability-flow ODE: identities between them, and the adaptive one's contract.

Their order of convergence is in convergence_test.py.
"""

from __future__ import annotations

import pytest
import torch

from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.samplers import adaptive, ddim, dpm_solver_pp_2m, euler, heun, last
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    linear,
)
from retro_diffusion.times import at_levels, geometric, karras, uniform

torch.set_num_threads(1)
PATHS = [
    LinearVP(),
    SubVP(),
    CosineVP(),
    GeometricVE(),
    SigmaSchedule(),
    RectifiedFlow(),
]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def name_of(schedule):
    return type(schedule).__name__


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def points(n=6, seed=1):
    return torch.randn(n, 2, generator=seeded(seed), dtype=torch.float64)


# ---- Identities --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "times"),
    [(SigmaSchedule(), karras(12)), (RectifiedFlow(), uniform(RectifiedFlow(), 12))],
)
def test_where_the_path_is_straight_in_time_eulers_method_is_ddim(schedule, times):
    x, oracle = schedule.t_max * points(), mixture(schedule)
    for a, b in zip(euler(oracle, x, times), ddim(oracle, x, times), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-10, atol=1e-10)


def test_where_the_path_is_not_straight_in_time_they_differ():
    times, x = uniform(LinearVP(), 12, 1e-2), points()
    oracle = mixture(LinearVP())
    assert (last(euler(oracle, x, times)) - last(ddim(oracle, x, times))).abs().max() > 0.01


@pytest.mark.parametrize("schedule", [*PATHS, linear()], ids=name_of)
@pytest.mark.parametrize("solver", [ddim, dpm_solver_pp_2m])
def test_every_path_walked_at_the_same_levels_gives_the_same_sample(solver, schedule):
    # In the frame x / alpha all of them are one ODE, whose time is sigma / alpha.
    levels, x = geometric(20, 0.1, 40.0), 40 * points()
    times = at_levels(schedule, levels)
    ends = schedule.alpha(times)[[0, -1]]
    ours = last(solver(mixture(schedule), ends[0] * x, times)) / ends[1]
    reference = last(solver(mixture(SigmaSchedule()), x, levels))
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", PATHS, ids=name_of)
def test_the_exact_flow_of_every_path_is_the_same_ode_too(schedule):
    levels, x = f64(40.0, 0.1), 40 * points()
    times = at_levels(schedule, levels)
    alpha = schedule.alpha(times)
    options = {"rtol": 1e-8, "atol": 1e-8, "method": "DOP853"}
    ours = last(adaptive(mixture(schedule), alpha[0] * x, times, **options)) / alpha[1]
    reference = last(adaptive(mixture(SigmaSchedule()), x, levels, **options))
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)


def test_heun_is_the_trapezoidal_rule_predicted_by_euler():
    schedule, x, (t, s) = LinearVP(), points(), f64(0.5, 0.4)
    oracle, beta = mixture(schedule), lambda t: 0.1 + 19.9 * t

    def slope(x, t):  # equation 13 of Song et al. 2021
        return -beta(float(t)) / 2 * (x + oracle.score(x, t))

    first = slope(x, t)
    second = slope(x - 0.1 * first, s)
    expected = x - 0.1 * (first + second) / 2
    torch.testing.assert_close(last(heun(oracle, x, f64(0.5, 0.4))), expected, rtol=1e-9, atol=1e-9)


def test_heun_s_step_to_sigma_0_is_euler_s_which_lands_on_x0():
    schedule, x, times = SigmaSchedule(), points(), f64(0.5, 0.0)
    ends = [last(solver(mixture(schedule), x, times)) for solver in (heun, euler)]
    assert torch.equal(*ends)
    torch.testing.assert_close(ends[0], mixture(schedule)(x, times[0]).x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("solver", "nfe"), [(euler, 5), (heun, 9)])
def test_evaluations_are_as_many_as_documented(solver, nfe):
    class Counting:
        schedule = LinearVP()

        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return mixture(self.schedule)(x_t, t)

    asked = []
    last(solver(Counting(), points(), torch.linspace(0.8, 0, 6, dtype=torch.float64)))
    assert len(asked) == nfe


# ---- Adaptive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PATHS, ids=name_of)
def test_the_adaptive_solver_follows_the_exact_flow_to_its_tolerance(schedule):
    oracle = Gaussian(schedule, f64(0.4, -0.3), f64([0.25, 0.1], [0.1, 0.5]))
    times = at_levels(schedule, f64(40.0, 2.0, 0.1))
    x = schedule.sigma(times[0]) * points()
    for tolerance in (1e-4, 1e-7):
        run = adaptive(oracle, x, times, rtol=tolerance, atol=tolerance)
        for state, s in zip(run, times[1:], strict=True):
            assert torch.equal(state.t, s)
            exact = oracle.flow(x, times[0], s)
            torch.testing.assert_close(state.x, exact, rtol=30 * tolerance, atol=30 * tolerance)


def test_a_smaller_tolerance_costs_more_evaluations_and_any_scipy_method_may_be_used():
    class Counting:
        schedule = LinearVP()

        def __call__(self, x_t, t, cond=None):
            nonlocal nfe
            nfe += 1
            return mixture(self.schedule)(x_t, t)

    costs = []
    for options in ({"rtol": 1e-3, "atol": 1e-3}, {}, {"rtol": 1e-8, "atol": 1e-8}):
        nfe = 0
        last(adaptive(Counting(), points(), f64(1.0, 1e-3), **options))
        costs.append(nfe)
    assert costs[0] < costs[1] < costs[2]
    ends = [
        last(adaptive(mixture(LinearVP()), points(), f64(1.0, 0.1), method=method))
        for method in ("RK23", "DOP853")
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)


def test_a_grid_that_ends_at_sigma_0_is_refused_by_the_adaptive_solver():
    with pytest.raises(ValueError, match=r"sigma > 0"):
        last(adaptive(mixture(LinearVP()), points(), f64(1.0, 0.0)))
    last(adaptive(mixture(GeometricVE()), points(), f64(0.5, 0.0)))  # noise is left there


def test_float32_samples_need_a_tolerance_above_their_rounding():
    x = points().float()
    assert last(adaptive(mixture(LinearVP()), x, f64(1.0, 1e-2))).dtype == torch.float32
    with pytest.raises(ValueError, match="1e-6"):
        last(adaptive(mixture(LinearVP()), x, f64(1.0, 1e-2), rtol=1e-7))


def test_the_state_s_prediction_is_the_denoiser_s_last_answer():
    (state,) = adaptive(mixture(LinearVP()), points(), f64(0.5, 0.4))
    pair = state.prediction
    assert pair.x0.shape == state.x.shape and not torch.equal(pair.x0, points())
