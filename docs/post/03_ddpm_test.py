"""Equations of the DDPM chapter that the library's own tests do not reach."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from retro_diffusion import losses, reverse, schedules
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.likelihood import gaussian_decoder, gaussian_kl
from retro_diffusion.parameterizations import Prediction, from_eps, predict_score

torch.set_num_threads(1)

BETAS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
CHAIN = schedules.TabulatedSchedule(BETAS)
X0 = 0.7


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def log_normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + math.log(2 * math.pi * variance))


def kernel(t, after, before):
    """log q(x_t = after | x_{t-1} = before)."""
    beta = float(BETAS[t - 1])
    return log_normal(after, math.sqrt(1 - beta) * before, beta)


def marginal(t, x):
    kept = float(CHAIN.alphas_cumprod[t - 1])
    return log_normal(x, math.sqrt(kept) * X0, 1 - kept)


def posterior(t):
    """Coefficients and variance of q(x_{t-1} | x_t, x_0), written out."""
    beta, now = float(BETAS[t - 1]), float(CHAIN.alphas_cumprod[t - 1])
    before = float(CHAIN.alphas_cumprod[t - 2]) if t > 1 else 1.0
    of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - now)
    of_x0 = math.sqrt(before) * beta / (1 - now)
    return of_x_t, of_x0, beta * (1 - before) / (1 - now)


TAU2 = (0.2, 0.25, 0.4)


def model_mean(t, x):
    """Any mean that a Gaussian quadrature integrates exactly: a polynomial."""
    return 0.1 * t + 0.5 * x - 0.07 * x**2


def model(t, x_before, x_t):
    return log_normal(x_before, model_mean(t, x_t), TAU2[t - 1])


def paths(n=9):
    """All paths x_1, x_2, x_3 given x_0 on a Gauss-Hermite grid, and their weights."""
    node, weight = np.polynomial.hermite_e.hermegauss(n)
    weight = weight / weight.sum()
    index = np.array(list(product(range(n), repeat=3)))
    x, chain = np.full(len(index), X0), []
    for t in range(3):
        beta = float(BETAS[t])
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * node[index[:, t]]
        chain.append(x)
    return chain, weight[index].prod(axis=1)


def form_one():
    (x1, x2, x3), w = paths()
    log_p = log_normal(x3, 0, 1) + model(3, x2, x3) + model(2, x1, x2) + model(1, X0, x1)
    log_q = kernel(1, x1, X0) + kernel(2, x2, x1) + kernel(3, x3, x2)
    return float((w * (log_q - log_p)).sum())


def form_two():
    (x1, x2, x3), w = paths()
    ratios = kernel(1, x1, X0) - model(2, x1, x2) + kernel(2, x2, x1) - model(3, x2, x3)
    ends = kernel(3, x3, x2) - log_normal(x3, 0, 1) - model(1, X0, x1)
    return float((w * (ratios + ends)).sum())


def form_three(shift=0):
    """The divergences, in closed form given x_t; `shift` takes the wrong step's posterior."""
    kept = CHAIN.alphas_cumprod
    total = float(gaussian_kl(kept[2].sqrt() * X0, 1 - kept[2], f64(0.0)[0], f64(1.0)[0]))
    node, weight = np.polynomial.hermite_e.hermegauss(12)
    weight = weight / weight.sum()
    for t in (2, 3):
        a, b, variance = posterior(t - shift)
        x_t = math.sqrt(kept[t - 1]) * X0 + math.sqrt(1 - kept[t - 1]) * node
        kl = gaussian_kl(
            torch.tensor(a * x_t + b * X0),
            torch.tensor(max(variance, 1e-9), dtype=torch.float64),
            torch.tensor(model_mean(t, x_t)),
            torch.tensor(TAU2[t - 1], dtype=torch.float64),
        )
        total += float((torch.tensor(weight) * kl).sum())
    x_1 = math.sqrt(kept[0]) * X0 + math.sqrt(1 - kept[0]) * node
    return total - float((weight * model(1, X0, x_1)).sum())


def test_the_three_forms_of_the_bound_are_one_number():
    assert form_two() == pytest.approx(form_one(), abs=1e-11)
    assert form_three() == pytest.approx(form_one(), abs=1e-11)
    assert abs(form_three(shift=1) - form_one()) > 0.1  # a posterior one step late


@pytest.mark.parametrize("beta", [0.02, 0.3])
def test_neighbour_by_neighbour_the_terms_are_no_divergences(beta):
    # A stationary chain x_0, x_1, x_2 of N(0, 1), with its exact reverse step.
    a = math.sqrt(1 - beta)
    covariance = np.array([[1, a, a**2], [a, 1, a], [a**2, a, 1]])
    honest = np.array([0, 1, -a])  # x_1 - a x_2, all three of one chain
    log_ratio = 0.5 * (honest @ covariance @ honest / beta - 1)
    assert log_ratio == pytest.approx(0, abs=1e-12)
    # Now x_1' is drawn from q(x_1 | x_0) again: it meets x_2 through x_0 only.
    covariance[1, 2] = covariance[2, 1] = a**3
    divergence = 0.5 * (honest @ covariance @ honest / beta - 1)
    assert divergence == pytest.approx(1 - beta, abs=1e-12)


def test_the_bound_loses_the_divergence_of_the_paths():
    # Linear model of two steps: x_2 ~ N(0, 1), x_1 = c x_2 + noise, x_0 = d x_1 + noise.
    b1, b2, c, d, v1, v0 = 0.2, 0.3, 0.8, 0.9, 0.3, 0.25
    cov = np.zeros((3, 3))  # of x_0, x_1, x_2
    cov[2, 2], cov[1, 2] = 1, c
    cov[1, 1] = c**2 + v1
    cov[0, 1], cov[0, 2], cov[0, 0] = d * cov[1, 1], d * c, d**2 * cov[1, 1] + v0
    cov = np.triu(cov) + np.triu(cov, 1).T
    log_px0 = log_normal(X0, 0, cov[0, 0])
    mean_p = cov[1:, 0] / cov[0, 0] * X0
    cov_p = cov[1:, 1:] - np.outer(cov[1:, 0], cov[1:, 0]) / cov[0, 0]
    a1, a2 = math.sqrt(1 - b1), math.sqrt(1 - b2)
    mean_q = np.array([a1, a2 * a1]) * X0
    cov_q = np.array([[b1, a2 * b1], [a2 * b1, a2**2 * b1 + b2]])
    gap, precision = mean_p - mean_q, np.linalg.inv(cov_p)
    log_dets = [float(np.linalg.slogdet(c)[1]) for c in (cov_p, cov_q)]
    kl = 0.5 * (np.trace(precision @ cov_q) + gap @ precision @ gap - 2 + log_dets[0] - log_dets[1])
    expected = -(1 + math.log(2 * math.pi)) - log_dets[1] / 2  # of log q; then minus three log p
    for coefficients, offset, variance in (
        ((0, 1), 0.0, 1.0), ((1, -c), 0.0, v1), ((-d, 0), X0, v0),
    ):  # fmt: skip
        u = np.array(coefficients)
        square = (offset + u @ mean_q) ** 2 + u @ cov_q @ u
        expected += 0.5 * (square / variance + math.log(2 * math.pi * variance))
    assert expected + log_px0 == pytest.approx(kl, abs=1e-12)
    assert kl > 0.01


def test_the_forward_kernel_turns_round_given_x0_and_the_fractions_telescope():
    x1, x2, x3 = np.random.default_rng(0).standard_normal((3, 50))
    forward = kernel(1, x1, X0) + kernel(2, x2, x1) + kernel(3, x3, x2)
    turned = marginal(3, x3)
    for t, before, after in ((2, x1, x2), (3, x2, x3)):
        a, b, variance = posterior(t)
        reverse_kernel = log_normal(before, a * after + b * X0, variance)
        one = reverse_kernel + marginal(t, after) - marginal(t - 1, before)
        np.testing.assert_allclose(kernel(t, after, before), one, atol=1e-11)
        turned = turned + reverse_kernel
    np.testing.assert_allclose(forward, turned, atol=1e-11)


def test_the_square_is_completed():
    # The exponent less that of N(mean, variance) must not depend on x_{t-1}.
    before, x_t = np.linspace(-3, 3, 31), 0.4
    for t in (2, 3):
        beta, kept = float(BETAS[t - 1]), float(CHAIN.alphas_cumprod[t - 2])
        exponent = -0.5 * (
            (x_t - math.sqrt(1 - beta) * before) ** 2 / beta
            + (before - math.sqrt(kept) * X0) ** 2 / (1 - kept)
        )
        a, b, variance = posterior(t)
        rest = exponent + 0.5 * (before - a * x_t - b * X0) ** 2 / variance
        np.testing.assert_allclose(rest, rest[0], atol=1e-12)


def test_the_prior_term_of_the_chain_is_tiny():
    end = schedules.linear().alphas_cumprod[-1]
    x0 = f64(0.0, 0.3, 1.0)
    ours = 0.5 * (end * x0**2 - end - torch.log1p(-end))
    kl = gaussian_kl(end.sqrt() * x0, 1 - end, f64(0.0)[0], f64(1.0)[0])
    torch.testing.assert_close(ours, kl, rtol=1e-6, atol=1e-14)
    torch.testing.assert_close(ours, 0.5 * end * x0**2 + end**2 / 4, rtol=1e-4, atol=1e-13)
    assert 2.0e-5 < float(ours[-1]) < 2.1e-5


def test_the_mean_in_terms_of_noise():
    chain = schedules.linear()
    t = torch.arange(1, 1001, dtype=torch.float64)
    x_t, eps = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0)).double()
    step = reverse.reverse_step(chain, t, t - 1)
    mean = reverse.posterior_mean(step, x_t, from_eps(chain, x_t, eps, t).x0)
    beta = chain.betas[:, None]
    ours = (x_t - beta / chain.sigma(t)[:, None] * eps) / (1 - beta).sqrt()
    torch.testing.assert_close(mean, ours, rtol=0, atol=1e-10)


def test_an_error_of_the_score_is_sigma_times_smaller():
    chain = schedules.linear()
    t = f64(1.0, 300.0, 1000.0)
    scale = losses.eps_error_scale(Denoiser(torch.nn.Identity(), chain, predict_score), t)
    torch.testing.assert_close(scale.abs(), chain.sigma(t))


def test_the_simple_loss_is_the_bound_with_each_term_divided_by_its_weight():
    chain = schedules.linear(40, 0.003, 0.4)
    generator = torch.Generator().manual_seed(1)
    t = torch.arange(1, 41, dtype=torch.float64)
    x0, eps, error = torch.randn(3, 40, 1, generator=generator).double()
    x_t = chain.add_noise(x0, eps, t)
    guess = from_eps(chain, x_t, eps + error, t)
    terms = losses.bound_terms(
        chain, Prediction(guess.x0, guess.eps), x0, x_t, t,
        variance=reverse.upper_variance, decoder=gaussian_decoder,
    )  # fmt: skip
    beta, kept = chain.betas, chain.alphas_cumprod
    before = torch.cat([f64(1.0), kept[:-1]])
    ratio = (1 - before) / (1 - kept)
    constant = 0.5 * (ratio - 1 - ratio.log())
    constant[0] = 0.5 * math.log(2 * math.pi * float(beta[0]))
    weight = beta / (2 * (1 - beta) * (1 - kept))
    ours = ((terms - constant) / weight).mean()
    torch.testing.assert_close(ours, (error**2).mean(), rtol=1e-8, atol=0)


def test_the_weights_of_the_first_and_the_last_step():
    chain = schedules.linear()
    weight = losses.elbo_steps_upper(chain, f64(1.0, 1000.0))
    assert float(weight[0]) == pytest.approx(0.50, abs=0.001)
    assert float(weight[1]) == pytest.approx(0.010, abs=0.0005)


def test_a_reverse_step_is_transport_and_langevin_to_second_order():
    x, score, excess = 0.8, -1.7, []
    for beta in (0.02, 0.01, 0.005):
        step = (x + beta * score) / math.sqrt(1 - beta)  # eps = -sigma s
        split = x + 0.5 * beta * (x + score) + 0.5 * beta * score
        excess.append(abs(step - split))
    assert excess[0] / excess[1] == pytest.approx(4, rel=0.05)
    assert excess[1] / excess[2] == pytest.approx(4, rel=0.05)
