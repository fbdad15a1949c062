"""Equations of the chapter on EDM and DPM-Solver++ that the library's own tests do not reach."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion import losses, parameterizations, samplers, schedules, times
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import Prediction, from_eps

torch.set_num_threads(1)

SIGMA = schedules.SigmaSchedule()
VP = schedules.LinearVP()
TIGHT = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853"}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def plane(path):
    return GaussianMixture(path, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def simpson(y, x):
    h = (x[-1] - x[0]) / (len(x) - 1)
    return h / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum(0) + 2 * y[2:-2:2].sum(0))


# ---- EDM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VP, schedules.SubVP(), schedules.RectifiedFlow()])
def test_the_general_ode_is_the_velocity_of_every_path(path):
    t, x, h = f64(0.4)[0], f64([0.4, -0.3], [1.2, 0.6]), 1e-6

    def level(t):
        return path.sigma(t) / path.alpha(t)

    s, s_dot = path.alpha(t), path.alpha_dot(t)
    level_dot = (level(t + h) - level(t - h)) / (2 * h)
    score = plane(SIGMA).score(x / s, level(t)) / s  # the gradient is one in x
    ode = s_dot / s * x - s**2 * level_dot * level(t) * score
    velocity = parameterizations.velocity(path, plane(path)(x, t), t)
    torch.testing.assert_close(ode, velocity, rtol=1e-7, atol=1e-8)


def test_the_vp_path_as_a_noise_level_and_a_scale():
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    level = torch.sqrt(torch.exp(19.9 * t**2 / 2 + 0.1 * t) - 1)
    torch.testing.assert_close(VP.sigma(t) / VP.alpha(t), level, rtol=1e-9, atol=0)
    torch.testing.assert_close(VP.alpha(t), 1 / torch.sqrt(1 + level**2), rtol=1e-9, atol=0)


def test_the_denoiser_is_tweedie_s_and_gives_the_slope_of_the_curve():
    x, level = f64([0.4, -0.3], [1.2, 0.6]), f64(0.7)[0]
    x0, score = plane(SIGMA)(x, level).x0, plane(SIGMA).score(x, level)
    torch.testing.assert_close(x0, x + level**2 * score)
    slope = parameterizations.velocity(SIGMA, plane(SIGMA)(x, level), level)
    torch.testing.assert_close(slope, (x - x0) / level)
    torch.testing.assert_close(slope, -level * score)


def along(law, x, level, steps):
    """Points of the exact curve through x at ``level`` and at levels below it."""
    levels = torch.stack([level, *(level - h for h in steps)])
    return [x, *(state.x for state in samplers.adaptive(law, x, levels, **TIGHT))], levels


def test_curves_bend_by_the_denoiser_s_change_of_mind():
    law, x, h = plane(SIGMA), f64([1.3, -0.2], [0.4, 0.7]), 1e-3
    points, levels = along(law, x, f64(0.8)[0], [h, 2 * h])
    bend = (points[0] - 2 * points[1] + points[2]) / h**2
    answers = [law(p, u).x0 for p, u in zip(points, levels, strict=True)]
    change = (answers[0] - answers[2]) / (2 * h)
    torch.testing.assert_close(bend, -change / levels[1], rtol=1e-4, atol=1e-6)


def test_heun_s_error_is_the_trapezoidal_rule_s_and_the_predictor_s():
    # Data N(0, d^2): x = c sqrt(v), v = d^2 + sigma^2, and all derivatives are known.
    d2, level = 0.25, 0.6
    law, v = Gaussian(SIGMA, f64(0.0), f64([d2])), d2 + level**2
    x = math.sqrt(v)
    jacobian, bend, third = level / v, d2 / v**1.5, -3 * d2 * level / v**2.5
    previous = None
    for h in (-0.02, -0.01):
        grid = f64(level, level + h)
        end = float(samplers.last(samplers.heun(law, f64([x]), grid)))
        error = end - math.sqrt(d2 + (level + h) ** 2)
        predicted = h**3 / 12 * third - h**3 / 4 * jacobian * bend
        gap = abs(error / predicted - 1)
        assert gap < 0.1
        assert previous is None or gap == pytest.approx(previous / 2, rel=0.2)
        previous = gap


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_a_step_of_the_grid_is_a_power_of_its_level(rho):
    n, low, high = 4001, 0.002, 80.0
    levels = times.karras(n, low, high, rho)[:-1]
    steps = (levels[2:] - levels[:-2]).abs() / 2
    root = high ** (1 / rho) - low ** (1 / rho)
    predicted = rho / (n - 1) * root * levels[1:-1] ** (1 - 1 / rho)
    assert float((steps / predicted - 1).abs()[:-200].max()) < 1e-3


def test_an_untrained_network_has_loss_one_at_every_level():
    sigma_d, generator = 0.5, torch.Generator().manual_seed(1)
    x0 = sigma_d * torch.randn(200_000, generator=generator, dtype=torch.float64)
    eps = torch.randn(200_000, generator=generator, dtype=torch.float64)
    for level in (0.01, 0.5, 20.0):
        sigma = f64(level)[0]
        c = parameterizations.precondition_edm(sigma_d)(SIGMA, sigma)
        guess = c.c_skip * (x0 + sigma * eps)  # F = 0
        weight = (sigma**2 + sigma_d**2) / (sigma * sigma_d) ** 2
        assert float(weight * (guess - x0).square().mean()) == pytest.approx(1, abs=0.02)
        assert float(losses.edm(sigma_d)(SIGMA, sigma)) == pytest.approx(float(weight * sigma**2))


def test_edm_s_loss_is_one_weight_on_the_bound():
    # E over log sigma of (1 + sigma^2 / d^2) error(sigma) is the integral of w(lambda) error.
    d, draws = 0.5, torch.linspace(-9.6, 7.2, 4001, dtype=torch.float64)  # log sigma

    def error(level):
        return 1 / (1 + level**2)

    density = torch.exp(-0.5 * ((draws + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    level = draws.exp()
    left = simpson(density * losses.edm(d)(SIGMA, level) * error(level), draws)
    log_snr = (-2 * draws).flip(0)
    normal = torch.exp(-0.5 * ((log_snr - 2.4) / 2.4) ** 2) / (2.4 * math.sqrt(2 * math.pi))
    weight = normal * (1 + torch.exp(-log_snr) / d**2)
    right = simpson(weight * error(torch.exp(-log_snr / 2)), log_snr)
    assert float(left) == pytest.approx(float(right), rel=1e-9)
    second = simpson(normal * torch.exp(-log_snr), log_snr)  # the second bell: mass and centre
    assert float(second) == pytest.approx(math.exp(0.48), rel=1e-2)
    centre = simpson(normal * torch.exp(-log_snr) * log_snr, log_snr) / second
    assert float(centre) == pytest.approx(-3.36, abs=0.05)


def test_the_langevin_part_leaves_the_density_in_place():
    law = GaussianMixture(SIGMA, f64([-1.0], [1.5]), 0.5, f64(2, 1))
    x, level, beta = torch.linspace(-8, 9, 3401, dtype=torch.float64), f64(0.7)[0], 0.8
    p, score = law.log_prob(x[:, None], level).exp(), law.score(x[:, None], level)[:, 0]
    step = float(x[1] - x[0])

    def slope(y):
        return (y[:-4] - 8 * y[1:-3] + 8 * y[3:-1] - y[4:]) / (12 * step)

    drift = -slope(beta * level**2 * score * p)[2:-2]
    spread = beta * level**2 * slope(slope(p))
    assert float((drift + spread).abs().max()) < 1e-6 * float(spread.abs().max())
    # the rate of the family: eta^2 g^2 / 2 = beta sigma^2 with g^2 = 2 sigma
    assert float(SIGMA.diffusion(level) ** 2) == pytest.approx(2 * float(level))


# ---- DPM-Solver++ -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VP, schedules.RectifiedFlow()])
def test_the_ode_in_x0_and_its_quotient(path):
    t, x0, eps, h = f64(0.4)[0], f64([0.5, -0.2]), f64([1.1, 0.3]), 1e-6
    x = path.alpha(t) * x0 + path.sigma(t) * eps
    alpha, sigma = path.alpha(t), path.sigma(t)
    alpha_dot, sigma_dot = path.alpha_dot(t), path.sigma_dot(t)
    velocity = parameterizations.velocity(path, Prediction(x0, eps), t)
    linear = sigma_dot / sigma * x + (alpha_dot - alpha * sigma_dot / sigma) * x0
    torch.testing.assert_close(velocity, linear, rtol=1e-9, atol=1e-9)
    quotient = velocity / sigma - sigma_dot * x / sigma**2
    ratio = [path.alpha(t + d) / path.sigma(t + d) for d in (h, -h)]
    torch.testing.assert_close(quotient, (ratio[0] - ratio[1]) / (2 * h) * x0, rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", [VP, SIGMA])
def test_both_exact_formulas_hold_along_the_exact_curve(path):
    law = plane(path)
    levels = torch.linspace(math.log(3.0), math.log(0.5), 61, dtype=torch.float64).exp()
    grid = times.at_levels(path, levels)
    x = path.alpha(grid[0]) * f64([2.1, -0.8])
    points = [x, *(state.x for state in samplers.adaptive(law, x, grid, rtol=1e-9, atol=1e-9))]
    pairs = [law(p, t) for p, t in zip(points, grid, strict=True)]
    half = -levels.log()  # log(alpha / sigma)
    weight = half.exp()[:, None, None]
    by_x0 = simpson(weight * torch.stack([pair.x0 for pair in pairs]), half)
    by_eps = simpson(torch.stack([pair.eps for pair in pairs]) / weight, half)
    alpha, sigma = path.alpha(grid[[0, -1]]), path.sigma(grid[[0, -1]])
    in_x0 = sigma[1] / sigma[0] * x + sigma[1] * by_x0
    in_eps = alpha[1] / alpha[0] * x - alpha[1] * by_eps
    torch.testing.assert_close(in_x0, points[-1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(in_eps, points[-1], rtol=1e-6, atol=1e-7)


def mean(values, h):
    u = torch.linspace(0, h, 2001, dtype=torch.float64)
    return float(simpson(u.exp() * values(u), u)) / math.expm1(h)


@pytest.mark.parametrize("h", [0.1, 0.7, 2.0])
def test_means_of_powers_along_a_step(h):
    first = h / -math.expm1(-h) - 1
    second = (h**2 - 2 * h + 2 - 2 * math.exp(-h)) / -math.expm1(-h)
    assert mean(lambda u: u, h) == pytest.approx(first, rel=1e-9)
    assert mean(lambda u: u**2, h) == pytest.approx(second, rel=1e-9)
    assert abs(first - h / 2 - h**2 / 12) < h**4 / 700
    integral = math.exp(0.3 + h) - math.exp(0.3)  # from l = 0.3, and alpha_s / sigma_s is its end
    assert integral / math.exp(0.3 + h) == pytest.approx(-math.expm1(-h), rel=1e-12)


def test_the_error_of_2m_s_guess_at_the_mean():
    # x0 along the curve is sin(1 + u): its slope is cos(1), its second derivative -sin(1).
    previous = None
    for h in (0.02, 0.01):
        before = 1.5 * h
        now, earlier = math.sin(1.0), math.sin(1.0 - before)
        guess = now + h / (2 * before) * (now - earlier)
        error = mean(lambda u: torch.sin(1 + u), h) - guess
        predicted = h**2 / 12 * math.cos(1) - (h**2 / 6 + h * before / 4) * math.sin(1)
        gap = abs(error / predicted - 1)
        assert gap < 0.05
        assert previous is None or gap == pytest.approx(previous / 2, rel=0.2)
        previous = gap


def test_2s_is_first_order_to_the_middle_and_its_answer_for_the_whole_step():
    law, (t, s) = plane(VP), f64(0.6, 0.45)
    x = f64([0.4, -0.3], [1.2, 0.6])
    half = VP.logsnr(torch.stack([t, s])) / 2
    m = VP.time_at(half.sum())  # logsnr = 2 l at the mean of both
    h = half[1] - half[0]
    middle = VP.sigma(m) / VP.sigma(t) * x
    middle = middle - VP.alpha(m) * torch.expm1(-h / 2) * law(x, t).x0
    end = VP.sigma(s) / VP.sigma(t) * x - VP.alpha(s) * torch.expm1(-h) * law(middle, m).x0
    ours = samplers.last(samplers.dpm_solver_pp_2s(law, x, torch.stack([t, s])))
    torch.testing.assert_close(ours, end, rtol=1e-9, atol=1e-9)


def test_guidance_of_x0_and_of_eps_is_one_pair():
    t, x = f64(0.7)[0], f64([0.4, -0.3])
    free, held = (from_eps(VP, x, eps, t) for eps in (f64([0.9, 0.1]), f64([0.2, -0.5])))
    x0 = free.x0 + 6 * (held.x0 - free.x0)
    eps = free.eps + 6 * (held.eps - free.eps)
    torch.testing.assert_close(VP.alpha(t) * x0 + VP.sigma(t) * eps, x)


def test_an_error_of_eps_is_enlarged_by_the_noise_level():
    x, eps, wrong = f64([0.4, -0.3]), f64([0.9, 0.1]), f64([0.01, -0.02])
    for t in f64(0.1, 0.9):
        moved = from_eps(VP, x, eps + wrong, t).x0 - from_eps(VP, x, eps, t).x0
        torch.testing.assert_close(moved, -VP.sigma(t) / VP.alpha(t) * wrong)
