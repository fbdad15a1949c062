"""Exact denoisers against brute force, scipy, autograd, quadrature and each other."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from retro_diffusion.oracles import Gaussian, GaussianMixture, digits_mixture
from retro_diffusion.parameterizations import Prediction, velocity
from retro_diffusion.reverse import lower_variance, reverse_step, upper_variance
from retro_diffusion.samplers import ddim, last
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    linear,
)
from retro_diffusion.times import trailing, uniform

torch.set_num_threads(1)

PATHS = [linear(), LinearVP(), CosineVP(), GeometricVE(), SigmaSchedule(), RectifiedFlow()]
LABELS = torch.tensor([0, 1, 1])
WIDTHS = {
    "shared": 0.3,
    "round": (0.3, 0.5, 0.1),
    "wide": ([0.3, 0.6], [0.5, 0.2], [0.1, 0.4]),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def at(schedule, fraction):
    return f64(fraction * schedule.t_max)[0]


def mixture(schedule, stds=WIDTHS["round"]):
    means = f64([-1, 0.5], [1, 0], [0.4, -1.2])
    stds = torch.as_tensor(stds, dtype=torch.float64)
    return GaussianMixture(schedule, means, stds, f64(1, 2, 3), LABELS)


def correlated(schedule):
    return Gaussian(schedule, f64(0.5, -1), f64([1.0, 0.6], [0.6, 0.5]))


def points(n=7, seed=0):
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", [mixture, correlated])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_score_is_the_gradient_of_the_log_density(schedule, make, per_sample):
    oracle, x = make(schedule), points().requires_grad_()
    t = at(schedule, 0.3)
    t = t * torch.linspace(0.5, 2, 7, dtype=torch.float64) if per_sample else t
    (gradient,) = torch.autograd.grad(oracle.log_prob(x, t).sum(), x)
    prediction = oracle(x.detach(), t)
    sigma = schedule.sigma(t).reshape(-1, 1)
    torch.testing.assert_close(-prediction.eps / sigma, gradient, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(oracle.score(x.detach(), t), gradient, rtol=1e-9, atol=1e-10)


def brute_force(oracle, x, t, cond=None):
    """Log-density, x0, eps, score and variances, a sample and a component at a time, in long double.

    For samples of 2 numbers.
    """
    n, k = len(x), len(oracle.means)
    real = np.longdouble
    means = oracle.means.numpy().astype(real)
    stds = np.broadcast_to(oracle.stds.numpy().astype(real), means.shape)
    log_prob, x0, eps, variance = np.zeros(n, real), *np.zeros((3, n, 2), real)
    for i in range(n):
        time = t if t.ndim == 0 else t[i]
        alpha, sigma = real(oracle.schedule.alpha(time)), real(oracle.schedule.sigma(time))
        inside = [j for j in range(k) if cond is None or oracle.labels[j] == cond[i]]
        weights = np.exp(oracle.log_weights.numpy().astype(real))[inside]
        v = (alpha * stds[inside]) ** 2 + sigma**2
        offset = x[i].numpy().astype(real) - alpha * means[inside]
        log_joint = np.log(weights / weights.sum())
        log_joint = log_joint - (offset**2 / v + np.log(2 * np.pi * v)).sum(1) / 2
        log_prob[i] = log_joint.max() + np.log(np.exp(log_joint - log_joint.max()).sum())
        r = np.exp(log_joint - log_prob[i])[:, None]
        answers = means[inside] + alpha * stds[inside] ** 2 / v * offset
        x0[i], eps[i] = (r * answers).sum(0), (r * sigma / v * offset).sum(0)
        within = (stds[inside] * sigma) ** 2 / v
        variance[i] = (r * (within + (answers - x0[i]) ** 2)).sum(0)
    return [torch.tensor(a.astype(float)) for a in (log_prob, x0, eps, variance)]


def jacobian_trace(oracle, x, t, cond=None):
    jacobian = torch.func.jacrev(lambda z: oracle(z, t, cond).x0.sum(0))(x)
    return jacobian.diagonal(dim1=0, dim2=2).sum(1)


def times_for(schedule, per_sample):
    t = at(schedule, 0.3)
    return t * torch.linspace(0.2, 3, 7, dtype=torch.float64) if per_sample else t


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("stds", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("cond", [None, LABELS[[0, 1, 2, 0, 1, 2, 0]]], ids=["all", "class"])
def test_every_answer_of_a_mixture_is_the_sum_over_its_components(schedule, stds, per_sample, cond):
    oracle, x, t = mixture(schedule, stds), points(), times_for(schedule, per_sample)
    log_prob, x0, eps, variance = brute_force(oracle, x, t, cond)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    found = oracle(x, t, cond)

    def agree(answer, expected):
        torch.testing.assert_close(answer, expected, rtol=1e-11, atol=1e-12)

    agree(oracle.log_prob(x, t, cond), log_prob)
    agree(found.x0, x0)
    agree(found.eps, eps)
    agree(oracle.score(x, t, cond), -eps / sigma.reshape(-1, 1))
    agree(oracle.posterior_variances(x, t, cond), variance)
    agree(oracle.total_variance(x, t, cond), variance.sum(1))
    agree(oracle.divergence(x, t, cond), alpha / sigma**2 * variance.sum(1))
    agree(oracle.responsibilities(x, t, cond).sum(1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize("stds", [0.1, (0.1, 0.02, 0.3), 0.0], ids=["shared", "round", "points"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_digits_are_not_lost_at_low_noise(stds, per_sample):
    # Near the data, near the boundary of two components, and far from the origin, where the square of
    # a distance is a small difference of large numbers.
    sigma = f64(1e-3)[0]
    near = mixture(RectifiedFlow(), stds)
    oracle = GaussianMixture(near.schedule, near.means + 5, near.stds[:, 0], labels=LABELS)
    midpoint = (oracle.means[:1] + oracle.means[1:2]) / 2
    noise = 1e-3 * torch.randn(3, 2, generator=torch.Generator().manual_seed(3)).double()
    x = (1 - sigma) * torch.cat([oracle.means + noise, midpoint, midpoint + 1e-7])
    t = sigma.expand(5) if per_sample else sigma
    log_prob, x0, eps, _ = brute_force(oracle, x, t)
    found = oracle(x, t)
    torch.testing.assert_close(found.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sigma * found.eps, sigma * eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(oracle.log_prob(x, t), log_prob, rtol=1e-9, atol=1e-9)


# ---- How x0_hat changes with x_t, and how uncertain it is ------------------------------------------


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("law", ["gaussian", *WIDTHS])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_divergence_is_the_trace_of_the_jacobian(schedule, law, per_sample):
    oracle = correlated(schedule) if law == "gaussian" else mixture(schedule, WIDTHS[law])
    x, t = points(), times_for(schedule, per_sample)
    for cond in (None, LABELS[[0, 1, 2, 0, 1, 2, 0]]):
        found = oracle.divergence(x, t, cond)
        trace = jacobian_trace(oracle, x, t, cond)
        torch.testing.assert_close(found, trace, rtol=1e-9, atol=1e-11)
        h = 1e-4 * float(schedule.sigma(t).min())
        slopes = sum(
            (oracle(x + h * e, t, cond).x0 - oracle(x - h * e, t, cond).x0) @ e / (2 * h)
            for e in torch.eye(2, dtype=torch.float64)
        )
        torch.testing.assert_close(found, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("make", [mixture, correlated])
def test_the_divergence_and_the_unavoidable_error_are_one_quantity(make):
    oracle, x, t = make(LinearVP()), points(), times_for(LinearVP(), per_sample=True)
    alpha, sigma = LinearVP().alpha(t), LinearVP().sigma(t)
    total = oracle.total_variance(x, t)
    torch.testing.assert_close(oracle.divergence(x, t), alpha / sigma**2 * total)
    if make is correlated:
        torch.testing.assert_close(total, oracle.posterior_variances(t).sum(1))


@pytest.mark.parametrize("law", ["gaussian", *WIDTHS])
def test_without_noise_x_t_is_all_there_is_to_know(law):
    oracle = correlated(linear()) if law == "gaussian" else mixture(linear(), WIDTHS[law])
    x, t = points().requires_grad_(), f64(0.0)[0]
    torch.testing.assert_close(oracle.divergence(x, t), f64(2.0).expand(7))
    assert (oracle.total_variance(x, t) == 0).all()
    (gradient,) = torch.autograd.grad(oracle.log_prob(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)


@pytest.mark.parametrize("law", ["gaussian", *WIDTHS])
@pytest.mark.parametrize("per_sample", [False, True])
def test_without_signal_the_answer_is_the_mean_of_the_law(law, per_sample):
    schedule = RectifiedFlow()
    oracle = correlated(schedule) if law == "gaussian" else mixture(schedule, WIDTHS[law])
    x, t = points(), f64(1.0).expand(7) if per_sample else f64(1.0)[0]
    mean = oracle.mean if law == "gaussian" else f64(1, 2, 3) @ oracle.means / 6
    torch.testing.assert_close(oracle(x, t).x0, mean.expand(7, 2))
    torch.testing.assert_close(oracle(x, t).eps, x)
    assert (oracle.divergence(x, t) == 0).all()


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_a_mixtures_posterior_variance_by_quadrature(schedule):
    oracle = GaussianMixture(schedule, f64([-1.0], [0.8]), f64(0.3, 0.2), f64(1.0, 2.0))
    t = at(schedule, 0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    prior = torch.tensor(stats.norm(-1, 0.3).pdf(x0) + 2 * stats.norm(0.8, 0.2).pdf(x0))
    for x_t in (-1.5, 0.1, 0.9):
        weight = prior * torch.exp(-((x_t - alpha * x0) ** 2) / (2 * sigma**2))
        mean = (weight * x0).sum() / weight.sum()
        variance = (weight * (x0 - mean) ** 2).sum() / weight.sum()
        found = oracle.posterior_variances(f64([x_t]), t)[0, 0]
        torch.testing.assert_close(found, variance, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("make", [mixture, correlated])
def test_the_pair_explains_x_t(schedule, make):
    t, x = at(schedule, 0.4), points()
    x0, eps, _ = make(schedule)(x, t)
    torch.testing.assert_close(schedule.alpha(t) * x0 + schedule.sigma(t) * eps, x)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_gaussian_marginals_are_scipys(schedule):
    oracle, t, x = correlated(schedule), at(schedule, 0.6), points()
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    covariance = alpha**2 * oracle.covariance.numpy() + sigma**2 * torch.eye(2).numpy()
    law = stats.multivariate_normal(alpha * oracle.mean.numpy(), covariance)
    torch.testing.assert_close(oracle.log_prob(x, t), torch.tensor(law.logpdf(x.numpy())))


def test_mixture_marginals_are_scipys():
    oracle, t, x = mixture(linear()), f64(200.0)[0], points()
    alpha, sigma = float(linear().alpha(t)), float(linear().sigma(t))
    density = sum(
        weight
        * stats.multivariate_normal(alpha * m.numpy(), alpha**2 * s**2 + sigma**2).pdf(x.numpy())
        for weight, m, s in zip((1 / 6, 2 / 6, 3 / 6), oracle.means, (0.3, 0.5, 0.1), strict=True)
    )
    torch.testing.assert_close(oracle.log_prob(x, t), torch.tensor(density).log())


def test_one_round_component_is_a_gaussian():
    one = GaussianMixture(linear(), f64([0.5, -1]), 0.7)
    other = Gaussian(linear(), f64(0.5, -1), 0.49 * torch.eye(2))
    x, t = points(), f64(*range(100, 800, 100))
    torch.testing.assert_close(one.log_prob(x, t), other.log_prob(x, t))
    for a, b in zip(one(x, t)[:2], other(x, t)[:2], strict=True):
        torch.testing.assert_close(a, b)


def test_one_component_with_two_widths_is_a_gaussian():
    one = GaussianMixture(linear(), f64([0.5, -1]), f64([0.7, 0.2]))
    other = Gaussian(linear(), f64(0.5, -1), torch.diag(f64(0.49, 0.04)))
    x, t = points(), f64(*range(100, 800, 100))
    torch.testing.assert_close(one.log_prob(x, t), other.log_prob(x, t))
    for a, b in zip(one(x, t)[:2], other(x, t)[:2], strict=True):
        torch.testing.assert_close(a, b)


def test_equal_widths_along_all_axes_are_round_components():
    stds = f64(0.3, 0.5, 0.1)
    x, t, c = points(), f64(*range(100, 800, 100)), LABELS[[0, 1, 1, 0, 0, 1, 1]]
    round_, wide = mixture(linear(), stds), mixture(linear(), stds[:, None].expand(3, 2))
    torch.testing.assert_close(wide.log_prob(x, t, c), round_.log_prob(x, t, c))
    for a, b in zip(wide(x, t, c)[:2], round_(x, t, c)[:2], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_the_denoiser_is_the_posterior_mean_by_quadrature(schedule):
    # One dimension: integrate x0 and eps against p(x0) q(x_t | x0) on a fine grid.
    oracle = GaussianMixture(schedule, f64([-1.0], [0.8]), f64(0.3, 0.2), f64(1.0, 2.0))
    t = at(schedule, 0.3)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = torch.linspace(-4, 4, 40_001, dtype=torch.float64)
    prior = sum(
        w * torch.tensor(stats.norm(m, s).pdf(x0.numpy()))
        for w, m, s in ((1, -1, 0.3), (2, 0.8, 0.2))
    )
    for x_t in (-1.5, 0.1, 0.9):
        weight = prior * torch.exp(-((x_t - alpha * x0) ** 2) / (2 * sigma**2))
        mean = (weight * x0).sum() / weight.sum()
        prediction = oracle(f64([x_t]), t)
        assert float(prediction.x0) == pytest.approx(float(mean), abs=1e-9)
        assert float(prediction.eps) == pytest.approx(float((x_t - alpha * mean) / sigma), abs=1e-8)


def test_posterior_variance_by_quadrature():
    oracle, t = Gaussian(linear(), f64(0.3), f64([0.64])), f64(300.0)[0]
    alpha, sigma = linear().alpha(t), linear().sigma(t)
    x0 = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    weight = torch.exp(-((x0 - 0.3) ** 2) / (2 * 0.64) - (0.9 - alpha * x0) ** 2 / (2 * sigma**2))
    mean = (weight * x0).sum() / weight.sum()
    variance = (weight * (x0 - mean) ** 2).sum() / weight.sum()
    torch.testing.assert_close(oracle.posterior_variances(t)[0], variance, rtol=1e-9, atol=0)


def test_reverse_variance_is_bayes_rule_without_x0():
    # x_s ~ N(., v_s) and x_t = a x_s + N(0, upper): Var[x_s | x_t] = v_s upper / v_t.
    oracle = correlated(linear())
    t, s = f64(700.0, 450.0)
    a2 = (linear().alpha(t) / linear().alpha(s)) ** 2
    v_s, v_t = oracle.marginal_variances(s), oracle.marginal_variances(t)
    upper = linear().sigma(t) ** 2 - a2 * linear().sigma(s) ** 2
    torch.testing.assert_close(oracle.reverse_variances(t, s), v_s * upper / v_t)


def gap_step_by_step(oracle, grid, variance):
    gap, lower, nothing = 0.0, f64(0.0)[0], Prediction(oracle.mean, oracle.mean)
    for t, s in pairwise(grid):
        step = reverse_step(oracle.schedule, t, s)
        lower = step.lower if step.lower > 0 else lower
        ratio = oracle.reverse_variances(t, s) / variance(step._replace(lower=lower), nothing)
        gap += float((ratio - 1 - ratio.log()).sum()) / 2
    schedule, end = oracle.schedule, grid[0]
    variance = oracle.marginal_variances(end)
    prior = schedule.alpha(end) ** 2 + schedule.sigma(end) ** 2
    square = schedule.alpha(end) ** 2 * oracle.mean**2
    return gap + float(((variance + square) / prior - 1 - (variance / prior).log()).sum()) / 2


@pytest.mark.parametrize("n_steps", [2, 7, 1000])
@pytest.mark.parametrize("variance", [lower_variance, upper_variance, "exact"])
def test_the_bound_gap_is_the_sum_of_the_gaps_of_the_steps(n_steps, variance):
    oracle, grid = correlated(linear()), trailing(linear(), n_steps)
    if variance == "exact":
        variance = lambda step, _: oracle.reverse_variances(step.t, step.s)  # noqa: E731
    found = oracle.bound_gap(grid, variance)
    assert found == pytest.approx(gap_step_by_step(oracle, grid, variance), rel=1e-11)


# ---- Classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("stds", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_conditional_score_is_unconditional_score_plus_classifier_gradient(
    schedule, stds, per_sample
):
    oracle, t = mixture(schedule, stds), times_for(schedule, per_sample)
    x, cond = points().requires_grad_(), LABELS[[0, 1, 2, 0, 1, 2, 0]]
    (classifier,) = torch.autograd.grad(oracle.class_log_prob(x, t, cond).sum(), x)
    x = x.detach()
    guided = oracle.score(x, t) + classifier
    torch.testing.assert_close(guided, oracle.score(x, t, cond), rtol=1e-10, atol=1e-10)


def test_class_probabilities_sum_to_one_and_obey_bayes():
    oracle, t, x = mixture(linear()), f64(150.0)[0], points()
    joint = []
    for c, prior in ((0, 1 / 6), (1, 5 / 6)):
        cond = torch.full((len(x),), c)
        joint.append(oracle.log_prob(x, t, cond) + math.log(prior))
        bayes = joint[-1] - oracle.log_prob(x, t)
        torch.testing.assert_close(oracle.class_log_prob(x, t, cond), bayes)
    torch.testing.assert_close(torch.stack(joint).logsumexp(0), oracle.log_prob(x, t))


def test_class_probabilities_are_the_softmax_of_the_classifier_in_the_order_of_the_labels():
    means, labels = f64([-1, 0.5], [1, 0], [0.4, -1.2], [0, 0]), torch.tensor([7, 3, 7, 4])
    oracle = GaussianMixture(linear(), means, 0.4, labels=labels)
    x, t = points(), f64(*range(100, 800, 100))
    assert oracle.classes.tolist() == [3, 4, 7]
    found = oracle.class_probs(x, t)
    logits = [oracle.class_log_prob(x, t, torch.full((7,), c)) for c in (3, 4, 7)]
    torch.testing.assert_close(found, torch.stack(logits, 1).softmax(1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.sum(1), f64(1.0).expand(7), rtol=1e-12, atol=0)
    nearest = oracle.class_probs(means, f64(1.0)[0]).argmax(1)
    assert oracle.classes[nearest].tolist() == labels.tolist()


def test_conditional_densities_are_normalised():
    oracle = GaussianMixture(linear(), f64([-1.0], [1.0], [0.2]), 0.3, f64(1, 2, 3), LABELS)
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    for c in (None, 0, 1):
        cond = None if c is None else torch.full((len(x),), c)
        for t in (0.0, 400.0):
            mass = oracle.log_prob(x, f64(t)[0], cond).exp().sum() * 16 / 20_000
            assert float(mass) == pytest.approx(1, abs=1e-9)


def test_a_class_of_one_component_is_that_gaussian():
    oracle, x, t = mixture(linear()), points(), f64(300.0)[0]
    alone = Gaussian(linear(), f64(-1, 0.5), 0.09 * torch.eye(2))
    cond = torch.zeros(7, dtype=torch.long)
    torch.testing.assert_close(oracle(x, t, cond).x0, alone(x, t).x0)
    r = oracle.responsibilities(x, t, cond)
    torch.testing.assert_close(r, f64(1, 0, 0).expand(7, 3))
    assert oracle.responsibilities(x, t).sum(1).sub(1).abs().max() < 1e-12


# ---- The flow ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_the_flow_map_solves_the_probability_flow_ode(schedule):
    oracle, x, h = correlated(schedule), points(), 1e-5 * schedule.t_max
    t = at(schedule, 0.4371)
    slope = (oracle.flow(x, t, t + h) - oracle.flow(x, t, t - h)) / (2 * h)
    torch.testing.assert_close(slope, velocity(schedule, oracle(x, t), t), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_the_flow_is_a_semigroup_and_can_be_undone(schedule):
    oracle, x = correlated(schedule), points()
    t, s, r = (at(schedule, f) for f in (0.9, 0.5, 0.1))
    direct, via = oracle.flow(x, t, r), oracle.flow(oracle.flow(x, t, s), s, r)
    torch.testing.assert_close(via, direct)
    torch.testing.assert_close(oracle.flow(direct, r, t), x)


def test_the_flow_carries_one_marginal_to_the_other():
    oracle, x = correlated(linear()), points()
    t, s = f64(800.0, 100.0)
    x_s = oracle.flow(x, t, s)
    stretch = 0.5 * (oracle.marginal_variances(s) / oracle.marginal_variances(t)).log().sum()
    torch.testing.assert_close(oracle.log_prob(x, t), oracle.log_prob(x_s, s) + stretch)


@pytest.mark.parametrize("schedule", [linear(), RectifiedFlow()], ids=["linear", "flow"])
def test_many_ddim_steps_follow_the_flow(schedule):
    oracle, x = correlated(schedule), points()
    t = f64(schedule.t_max)[0]
    errors = []
    for n in (250, 500):
        end = last(ddim(oracle, x, uniform(schedule, n)))
        errors.append(float((end - oracle.flow(x, t, f64(0.0)[0])).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)  # first order


# ---- Limits and shapes -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mixture, correlated])
def test_at_the_data_x0_is_x_t_and_eps_is_unknown(make):
    x = points()
    x0, eps, _ = make(linear())(x, f64(0.0)[0])
    torch.testing.assert_close(x0, x)
    assert (eps == 0).all()


def test_a_finite_data_set_answers_with_its_nearest_point_at_low_noise():
    data = f64([-1, 0], [1, 0], [0, 1])
    oracle = GaussianMixture(SigmaSchedule(), data, 0.0)
    x = data + 0.01 * points(3)
    torch.testing.assert_close(oracle(x, f64(0.01)[0]).x0, data)
    average = oracle(x, f64(80.0)[0]).x0
    torch.testing.assert_close(average, data.mean(0).expand(3, 2), rtol=0, atol=1e-3)
    assert torch.isin(oracle.sample(50), data).all()


def test_a_narrow_mixture_tends_to_the_finite_data_set():
    data, x, t = f64([-1, 0], [1, 0]), points(), f64(0.7)[0]
    narrow = GaussianMixture(SigmaSchedule(), data, 1e-5)(x, t)
    torch.testing.assert_close(narrow.x0, GaussianMixture(SigmaSchedule(), data, 0.0)(x, t).x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_keep_shape_and_dtype(dtype):
    means = torch.randn(3, 1, 4, 4)
    oracle = GaussianMixture(linear(), means, 0.1, labels=LABELS)
    flat = GaussianMixture(linear(), means.flatten(1), 0.1)
    x, t = torch.randn(5, 1, 4, 4, dtype=dtype), f64(300.0)[0]
    prediction = oracle(x, t)
    assert prediction.x0.shape == prediction.eps.shape == oracle.score(x, t).shape == x.shape
    assert prediction.x0.dtype == prediction.eps.dtype == dtype
    torch.testing.assert_close(prediction.x0.flatten(1), flat(x.flatten(1), t).x0)
    assert oracle.sample(6).shape == (6, 1, 4, 4)
    assert oracle.log_prob(x, t).shape == (5,)


def test_a_sample_that_is_not_a_number_spoils_no_other():
    x, t = points(), f64(300.0)[0]
    spoilt = x.clone()
    spoilt[2, 1] = math.nan
    for oracle in (mixture(linear()), correlated(linear())):
        x0 = oracle(spoilt, t).x0
        assert x0[2].isnan().all()
        torch.testing.assert_close(x0[[0, 1, 3]], oracle(x, t).x0[[0, 1, 3]])


@pytest.mark.parametrize("law", ["gaussian", *WIDTHS])
@pytest.mark.parametrize("per_sample", [False, True])
def test_answers_are_where_x_t_is(law, per_sample):
    # "meta" is a device with shapes and no numbers: enough to see that all tensors are moved to it.
    oracle = correlated(linear()) if law == "gaussian" else mixture(linear(), WIDTHS[law])
    x, t = points().to("meta"), times_for(linear(), per_sample)
    answers = [*oracle(x, t)[:2], oracle.score(x, t), oracle.log_prob(x, t)]
    answers += [oracle.divergence(x, t), oracle.total_variance(x, t)]
    if law == "gaussian":
        answers.append(oracle.flow(x, t, t / 2))
    else:
        answers += [oracle.posterior_variances(x, t), oracle.class_probs(x, t)]
    assert {answer.device.type for answer in answers} == {"meta"}
    assert {len(answer) for answer in answers} == {7}


def test_the_digits_are_a_mixture_of_images():
    oracle = digits_mixture(LinearVP())
    assert oracle.means.shape == (1797, 64) and oracle.shape == (1, 8, 8)
    assert float(oracle.means.min()) == -1 and float(oracle.means.max()) == 1
    assert (oracle.stds == 0.1).all() and oracle.classes.tolist() == list(range(10))
    images, t = oracle.means[:5].reshape(5, 1, 8, 8), f64(0.02)[0]
    x_t = LinearVP().alpha(t) * images
    assert oracle.class_probs(x_t, t).argmax(1).tolist() == oracle.labels[:5].tolist()
    assert oracle(x_t, t).x0.shape == (5, 1, 8, 8)
    torch.testing.assert_close(oracle(x_t, t).x0, images, rtol=0, atol=0.02)
    memory = digits_mixture(LinearVP(), bandwidth=0.0)
    torch.testing.assert_close(memory(x_t, t).x0, images, rtol=0, atol=1e-12)


def test_a_divergence_of_images_is_the_trace_of_the_jacobian():
    oracle, t = digits_mixture(GeometricVE()), f64(0.45)[0]
    x = oracle.means[:2].reshape(2, 1, 8, 8) + GeometricVE().sigma(t)
    jacobian = torch.func.jacrev(lambda z: oracle(z[None], t).x0[0].flatten())
    trace = torch.stack([jacobian(z).flatten(1).trace() for z in x])
    torch.testing.assert_close(oracle.divergence(x, t), trace, rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", [mixture, correlated])
def test_samples_have_the_law_s_moments(make):
    n, oracle = 40_000, make(linear())
    x = oracle.sample(n, torch.Generator().manual_seed(0))
    if make is mixture:
        weights = oracle.log_weights.exp()
        mean = weights @ oracle.means
        second = torch.einsum("k,ki,kj->ij", weights, oracle.means, oracle.means)
        spread = (weights * f64(0.3, 0.5, 0.1) ** 2).sum() * torch.eye(2)
        covariance = second + spread - torch.outer(mean, mean)
    else:
        mean, covariance = oracle.mean, oracle.covariance
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=4 * 1.5 / n**0.5)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=4 * 2 / n**0.5)


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "covariance"),
    [
        (torch.zeros(2), torch.eye(3)),
        (torch.zeros(2, 1), torch.eye(2)),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
        (torch.zeros(2), torch.full((2, 2), math.nan)),
    ],
)
def test_a_covariance_is_square_symmetric_and_not_negative(mean, covariance):
    with pytest.raises(ValueError, match="covariance"):
        Gaussian(linear(), mean, covariance)


def test_a_mean_is_finite():
    with pytest.raises(ValueError, match="mean must be finite"):
        Gaussian(linear(), f64(0.0, math.inf), torch.eye(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stds": -1.0}, "standard deviations not negative"),
        ({"stds": torch.ones(2)}, "stds must have shape"),
        ({"stds": torch.ones(3, 1)}, "stds must have shape"),
        ({"weights": torch.tensor([1.0, 0.0, 1.0])}, "weights must be positive"),
        ({"weights": torch.ones(2)}, "weights and labels"),
        ({"labels": torch.tensor([0, 1])}, "weights and labels"),
        ({"means": torch.zeros(3)}, "means must be finite, of shape"),
        ({"means": torch.full((3, 2), math.nan)}, "means must be finite"),
        ({"stds": math.nan}, "standard deviations"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(linear(), **({"means": torch.zeros(3, 2), "stds": 1.0} | arguments))


@pytest.mark.parametrize("make", [mixture, correlated])
def test_questions_outside_the_law_or_the_schedule_are_refused(make):
    oracle = make(linear())
    with pytest.raises(ValueError, match="x_t must be floating point of shape"):
        oracle(torch.zeros(4, 3), f64(5.0)[0])
    with pytest.raises(ValueError, match="x_t must be floating point"):
        oracle(torch.zeros(4, 2, dtype=torch.long), f64(5.0)[0])
    with pytest.raises(ValueError, match="x_t must be"):
        oracle.divergence(torch.zeros(2), f64(5.0)[0])
    with pytest.raises(ValueError, match="outside"):
        oracle(torch.zeros(4, 2), f64(1001.0)[0])
    with pytest.raises(ValueError, match="one for each"):
        oracle(torch.zeros(4, 2), f64(5.0, 6.0))


def test_classes_are_one_for_each_sample():
    with pytest.raises(ValueError, match="cond must hold one class for each of 4 samples"):
        mixture(linear())(torch.zeros(4, 2), f64(5.0)[0], torch.tensor([1]))


def test_a_bandwidth_is_not_negative():
    with pytest.raises(ValueError, match="not negative"):
        digits_mixture(linear(), bandwidth=-0.1)


def test_unknown_classes_are_named():
    with pytest.raises(ValueError, match=r"no component has class \[7\]"):
        mixture(linear())(torch.zeros(1, 2), f64(5.0)[0], torch.tensor([7]))
    plain = GaussianMixture(linear(), torch.zeros(1, 2), 1.0)
    with pytest.raises(ValueError, match="no labels"):
        plain(torch.zeros(1, 2), f64(5.0)[0], torch.tensor([0]))
    with pytest.raises(ValueError, match="no labels"):
        plain.class_probs(torch.zeros(1, 2), f64(5.0)[0])


@pytest.mark.parametrize("wide", [False, True])
def test_a_mixtures_posterior_variance_is_the_second_derivative_of_its_density(wide):
    schedule = LinearVP()
    stds = f64([0.3, 0.6], [0.5, 0.2], [0.1, 0.4]) if wide else f64(0.3, 0.5, 0.1)
    oracle = GaussianMixture(schedule, f64([-1, 0.5], [1, 0], [0.4, -1.2]), stds, f64(1, 2, 3))
    x, t = f64([0.2, -0.3], [1.0, 0.1], [-2.0, 0.5]), f64(0.1, 0.3, 0.8)
    found = oracle.posterior_variances(x, t)
    for i in range(3):
        hessian = torch.func.hessian(lambda z, i=i: oracle.log_prob(z[None], t[i])[0])(x[i])
        alpha, sigma = schedule.alpha(t[i]), schedule.sigma(t[i])
        # Tweedie's formula, second order.
        expected = (sigma / alpha) ** 2 * (1 + sigma**2 * hessian.diagonal())
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[i : i + 1], oracle.posterior_variances(x[i : i + 1], t[i]))
