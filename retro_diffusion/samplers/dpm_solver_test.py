"""DPM-Solver++ and UniPC: which polynomials they integrate exactly, identities, and their starts.

Their order of convergence, and that of the released code of 3M, are in convergence_test.py.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.parameterizations import from_x0
from retro_diffusion.samplers import (
    ddim,
    ddim_step,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    dpm_solver_step,
    last,
    unipc,
)
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    linear,
    rescale_zero_terminal_snr,
)
from retro_diffusion.times import at_levels, geometric, karras, trailing, uniform

torch.set_num_threads(1)
SCHEDULES = [LinearVP(), SubVP(), CosineVP(), GeometricVE(), SigmaSchedule(), RectifiedFlow()]
SOLVERS = {
    "2s": dpm_solver_pp_2s,
    "2m": dpm_solver_pp_2m,
    "3m": dpm_solver_pp_3m,
    "unipc order=1": partial(unipc, order=1),
    "unipc order=2": unipc,
    "unipc order=3": partial(unipc, order=3),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def name_of(schedule):
    return type(schedule).__name__


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def points(n=6, scale=1.0):
    return scale * torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)


# ---- The first-order step ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_the_step_of_dpm_solver_is_that_of_ddim(schedule):
    x, (t, s) = points(), at_levels(schedule, f64(3.0, 1.7))
    prediction = mixture(schedule)(x, t)
    ours = dpm_solver_step(schedule, x, prediction.x0, t, s)
    torch.testing.assert_close(ours, ddim_step(schedule, prediction, t, s), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["2m", "3m"])
def test_the_first_step_of_a_multistep_solver_is_ddim_s(name):
    schedule, times = LinearVP(), f64(0.8, 0.6, 0.4)
    ours = list(SOLVERS[name](mixture(schedule), points(), times))
    ddims = list(ddim(mixture(schedule), points(), times))
    torch.testing.assert_close(ours[0].x, ddims[0].x, rtol=1e-10, atol=1e-10)
    assert (ours[1].x - ddims[1].x).abs().max() > 1e-3


def test_2m_extrapolates_as_algorithm_2():
    # D = (1 + 1 / 2r) x0 - 1 / (2r) x0_before, r = h_before / h.
    schedule, times = LinearVP(), f64(0.9, 0.7, 0.4, 0.2)
    oracle = mixture(schedule)
    states = list(dpm_solver_pp_2m(oracle, points(), times))
    x = [points(), *(state.x for state in states)]
    half = [float(schedule.logsnr(t)) / 2 for t in times]
    for i in (1, 2):
        r = (half[i] - half[i - 1]) / (half[i + 1] - half[i])
        now, before = oracle(x[i], times[i]).x0, oracle(x[i - 1], times[i - 1]).x0
        d = (1 + 1 / (2 * r)) * now - before / (2 * r)
        expected = dpm_solver_step(schedule, x[i], d, times[i], times[i + 1])
        torch.testing.assert_close(x[i + 1], expected, rtol=1e-10, atol=1e-10)


def test_2s_evaluates_halfway_in_log_snr():
    class Asked:
        schedule = LinearVP()

        def __call__(self, x_t, t, cond=None):
            asked.append(t)
            return mixture(self.schedule)(x_t, t)

    asked, times = [], f64(0.9, 0.4)
    last(dpm_solver_pp_2s(Asked(), points(), times))
    logsnr = LinearVP().logsnr(torch.stack(asked))
    expected = LinearVP().logsnr(times).mean()
    torch.testing.assert_close(logsnr[1], expected, rtol=1e-10, atol=0)


# ---- Polynomials ---------------------------------------------------------------------------------


class Polynomial:
    """A denoiser whose x0 is a polynomial in half the log-SNR, whatever the sample."""

    def __init__(self, schedule, *coefficients):
        self.schedule, self.coefficients = schedule, coefficients

    def of(self, half_logsnr):
        return sum(c * half_logsnr**k for k, c in enumerate(self.coefficients))

    def __call__(self, x_t, t, cond=None):
        x0 = torch.zeros_like(x_t) + self.of(self.schedule.logsnr(t) / 2)
        return from_x0(self.schedule, x_t, x0, t)


def exact_step(oracle, x, t, s):
    """``sigma_s / sigma_t x + sigma_s`` times the integral of e^l x0(l), by Gauss-Legendre."""
    schedule = oracle.schedule
    low, high = schedule.logsnr(t) / 2, schedule.logsnr(s) / 2
    jacobi = torch.zeros(12, 12, dtype=torch.float64)
    k = torch.arange(1, 12, dtype=torch.float64)
    jacobi = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    nodes, vectors = torch.linalg.eigh(jacobi + jacobi.T)
    l = low + (nodes + 1) / 2 * (high - low)
    integral = (vectors[0] ** 2 * l.exp() * oracle.of(l)).sum() * (high - low)
    return schedule.sigma(s) / schedule.sigma(t) * x + schedule.sigma(s) * integral


@pytest.mark.parametrize(
    ("name", "degree", "exact"),
    [
        ("2m", 0, True),
        ("2m", 1, False),  # its weight is that of the middle of the step, the authors' choice
        ("3m", 2, True),
        ("3m", 3, False),
        ("unipc order=1", 0, True),
        ("unipc order=2", 2, True),  # the corrector
        ("unipc order=2", 3, False),
        ("unipc order=3", 3, True),
        ("unipc order=3", 4, False),
    ],
)
def test_with_a_full_history_polynomials_up_to_a_degree_are_integrated_exactly(name, degree, exact):
    schedule = SigmaSchedule()
    oracle = Polynomial(schedule, *(1.0 / (k + 1) for k in range(degree + 1)))
    times = f64(5.0, 3.5, 2.0, 1.4, 0.9, 0.5, 0.2)  # uneven in log-SNR
    states = list(SOLVERS[name](oracle, points(), times))
    for before, after in list(pairwise(states))[2:-1]:  # UniPC does not correct the last step
        expected = exact_step(oracle, before.x, before.t, after.t)
        error = float((after.x - expected).abs().max())
        assert error < 1e-9 if exact else error > 1e-5


def test_the_quadrature_of_these_tests_integrates_an_exponential():
    oracle = Polynomial(SigmaSchedule(), 0.0, 1.0)
    t, s = f64(1.0, math.exp(-1.0))  # l from 0 to 1: the integral of l e^l is 1
    assert float(exact_step(oracle, f64([0.0]), t, s)) == pytest.approx(math.exp(-1), rel=1e-12)


def test_the_last_step_of_unipc_is_not_corrected():
    schedule, times = SigmaSchedule(), f64(5.0, 3.0)
    (state,) = unipc(mixture(schedule), points(), times)
    (ddims,) = ddim(mixture(schedule), points(), times)
    torch.testing.assert_close(state.x, ddims.x, rtol=1e-10, atol=1e-10)


def test_a_first_order_predictor_and_corrector_is_the_trapezoidal_rule_in_log_snr():
    # UniC-1 with B(h) = e^h - 1: half the difference between the new x0 and the old one.
    schedule, times = SigmaSchedule(), f64(5.0, 3.0, 1.0)
    oracle, (t, s) = mixture(schedule), f64(5.0, 3.0)
    first = next(unipc(oracle, points(), times, order=1))
    x0 = oracle(points(), t).x0
    there = oracle(dpm_solver_step(schedule, points(), x0, t, s), s).x0
    expected = dpm_solver_step(schedule, points(), (x0 + there) / 2, t, s)
    torch.testing.assert_close(first.x, expected, rtol=1e-10, atol=1e-10)


# ---- Ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_to_sigma_0_returns_x0(name):
    oracle, x, times = mixture(SigmaSchedule()), points(scale=80.0), karras(8)
    *_, before, end = SOLVERS[name](oracle, x, times)
    expected = oracle(before.x, times[-2]).x0
    torch.testing.assert_close(end.x, end.prediction.x0, rtol=1e-12, atol=1e-12)
    if "unipc" not in name:  # which keeps the prediction made before its correction
        torch.testing.assert_close(end.x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "nfe"), [("2s", 7), ("2m", 4), ("3m", 4), ("unipc order=3", 4)])
def test_evaluations_are_as_many_as_documented(name, nfe):
    class Counting:
        schedule = SigmaSchedule()

        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return mixture(self.schedule)(x_t, t)

    asked = []
    last(SOLVERS[name](Counting(), points(), karras(4)))
    assert len(asked) == nfe and 0.0 not in asked


@pytest.mark.parametrize(
    "schedule", [RectifiedFlow(), CosineVP(t_max=1.0), rescale_zero_terminal_snr(linear())]
)
def test_2m_starts_where_there_is_no_signal_and_the_others_say_that_they_cannot(schedule):
    times = trailing(schedule, 10) if schedule.t_max > 1 else uniform(schedule, 10)
    run = list(dpm_solver_pp_2m(mixture(schedule), points(), times))
    ddims = list(ddim(mixture(schedule), points(), times))
    for i in (0, 1):  # h is infinite on the first step, so that the second has no slope to use
        torch.testing.assert_close(run[i].x, ddims[i].x, rtol=1e-9, atol=1e-9)
    assert run[-1].x.isfinite().all()
    for name in SOLVERS.keys() - {"2m"}:
        with pytest.raises(ValueError, match=r"infinite at times\[0\] .* alpha = 0"):
            last(SOLVERS[name](mixture(schedule), points(), times))
        assert last(SOLVERS[name](mixture(schedule), points(), times[1:])).isfinite().all()


@pytest.mark.parametrize("order", [0, 4, 1.5])
def test_unipc_has_orders_1_to_3(order):
    with pytest.raises(ValueError, match="order must be 1, 2 or 3"):
        last(unipc(mixture(SigmaSchedule()), points(), geometric(5), order=order))
