"""Equations of the DDIM chapter that the library's own tests do not reach."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from retro_diffusion import parameterizations, reverse, samplers, schedules, times
from retro_diffusion.likelihood import gaussian_kl
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import Prediction, from_x0

torch.set_num_threads(1)

CHAIN = schedules.linear()


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


T, S, R = f64(800.0, 500.0, 120.0)


def numbers(*at):
    return [float(f(u)) for u in at for f in (CHAIN.alpha, CHAIN.sigma)]


def step_of_noises(t, s, tau):
    """(x_t - alpha_t x0, x_s - alpha_s x0) as a matrix on the independent noises (eps, z)."""
    _, sigma_t, _, sigma_s = numbers(t, s)
    return f64([sigma_t, 0.0], [math.sqrt(sigma_s**2 - tau**2), tau])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_every_member_of_the_family_keeps_the_marginals(share):
    # Two steps, T to S to R, with x0 fixed: each x is alpha x0 plus a linear map of (eps, z, z').
    _, sigma_t, _, sigma_s, _, sigma_r = numbers(T, S, R)
    at_t = f64(sigma_t, 0.0, 0.0)
    for sigma, tau, before, fresh in (
        (sigma_s, share * sigma_s, sigma_t, f64(0.0, 1.0, 0.0)),
        (sigma_r, share * sigma_r, sigma_s, f64(0.0, 0.0, 1.0)),
    ):
        at_t = math.sqrt(sigma**2 - tau**2) * at_t / before + tau * fresh
        assert float(at_t.square().sum()) == pytest.approx(sigma**2, rel=1e-12)
        unshortened = sigma * at_t / float(at_t.norm()) + tau * fresh  # no room made: too much
        assert share == 0 or float(unshortened.square().sum()) > 1.05 * sigma**2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_forward_kernel_is_the_joint_law_conditioned(share):
    _, sigma_t, _, sigma_s = numbers(T, S)
    tau = share * sigma_s
    joint = step_of_noises(T, S, tau)
    covariance = joint @ joint.T
    gain = float(covariance[0, 1] / covariance[1, 1])
    rest = float(covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1])
    assert gain == pytest.approx(sigma_t * math.sqrt(sigma_s**2 - tau**2) / sigma_s**2, rel=1e-12)
    assert rest == pytest.approx(sigma_t**2 * tau**2 / sigma_s**2, rel=1e-10)


def test_one_member_of_the_family_is_markovian_and_its_variance_is_ddpm_s():
    alpha_t, sigma_t, alpha_s, sigma_s = numbers(T, S)

    def memory(tau):  # the coefficient of x0 in the mean of q(x_t | x_s, x0)
        return alpha_t - alpha_s * sigma_t * math.sqrt(sigma_s**2 - tau**2) / sigma_s**2

    low, high = 0.0, sigma_s
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if memory(middle) < 0 else (low, middle)
    formula = sigma_s**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    assert low**2 == pytest.approx(formula, rel=1e-9)
    assert float(reverse.reverse_step(CHAIN, T, S).lower) == pytest.approx(formula, rel=1e-9)
    eta_1 = sigma_s / sigma_t * math.sqrt(1 - alpha_t**2 / alpha_s**2)
    assert eta_1**2 == pytest.approx(formula, rel=1e-9)
    direction = math.sqrt(sigma_s**2 - formula)
    assert direction == pytest.approx(alpha_t * sigma_s**2 / (alpha_s * sigma_t), rel=1e-9)


@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_a_term_of_the_bound_is_a_weight_times_the_error_of_eps(eta):
    alpha_t, sigma_t, alpha_s, sigma_s = numbers(T, S)
    tau = eta * math.sqrt(float(reverse.reverse_step(CHAIN, T, S).lower))
    x0, eps, guessed = f64(0.7), f64(-0.4), f64(0.3)
    x_t = alpha_t * x0 + sigma_t * eps
    guess = (x_t - sigma_t * guessed) / alpha_t

    def mean(of):
        return alpha_s * of + math.sqrt(sigma_s**2 - tau**2) * (x_t - alpha_t * of) / sigma_t

    kl = gaussian_kl(mean(x0), f64(tau**2), mean(guess), f64(tau**2))
    gamma = (alpha_s * sigma_t / alpha_t - math.sqrt(sigma_s**2 - tau**2)) ** 2 / (2 * tau**2)
    torch.testing.assert_close(kl, gamma * (eps - guessed) ** 2, rtol=1e-9, atol=0)


def test_without_noise_a_step_can_be_written_in_x0_or_in_eps():
    alpha_t, sigma_t, alpha_s, sigma_s = numbers(T, S)
    x_t, x0 = f64([0.3, -1.0]), f64([0.5, 0.1])
    pair = from_x0(CHAIN, x_t, x0, T)
    step = samplers.ddim_step(CHAIN, pair, T, S)
    by_x0 = sigma_s / sigma_t * x_t + (alpha_s - alpha_t * sigma_s / sigma_t) * x0
    by_eps = x_t / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * pair.eps
    torch.testing.assert_close(step, by_x0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(step / alpha_s, by_eps, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "path", [schedules.LinearVP(), schedules.CosineVP(), schedules.RectifiedFlow()]
)
def test_the_rescaled_sample_moves_by_eps_per_unit_of_noise_level(path):
    t, x0, eps = f64(0.4)[0], f64([0.5, -0.2]), f64([1.1, 0.3])
    x, pair = path.alpha(t) * x0 + path.sigma(t) * eps, Prediction(x0, eps)
    alpha, alpha_dot = path.alpha(t), path.alpha_dot(t)
    velocity = parameterizations.velocity(path, pair, t)
    rescaled = velocity / alpha - alpha_dot * x / alpha**2
    h = 1e-6
    level_dot = (path.sigma(t + h) / path.alpha(t + h) - path.sigma(t - h) / path.alpha(t - h)) / (
        2 * h
    )
    torch.testing.assert_close(rescaled, level_dot * eps, rtol=1e-7, atol=1e-9)


def plane():
    return GaussianMixture(schedules.SigmaSchedule(), f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def test_the_local_error_is_half_the_square_of_the_step_times_the_slope_of_eps():
    law, x, level = plane(), f64([1.3, -0.2]), f64(2.0)[0]

    def exact(step):
        ends = torch.stack([level, level - step])
        options = {"rtol": 1e-12, "atol": 1e-12, "method": "DOP853"}
        return samplers.last(samplers.adaptive(law, x, ends, **options))

    h = f64(1e-3)[0]
    near = [law(x, level).eps, *(law(exact(k * h), level - k * h).eps for k in (1, 2))]
    slope = (3 * near[0] - 4 * near[1] + near[2]) / (2 * h)
    previous = None
    for step in (0.1, 0.05):
        there = level - step
        euler = samplers.ddim_step(law.schedule, law(x, level), level, there)
        lost = exact(f64(step)[0]) - euler
        gap = float((lost - 0.5 * step**2 * slope).norm())
        assert gap < 0.2 * float(lost.norm())
        assert previous is None or gap < previous / 6  # what is left is of third order
        previous = gap


def test_a_round_trip_of_one_step_misses_by_the_change_of_eps():
    law, x = plane(), f64([1.3, -0.2])
    lost = []
    for step in (0.2, 0.1):
        s, t = f64(1.0, 1.0 + step)
        low = law(x, s).eps
        up = x + (t - s) * low
        high = law(up, t).eps
        back = samplers.last(samplers.ddim(law, up, torch.stack([t, s])))
        torch.testing.assert_close(back, x - (t - s) * (high - low), rtol=1e-12, atol=1e-12)
        lost.append(float((back - x).norm()))
    assert math.log2(lost[0] / lost[1]) == pytest.approx(2, abs=0.2)


def test_the_arc_between_two_latents_keeps_their_length():
    a, b = f64(3.0, 0.0, 4.0), f64(0.0, 5.0, 0.0) * 0.8 + f64(3.0, 0.0, 4.0) * 0.6
    omega = math.acos(float(a @ b / (a.norm() * b.norm())))
    for w in (0.0, 0.25, 0.5, 1.0):
        x = (math.sin((1 - w) * omega) * a + math.sin(w * omega) * b) / math.sin(omega)
        assert float(x.norm()) == pytest.approx(5, rel=1e-12)
        angle = math.acos(min(1.0, float(a @ x / (a.norm() * x.norm()))))
        assert angle == pytest.approx(w * omega, abs=1e-7)
    assert float(((a + b) / 2).norm()) < 4.5


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_on_gaussian_data_a_step_is_a_cosine(delta):
    law = Gaussian(CHAIN, f64(0.0), f64([delta**2]))
    grid = times.trailing(CHAIN, 7)
    x = f64([1.7])
    scaled = 1.7 / float(law.marginal_variances(grid[0])[0]) ** 0.5
    for t, s in itertools.pairwise(grid):
        x = samplers.ddim_step(CHAIN, law(x, t), t, s)
        angles = [float(torch.atan2(CHAIN.sigma(u), CHAIN.alpha(u) * delta)) for u in (t, s)]
        scaled *= math.cos(angles[0] - angles[1])
        v = float(CHAIN.alpha(s)) ** 2 * delta**2 + float(CHAIN.sigma(s)) ** 2
        assert float(x) / math.sqrt(v) == pytest.approx(scaled, rel=1e-10)
    assert scaled < 0.95 * 1.7


def test_equal_angles_lose_least_and_of_first_order():
    for n in (10, 100, 1000):
        kept = math.cos(math.pi / (2 * n)) ** n
        assert abs(kept - (1 - math.pi**2 / (8 * n))) < 1.0 / n**2
    uneven = math.prod(math.cos(a * math.pi / 2) for a in (0.2, 0.1, 0.3, 0.25, 0.15))
    assert uneven < math.cos(math.pi / 10) ** 5


def test_sigma_hat_leaves_more_noise_than_the_schedule_has():
    alpha_t, sigma_t, alpha_s, sigma_s = numbers(T, S)
    step = reverse.reverse_step(CHAIN, T, S)
    beta, lower = float(step.upper), float(step.lower)
    assert beta == pytest.approx(1 - alpha_t**2 / alpha_s**2, rel=1e-10)
    # x0 known: the posterior's mean keeps (of_x_t sigma_t)^2 of the noise, and beta is added
    present = (float(step.of_x_t) * sigma_t) ** 2 + beta
    assert present == pytest.approx(sigma_s**2 + beta - lower, rel=1e-10)
    assert present == pytest.approx(sigma_s**2 + beta * (1 - sigma_s**2 / sigma_t**2), rel=1e-10)
    assert present > 1.05 * sigma_s**2


def test_on_unit_data_the_upper_variance_is_exact_for_any_step():
    for t, s in ((1000.0, 10.0), (500.0, 499.0)):
        t, s = f64(t, s)
        step = reverse.reverse_step(CHAIN, t, s)
        k = float(step.of_x_t + step.of_x0 * CHAIN.alpha(t))  # x0_hat = alpha_t x_t
        assert k == pytest.approx(float(CHAIN.alpha(t) / CHAIN.alpha(s)), rel=1e-10)
        assert k**2 + float(step.upper) == pytest.approx(1, rel=1e-10)
        assert k**2 + float(step.lower) < 1


def test_on_the_leading_grid_sigma_hat_leaves_its_last_noise():
    grid = times.leading(CHAIN, 10)
    assert grid[-3:].tolist() == [101.0, 1.0, 0.0]
    t, s = grid[-3], grid[-2]
    left = math.sqrt(float(reverse.reverse_step(CHAIN, t, s).upper))
    assert left == pytest.approx(0.32, abs=0.005)
    for c in (0.1, 0.196):
        ends = {}
        for kind in ("upper", "lower"):
            v = 1.0
            for t, s in itertools.pairwise(grid):
                step = reverse.reverse_step(CHAIN, t, s)
                alpha, sigma = CHAIN.alpha(t), CHAIN.sigma(t)
                guess = alpha * c**2 / (alpha**2 * c**2 + sigma**2)
                v = float(step.of_x_t + step.of_x0 * guess) ** 2 * v
                v += float(getattr(step, kind)) if s > 0 else 0.0
            ends[kind] = math.sqrt(v)
        assert ends["upper"] == pytest.approx(math.sqrt(c**2 + left**2), rel=0.1)
        assert ends["lower"] < c  # the family does not
