"""The equations of the chapter on latent variables: enumeration, quadrature, autograd, closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from retro_diffusion import evaluation
from retro_diffusion.likelihood import gaussian_decoder, gaussian_kl

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def hermite(n=60):
    """Nodes and weights of the expectation under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def integral(values, grid):
    return float(torch.trapezoid(values, grid))


def normal(x, mean, variance):
    mean = torch.as_tensor(mean, dtype=torch.float64)
    return gaussian_decoder(x, mean, f64(variance)[0])


# ---- Gaussians ---------------------------------------------------------------------------------


def test_two_noisy_steps_are_one():
    (a1, s1), (a2, s2) = (0.9, 0.4), (0.7, 0.5)
    x1, x2 = (torch.linspace(-9, 9, 6001, dtype=torch.float64) for _ in range(2))
    x2 = x2[2800:3400:100]
    first = normal(x1, a1 * 1.3, s1**2).exp()  # x_1 given x_0 = 1.3
    for x in x2:
        both = integral(first * gaussian_decoder(x, a2 * x1, f64(s2**2)[0]).exp(), x1)
        one = math.exp(float(normal(x, a2 * a1 * 1.3, a2**2 * s1**2 + s2**2)))
        assert both == pytest.approx(one, rel=1e-9)


def test_precisions_add_when_a_gaussian_is_conditioned():
    s2, a, sigma2, x = 0.7, 1.4, 0.3, -0.8
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    joint = (normal(z, 0.0, s2) + normal(f64(x)[0], a * z, sigma2)).exp()
    joint = joint / integral(joint, z)
    v = 1 / (1 / s2 + a**2 / sigma2)
    mean = integral(joint * z, z)
    assert mean == pytest.approx(v * a / sigma2 * x, abs=1e-10)
    assert integral(joint * (z - mean) ** 2, z) == pytest.approx(v, abs=1e-10)


# ---- The bound, on a nonlinear model with a latent on the line -----------------------------------

LINE = torch.linspace(-8, 8, 8001, dtype=torch.float64)
X, NOISE = 0.9, 0.35


def log_joint(z):
    decoder = gaussian_decoder(f64(X)[0], torch.sin(2 * z) + 0.5 * z, f64(NOISE)[0])
    return normal(z, 0.0, 1.0) + decoder


def log_evidence():
    return math.log(integral(log_joint(LINE).exp(), LINE))


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.6, 0.1), (-1.0, 0.5)])
def test_the_bound_its_two_terms_and_what_it_loses(mean, variance):
    log_q, log_p = normal(LINE, mean, variance), log_joint(LINE)
    q = log_q.exp()
    bound = integral(q * (log_p - log_q), LINE)
    evidence = log_evidence()
    assert bound < evidence
    reconstruction = integral(q * (log_p - normal(LINE, 0.0, 1.0)), LINE)
    price = float(gaussian_kl(*f64(mean, variance, 0.0, 1.0)))
    assert reconstruction - price == pytest.approx(bound, abs=1e-9)
    posterior = log_p - evidence
    gap = integral(q * (log_q - posterior), LINE)
    assert bound + gap == pytest.approx(evidence, abs=1e-9)
    assert gap > 0.01


def test_one_draw_estimates_the_bound_without_bias():
    mean, std = f64(0.6)[0], f64(0.3)[0]
    eps, weights = hermite(100)
    z = mean + std * eps
    price = 0.5 * (mean**2 + std**2 - 1 - (std**2).log())
    estimates = gaussian_decoder(f64(X)[0], torch.sin(2 * z) + 0.5 * z, f64(NOISE)[0]) - price
    log_q = normal(LINE, 0.6, 0.09)
    bound = integral(log_q.exp() * (log_joint(LINE) - log_q), LINE)
    assert float(weights @ estimates) == pytest.approx(bound, abs=1e-9)


def test_the_law_of_x_is_the_average_decoder():
    # A linear decoder, where the integral is known: N(mu, w^2 + sigma^2).
    joint = normal(LINE, 0.0, 1.0) + gaussian_decoder(f64(0.4)[0], 0.2 + 1.1 * LINE, f64(0.3)[0])
    expected = float(normal(f64(0.4)[0], 0.2, 1.1**2 + 0.3).exp())
    assert integral(joint.exp(), LINE) == pytest.approx(expected, rel=1e-9)


def tables(*shape, seed=0):
    """Random conditional probabilities, summing to one over the last axis."""
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64).add(0.2).softmax(-1)


def test_on_average_the_bound_fits_one_joint_law_to_another():
    data, encoder = tables(3), tables(3, 4, seed=1)
    prior, decoder = tables(4, seed=2), tables(4, 3, seed=3)
    model = (prior[:, None] * decoder).T  # (x, z)
    bound = (encoder * (model.log() - encoder.log())).sum(1)
    left = (data * (data.log() - bound)).sum()
    joint = data[:, None] * encoder
    torch.testing.assert_close(left, (joint * (joint / model).log()).sum())


# ---- The linear model ------------------------------------------------------------------------------


def linear_fit(covariance, n_latent):
    values, vectors = (v.flip(-1) for v in torch.linalg.eigh(covariance))
    noise = values[n_latent:].mean()
    return values, noise, vectors[:, :n_latent] * (values[:n_latent] - noise).sqrt()


def covariance_of(n_dims, seed=0):
    factor = torch.randn(n_dims, n_dims, generator=seeded(seed), dtype=torch.float64)
    return factor @ factor.T / n_dims + 0.1 * torch.eye(n_dims, dtype=torch.float64)


def test_the_linear_model_s_fit_is_a_maximum_of_the_likelihood():
    covariance = covariance_of(6)
    _, noise, weights = linear_fit(covariance, 2)

    def mean_log_likelihood(weights, log_noise):
        model = weights @ weights.T + log_noise.exp() * torch.eye(6, dtype=torch.float64)
        return -0.5 * (torch.logdet(model) + torch.trace(torch.linalg.solve(model, covariance)))

    weights.requires_grad_()
    log_noise = noise.log().requires_grad_()
    best = mean_log_likelihood(weights, log_noise)
    for slope in torch.autograd.grad(best, (weights, log_noise)):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)
    for seed in range(20):
        step = torch.randn(6, 2, generator=seeded(seed), dtype=torch.float64)
        shift = torch.randn((), generator=seeded(100 + seed), dtype=torch.float64)
        assert mean_log_likelihood(weights + 0.3 * step, log_noise + 0.3 * shift) < best


def test_the_linear_model_s_posterior_has_independent_units():
    values, noise, weights = linear_fit(covariance_of(6), 2)
    x = torch.randn(6, generator=seeded(1), dtype=torch.float64)
    precision = torch.eye(2, dtype=torch.float64) + weights.T @ weights / noise
    torch.testing.assert_close(torch.linalg.inv(precision), torch.diag(noise / values[:2]))
    directions = weights / (values[:2] - noise).sqrt()
    mean = (values[:2] - noise).sqrt() * (directions.T @ x) / values[:2]
    torch.testing.assert_close(mean, torch.linalg.solve(precision, weights.T @ x / noise))


def test_the_price_of_a_unit_is_half_the_log_of_signal_over_noise():
    covariance = covariance_of(6)
    values, noise, weights = linear_fit(covariance, 3)
    mean_square = (weights.T @ covariance @ weights).diagonal() / values[:3] ** 2
    variance = noise / values[:3]
    price = gaussian_kl(mean_square.sqrt(), variance, f64(0.0), f64(1.0))
    torch.testing.assert_close(price, 0.5 * (values[:3] / noise).log())


# ---- Gradients -------------------------------------------------------------------------------------


def test_both_gradient_estimators_are_unbiased():
    mean, std = f64(0.3)[0].requires_grad_(), f64(0.6)[0].requires_grad_()
    eps, weights = hermite()
    z = mean + std * eps

    def f(z):
        return torch.sin(z) + 0.2 * z**3

    truth = torch.autograd.grad(
        # E sin = sin(mu) exp(-s^2/2), E z^3 = mu^3 + 3 mu s^2
        torch.sin(mean) * torch.exp(-(std**2) / 2) + 0.2 * (mean**3 + 3 * mean * std**2),
        (mean, std),
    )
    z = z.detach()
    slope = torch.cos(z) + 0.6 * z**2
    through = ((weights * slope).sum(), (weights * eps * slope).sum())
    u = (z - 0.3) / 0.6
    score = ((weights * f(z) * u).sum() / 0.6, (weights * f(z) * (u**2 - 1)).sum() / 0.6)
    for estimate in (through, score):
        torch.testing.assert_close(torch.stack(estimate), torch.stack(truth), rtol=1e-9, atol=0)


def test_the_variance_of_both_estimators_on_a_straight_line():
    c, b, sigma = 1.7, -0.8, 0.6
    u, weights = hermite()
    estimate = (c + b * sigma * u) * u / sigma
    mean = float((weights * estimate).sum())
    assert mean == pytest.approx(b, rel=1e-10)
    variance = float((weights * (estimate - mean) ** 2).sum())
    assert variance == pytest.approx(c**2 / sigma**2 + 2 * b**2, rel=1e-10)


# ---- Importance weights ----------------------------------------------------------------------------


def importance_bound(weights, q, K):
    total = 0.0
    for draw in itertools.product(range(len(q)), repeat=K):
        total += float(q[list(draw)].prod() * weights[list(draw)].mean().log())
    return total


def test_more_importance_weights_never_hurt_and_never_exceed_the_truth():
    q, weights = f64(0.5, 0.3, 0.2), f64(0.2, 1.5, 4.0)
    truth = math.log(float(q @ weights))
    bounds = [importance_bound(weights, q, K) for K in range(1, 6)]
    assert all(a < b for a, b in itertools.pairwise(bounds))
    assert bounds[-1] < truth
    # The control: a sum in place of a mean is no bound.
    assert bounds[-1] + math.log(5) > truth


def test_the_importance_gap_falls_as_the_variance_over_twice_k():
    chance, (low, high), K = 0.3, (0.5, 2.0), 2000  # K times high: a binomial number
    k = torch.arange(K + 1, dtype=torch.float64)
    counts = torch.distributions.Binomial(K, f64(chance)).log_prob(k).exp()
    bound = float((counts * ((k * high + (K - k) * low) / K).log()).sum())
    mean = chance * high + (1 - chance) * low
    variance = chance * (1 - chance) * (high - low) ** 2
    gap = math.log(mean) - bound
    assert 2 * K * mean**2 * gap == pytest.approx(variance, rel=2e-3)


# ---- Chains ----------------------------------------------------------------------------------------


def test_a_chain_loses_the_divergence_of_its_end_and_of_every_step_back():
    n, T = 3, 3
    data = tables(n)
    forward = [tables(n, n, seed=1 + t) for t in range(T)]  # q(z_t | z_{t-1})
    prior = tables(n, seed=10)
    back = [tables(n, n, seed=11 + t) for t in range(T)]  # p(z_{t-1} | z_t), rows z_t
    loss = 0.0
    for z in itertools.product(range(n), repeat=T + 1):
        q = [forward[t][z[t], z[t + 1]] for t in range(T)]
        p = [back[t][z[t + 1], z[t]] for t in range(T)]
        weight = data[z[0]] * torch.stack(q).prod()
        term = prior[z[T]].log() + sum(a.log() - b.log() for a, b in zip(p, q, strict=True))
        loss += float(weight * (data[z[0]].log() - term))
    marginals = [data]
    for kernel in forward:
        marginals.append(marginals[-1] @ kernel)
    expected = float((marginals[T] * (marginals[T] / prior).log()).sum())
    for t in range(T):
        joint = marginals[t][:, None] * forward[t]  # (z_{t}, z_{t+1})
        true = (joint / joint.sum(0)).T
        expected += float((joint.T * (true / back[t]).log()).sum())
    assert loss == pytest.approx(expected, abs=1e-12)
    assert loss > 0


def test_one_step_of_noise_is_a_vae_without_an_encoder():
    # Gaussian data with the exact decoder: only the prior term is lost.
    s2, alpha, sigma2, x0 = 0.25, 0.6, 0.5, 0.7
    m = alpha**2 * s2 + sigma2
    x_T = torch.linspace(-9, 9, 8001, dtype=torch.float64)
    q = normal(x_T, alpha * x0, sigma2)
    decoder = gaussian_decoder(f64(x0)[0], alpha * s2 / m * x_T, f64(s2 * sigma2 / m)[0])
    price = float(gaussian_kl(*f64(alpha * x0, sigma2, 0.0, 1.0)))
    bound = integral(q.exp() * decoder, x_T) - price
    exact = math.log(integral((normal(x_T, 0.0, 1.0) + decoder).exp(), x_T))  # log p(x_0)
    posterior = normal(x_T, 0.0, 1.0) + decoder - exact
    assert bound == pytest.approx(exact - integral(q.exp() * (q - posterior), x_T), abs=1e-9)


def test_a_step_back_has_variance_beta_times_a_ratio_and_loses_r_minus_1_minus_log_r():
    before, a, beta = 0.6, 0.8, 0.3
    m = a**2 * before + beta
    true = 1 / (1 / before + a**2 / beta)
    assert true == pytest.approx(beta * before / m, rel=1e-12)
    r = before / m
    lost = float(gaussian_kl(*f64(0.4, true, 0.4, beta)))
    assert lost == pytest.approx(0.5 * (r - 1 - math.log(r)), rel=1e-12)


def test_the_loss_of_small_steps_is_an_integral_over_four_t():
    def log_m(u):  # a variance-preserving path with log SNR from 10 to -10, data of variance 1/4
        kept = torch.sigmoid(10 - 20 * u)
        return (0.25 * kept + 1 - kept).log()

    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    slope = torch.gradient(log_m(u), spacing=(u,))[0]
    expected = integral(slope**2, u) / 4
    values = []
    for T in (400, 4000):
        log_r = -log_m(torch.linspace(0, 1, T + 1, dtype=torch.float64)).diff()
        values.append(T * float(0.5 * (log_r.exp() - 1 - log_r).sum()))
    assert abs(values[1] - expected) < abs(values[0] - expected)
    assert values[1] == pytest.approx(expected, rel=2e-3)


# ---- Fisher divergence -----------------------------------------------------------------------------


def mixture(x, weight, variance):
    parts = torch.stack([normal(x, -3.0, variance), normal(x, 3.0, variance)])
    return torch.logsumexp(parts + f64([1 - weight], [weight]).log(), 0)


def fisher(log_q, log_p, x):
    slopes = [torch.gradient(f, spacing=(x,))[0] for f in (log_q, log_p)]
    return integral(log_q.exp() * (slopes[0] - slopes[1]) ** 2, x)


def kl(log_q, log_p, x):
    return integral(log_q.exp() * (log_q - log_p), x)


def test_one_fisher_divergence_forgets_the_weights_of_the_modes():
    x = torch.linspace(-7, 7, 14_001, dtype=torch.float64)
    log_q, log_p = mixture(x, 0.2, 0.1), mixture(x, 0.7, 0.1)
    assert fisher(log_q, log_p, x) < 1e-6
    binary = 0.2 * math.log(0.2 / 0.7) + 0.8 * math.log(0.8 / 0.3)
    assert kl(log_q, log_p, x) == pytest.approx(binary, abs=1e-6)


def test_kl_falls_with_noise_at_half_the_fisher_divergence():
    x = torch.linspace(-25, 25, 25_001, dtype=torch.float64)
    for v in (0.5, 2.0):
        laws = [
            (mixture(x, 0.2, 0.3 + w), mixture(x, 0.7, 0.5 + w)) for w in (v - 1e-3, v, v + 1e-3)
        ]
        slope = (kl(*laws[2], x) - kl(*laws[0], x)) / 2e-3
        assert slope == pytest.approx(-0.5 * fisher(*laws[1], x), rel=1e-4)


def test_the_fisher_divergences_of_all_noise_levels_are_kl():
    # Gaussians, where the Fisher divergence at noise v is a formula; substitute v = w / (1 - w).
    a, m, b = 0.4, 0.7, 1.3
    w = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    A, B = a + w / (1 - w), b + w / (1 - w)
    values = A * (1 / B - 1 / A) ** 2 + m**2 / B**2
    found = 0.5 * float((values / (1 - w) ** 2).mean())
    assert found == pytest.approx(float(gaussian_kl(*f64(0.0, a, m, b))), rel=1e-6)


# ---- Scores of samples -----------------------------------------------------------------------------


def test_the_inception_score_is_the_exponential_of_an_information():
    p = tables(50, 4, seed=5)
    marginal = p.mean(0)
    score = (p * (p / marginal).log()).sum(1).mean().exp()
    entropies = -(marginal * marginal.log()).sum() + (p * p.log()).sum(1).mean()
    torch.testing.assert_close(score, entropies.exp())
    assert 1 < score < 4
    sure = torch.eye(4, dtype=torch.float64)
    assert float(torch.xlogy(sure, sure / sure.mean(0)).sum(1).mean().exp()) == pytest.approx(4)


def test_noise_costs_much_where_data_vary_little():
    def cost(v, sigma2):
        x = torch.randn(500, 1, generator=seeded(), dtype=torch.float64)
        x = (x - x.mean()) / x.std()
        return evaluation.frechet_distance(x * (v + sigma2) ** 0.5, x * v**0.5)

    assert cost(2.0, 0.3) == pytest.approx((2.3**0.5 - 2**0.5) ** 2, rel=1e-9)
    assert cost(1.0, 0.01) == pytest.approx(0.01**2 / 4, rel=0.01)
    assert cost(1e-6, 1.0) == pytest.approx(1, rel=0.01)
