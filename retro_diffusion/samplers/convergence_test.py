"""How fast each solver's error falls: the slope in steps, against exact flows and exact variances.

A method of order p divides its error by 2^p when the steps are halved. The error is measured against
the exact probability-flow map: a formula for a Gaussian, an adaptive solve at 1e-11 for a mixture.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise

import pytest
import torch

from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.samplers import (
    adaptive,
    ddim,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    dpm_solver_step,
    euler,
    euler_maruyama_step,
    heun,
    last,
    reverse_diffusion_step,
    unipc,
)
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
)
from retro_diffusion.times import at_levels, uniform

torch.set_num_threads(1)

SCHEDULES = [
    LinearVP(),
    CosineVP(),
    GeometricVE(),
    SigmaSchedule(),
    RectifiedFlow(),
    SubVP(),
]
WITH_MIXTURE = [LinearVP(), GeometricVE(), RectifiedFlow()]
ORDERS = {
    "ddim": (ddim, 1),
    "euler": (euler, 1),
    "heun": (heun, 2),
    "dpm_solver_pp_2s": (dpm_solver_pp_2s, 2),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m, 2),
    "dpm_solver_pp_3m": (dpm_solver_pp_3m, 3),
    "unipc order=1": (functools.partial(unipc, order=1), 2),
    "unipc order=2": (functools.partial(unipc, order=2), 3),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def name_of(schedule):
    return type(schedule).__name__


def grid(schedule, n_steps, high=50.0, low=1.0):
    """Noise levels sigma / alpha that fall by one factor, from ``high`` to ``low``, on any path."""
    return at_levels(schedule, high * (low / high) ** torch.linspace(0, 1, n_steps + 1).double())


def gaussian(schedule):
    return Gaussian(schedule, f64(0.4, -0.3), f64([0.25, 0.1], [0.1, 0.5]))


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def start(schedule, t):
    scale = (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt()
    return scale * f64([1.3, -0.2], [0.5, 0.8], [-1.1, 0.4])


@functools.cache
def exact_mixture_flow(schedule):
    ends = grid(schedule, 1)
    x = start(schedule, ends[0])
    return last(adaptive(mixture(schedule), x, ends, rtol=1e-11, atol=1e-11, method="DOP853"))


def exact_gaussian_flow(schedule):
    t, s = grid(schedule, 1)
    return gaussian(schedule).flow(start(schedule, t), t, s)


def orders(errors):
    return [math.log2(a / b) for a, b in pairwise(errors)]


# ---- The probability-flow ODE ------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_with_the_order_of_the_method(name, schedule):
    solver, order = ORDERS[name]
    n_steps = 64 if name in ("dpm_solver_pp_2m", "dpm_solver_pp_3m", "unipc order=2") else 24
    pairs = [(gaussian(schedule), exact_gaussian_flow(schedule))]
    if schedule in WITH_MIXTURE:
        pairs.append((mixture(schedule), exact_mixture_flow(schedule)))
    for oracle, exact in pairs:
        errors = []
        for times in (grid(schedule, n_steps), grid(schedule, 2 * n_steps)):
            end = last(solver(oracle, start(schedule, times[0]), times))
            errors.append(float((end - exact).norm()))
        (slope,) = orders(errors)
        assert slope == pytest.approx(order, abs=0.15)


# ---- The quadratic term of the third-order multistep solver ------------------------------------


def phi_3(h):
    return (math.exp(-h) - 1 + h) / h**2 - 0.5


@pytest.mark.parametrize("h", [0.1, 0.5, 2.0])
def test_a_parabola_s_exact_weight_is_twice_the_phi_3_of_the_released_code(h):
    # Over a step of length h, x0_hat = (u / h)^2 adds alpha_s e^-h times the integral of e^u (u / h)^2.
    # The code of the DPM-Solver authors, diffusers and k-diffusion weigh (u / h)^2 by -alpha_s phi_3,
    # which belongs to half of it (Taylor: h^2 x0'' / 2 is the factor of (u / h)^2).
    n = 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) * h / n
    integral = float((u.exp() * (u / h) ** 2).sum()) * h / n * math.exp(-h)
    assert integral == pytest.approx(-2 * phi_3(h), rel=1e-7)


def three_points(oracle, x, times, quadratic_factor):
    """3M written as in the authors' code; ``quadratic_factor`` is 1 there and 2 in the integral."""
    schedule, history = oracle.schedule, []
    for t, s in pairwise(times):
        now, end = float(schedule.logsnr(t)) / 2, float(schedule.logsnr(s)) / 2
        h, alpha = end - now, float(schedule.alpha(s))
        history = [(now, oracle(x, t).x0), *history[:2]]
        x0 = history[0][1]
        x = dpm_solver_step(schedule, x, x0, t, s)
        if len(history) > 1:
            r0 = (now - history[1][0]) / h
            d1 = slope = (x0 - history[1][1]) / r0
        if len(history) == 2:
            x = x - alpha * math.expm1(-h) / 2 * d1
        if len(history) == 3:
            r1 = (history[1][0] - history[2][0]) / h
            slope_before = (history[1][1] - history[2][1]) / r1
            d1 = slope + r0 / (r0 + r1) * (slope - slope_before)
            d2 = (slope - slope_before) / (r0 + r1)
            x = x + alpha * (math.expm1(-h) / h + 1) * d1 - alpha * quadratic_factor * phi_3(h) * d2
    return x


def test_with_the_released_coefficient_3m_is_of_second_order_and_with_the_exact_one_of_third():
    schedule = LinearVP()
    oracle, exact = mixture(schedule), exact_mixture_flow(schedule)
    errors = {1: [], 2: []}
    for n_steps in (64, 128, 256):
        times = grid(schedule, n_steps)
        x = start(schedule, times[0])
        for factor, found in errors.items():
            found.append(float((three_points(oracle, x, times, factor) - exact).norm()))
        ours = last(dpm_solver_pp_3m(oracle, x, times))
        torch.testing.assert_close(ours, three_points(oracle, x, times, 2), rtol=1e-10, atol=1e-10)
    assert orders(errors[1])[-1] == pytest.approx(2, abs=0.15)
    assert orders(errors[2])[-1] == pytest.approx(3, abs=0.15)
    assert errors[1][-1] > 10 * errors[2][-1]


# ---- The reverse SDE: weak order, from exact variances -----------------------------------------
#
# A step maps x linearly for Gaussian data, x -> a x + b z, so the variance after it is a^2 v + b^2:
# the law of the samples without sampling, and its error without noise.


def em_law(schedule, s2, eta, t, s):
    """Gain and noise variance of Euler-Maruyama, from equation 6 of Song et al. 2021."""
    f, g2, dt = schedule.drift(t), schedule.diffusion(t) ** 2, t - s
    v = schedule.alpha(t) ** 2 * s2 + schedule.sigma(t) ** 2
    return 1 - (f + (1 + eta**2) / 2 * g2 / v) * dt, eta**2 * g2 * dt


def reverse_diffusion_law(schedule, s2, eta, t, s):
    """Gain and noise variance of a reverse-diffusion step, from equation 46."""
    kept = schedule.alpha(t) / schedule.alpha(s)
    added = schedule.sigma(t) ** 2 - (kept * schedule.sigma(s)) ** 2
    v = schedule.alpha(t) ** 2 * s2 + schedule.sigma(t) ** 2
    return 2 - kept - added / v, added


SDE_STEPS = {
    "euler_maruyama": (euler_maruyama_step, em_law, 1.0),
    "euler_maruyama eta=0.5": (functools.partial(euler_maruyama_step, eta=0.5), em_law, 0.5),
    "euler_maruyama eta=0": (functools.partial(euler_maruyama_step, eta=0.0), em_law, 0.0),
    "reverse_diffusion": (reverse_diffusion_step, reverse_diffusion_law, 1.0),
}


def variance_error(schedule, law, eta, times, s2=0.25):
    """Relative error of the variance at the end, started from the exact one."""
    gains, noises = law(schedule, s2, eta, times[:-1], times[1:])
    exact = schedule.alpha(times) ** 2 * s2 + schedule.sigma(times) ** 2
    v = float(exact[0])
    for gain, noise in zip(gains.tolist(), noises.tolist(), strict=True):
        v = gain**2 * v + noise
    return v / float(exact[-1]) - 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@pytest.mark.parametrize("name", SDE_STEPS)
def test_a_step_of_the_reverse_sde_has_the_gain_and_the_noise_of_its_equation(name, schedule):
    step, law, eta = SDE_STEPS[name]
    oracle = Gaussian(schedule, f64(0.0), f64([0.25]))
    x = f64([0.0], [1.0])
    z = torch.randn(2, 1, generator=seeded(1), dtype=torch.float64)
    for t, s in pairwise(grid(schedule, 5)):
        end = step(schedule, x, oracle(x, t), t, s, seeded(1))
        gain, noise = law(schedule, 0.25, eta, t, s)
        torch.testing.assert_close(end, gain * x + noise.sqrt() * z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@pytest.mark.parametrize("name", SDE_STEPS)
def test_the_variance_of_the_reverse_sde_s_solvers_converges_with_order_1(name, schedule):
    _, law, eta = SDE_STEPS[name]
    errors = [abs(variance_error(schedule, law, eta, grid(schedule, n))) for n in (500, 1000)]
    assert orders(errors)[0] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_the_ode_and_every_sde_of_the_family_share_their_marginals(schedule, eta):
    # Extrapolated to steps of length 0, all of them end with the exact variance, noise level 0.2.
    few, many = (
        variance_error(schedule, em_law, eta, grid(schedule, n, 50, 0.2)) for n in (1000, 2000)
    )
    assert abs(2 * many - few) < 1e-3


@pytest.mark.parametrize("schedule", [LinearVP(), SubVP()], ids=name_of)
def test_ode_and_sde_agree_within_1e_3_at_2000_steps(schedule):
    ends = [
        1 + variance_error(schedule, em_law, eta, uniform(schedule, 2000, 1e-3))
        for eta in (0.0, 1.0)
    ]
    assert 0.25 * abs(ends[0] - ends[1]) < 1e-3
    assert 0.25 * max(abs(end - 1) for end in ends) < 1e-3
