"""Equations of the score-SDE chapter that the library's own tests do not reach."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from retro_diffusion import flow, parameterizations, reverse, samplers, schedules
from retro_diffusion.oracles import GaussianMixture

torch.set_num_threads(1)

PATHS = {
    "VP": schedules.LinearVP(),
    "sub-VP": schedules.SubVP(),
    "cosine": schedules.CosineVP(),
}
VP = PATHS["VP"]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def line(path):
    return GaussianMixture(path, f64([-1.0], [1.5]), 0.5, f64(2, 1))


def simpson(y, x):
    h = (x[-1] - x[0]) / (len(x) - 1)
    return h / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-2:2].sum())


@pytest.mark.parametrize("name", PATHS)
def test_the_kernel_is_the_integral_of_the_noise_over_the_signal(name):
    path, end = PATHS[name], 0.6
    t = torch.linspace(1e-3, end, 401, dtype=torch.float64)
    f, g2 = path.drift(t), path.diffusion(t) ** 2
    signal = torch.exp(simpson(f, t))
    alpha, sigma = path.alpha(t), path.sigma(t)
    assert float(signal) == pytest.approx(float(alpha[-1] / alpha[0]), rel=1e-6)
    start = float(sigma[0] ** 2 / alpha[0] ** 2)
    grown = start + float(simpson(g2 / alpha**2, t))
    assert grown == pytest.approx(float(sigma[-1] ** 2 / alpha[-1] ** 2), rel=1e-5)


@pytest.mark.parametrize("path", [*PATHS.values(), schedules.GeometricVE()])
def test_the_noise_is_minus_the_variance_times_the_slope_of_the_log_snr(path):
    t, h = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 1e-6
    slope = (path.logsnr(t + h) - path.logsnr(t - h)) / (2 * h)
    torch.testing.assert_close(
        path.diffusion(t) ** 2, -(path.sigma(t) ** 2) * slope, rtol=1e-6, atol=0
    )


# ---- The density on a line, by differences -------------------------------------------------------

X = torch.linspace(-7, 8, 3001, dtype=torch.float64)


def density(path, t):
    return line(path).log_prob(X[:, None], t).exp()


def slope(y):
    """Fourth-order central differences, without the four points at the ends."""
    h = float(X[1] - X[0])
    return (y[:-4] - 8 * y[1:-3] + 8 * y[3:-1] - y[4:]) / (12 * h)


def rate(path, t, h=1e-5):
    return (density(path, t + h) - density(path, t - h)) / (2 * h)


@pytest.mark.parametrize("name", PATHS)
def test_densities_obey_fokker_planck_and_its_form_as_transport(name):
    path, t = PATHS[name], f64(0.35)[0]
    p, f, g2 = density(path, t), path.drift(t), path.diffusion(t) ** 2
    score = line(path).score(X[:, None], t)[:, 0]
    moved = rate(path, t)
    spread = slope(slope(p))
    fokker_planck = (-slope(f * X * p))[2:-2] + g2 / 2 * spread
    transport = -slope((f * X - g2 / 2 * score) * p)
    size = float(moved.abs().max())
    assert float((fokker_planck - moved[4:-4]).abs().max()) < 1e-6 * size
    assert float((transport - moved[2:-2]).abs().max()) < 1e-6 * size
    double = -slope((f * X - g2 * score) * p)  # the drift of the SDE, without its noise
    assert float((double - moved[2:-2]).abs().max()) > 0.1 * size


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_every_member_of_the_family_runs_the_film_backwards(eta):
    t = f64(0.35)[0]
    p, f, g2 = density(VP, t), VP.drift(t), VP.diffusion(t) ** 2
    score = line(VP).score(X[:, None], t)[:, 0]
    moved = rate(VP, t)[4:-4]

    def back(noise):
        drift = -f * X + (1 + eta**2) / 2 * g2 * score
        return -slope(drift * p)[2:-2] + noise**2 / 2 * g2 * slope(slope(p))

    size = float(moved.abs().max())
    assert float((back(eta) + moved).abs().max()) < 1e-6 * size
    assert float((back(eta + 0.5) + moved).abs().max()) > 0.05 * size


def test_means_of_test_functions_move_by_their_gradient_and_laplacian():
    t, h = f64(0.35)[0], 1e-5
    phi, d_phi, dd_phi = (2 * X).sin(), 2 * (2 * X).cos(), -4 * (2 * X).sin()
    moved = (simpson(phi * density(VP, t + h), X) - simpson(phi * density(VP, t - h), X)) / (2 * h)
    generator = d_phi * VP.drift(t) * X + VP.diffusion(t) ** 2 / 2 * dd_phi
    assert float(moved) == pytest.approx(float(simpson(generator * density(VP, t), X)), rel=1e-6)
    assert float(moved) != pytest.approx(
        float(simpson(d_phi * VP.drift(t) * X * density(VP, t), X)), rel=0.1
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", PATHS)
def test_the_marginal_variance_solves_the_reversal_s_equation(name, eta):
    path, delta2, h = PATHS[name], 0.3, 1e-6
    t = f64(0.2, 0.5, 0.8)

    def variance(t):
        return path.alpha(t) ** 2 * delta2 + path.sigma(t) ** 2

    v, g2 = variance(t), path.diffusion(t) ** 2
    right = 2 * (path.drift(t) + (1 + eta**2) / 2 * g2 / v) * v - eta**2 * g2
    torch.testing.assert_close(
        right, (variance(t + h) - variance(t - h)) / (2 * h), rtol=1e-6, atol=1e-7
    )


def test_the_mean_of_the_conditional_scores_is_the_score():
    t, x_t = f64(0.4)[0], f64(0.3)[0]
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    law = line(VP)
    prior = law.log_prob(X[:, None], f64(0.0)[0]).exp()
    kernel = torch.exp(-0.5 * ((x_t - alpha * X) / sigma) ** 2)
    target = -(x_t - alpha * X) / sigma**2
    mean = simpson(prior * kernel * target, X) / simpson(prior * kernel, X)
    assert float(mean) == pytest.approx(float(law.score(x_t[None, None], t)), rel=1e-8)


def test_the_weighted_error_of_the_score_is_that_of_eps():
    t, x0, eps, guess = f64(0.4)[0], f64([0.5, -0.2]), f64([1.1, 0.3]), f64([0.9, 0.8])
    x_t = VP.add_noise(x0, eps, t)
    pair = parameterizations.from_eps(VP, x_t, guess, t)
    score = parameterizations.score(VP, pair, t)
    target = -(x_t - VP.alpha(t) * x0) / VP.sigma(t) ** 2
    error = VP.sigma(t) ** 2 * (score - target).square().sum()
    torch.testing.assert_close(error, (guess - eps).square().sum())


# ---- Solvers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_ancestral_sampling_written_for_the_score(name):
    path, (t, s), x = PATHS[name], f64(0.6, 0.5), f64([0.7], [-1.2])
    pair, step = line(path)(x, t), reverse.reverse_step(path, t, s)
    a = path.alpha(t) / path.alpha(s)
    b = path.sigma(t) ** 2 - a**2 * path.sigma(s) ** 2
    score = parameterizations.score(path, pair, t)
    torch.testing.assert_close(reverse.posterior_mean(step, x, pair.x0), (x + b * score) / a)
    torch.testing.assert_close(step.upper, b)
    torch.testing.assert_close(step.lower, b * path.sigma(s) ** 2 / path.sigma(t) ** 2)


def test_ancestral_sampling_agrees_with_reverse_diffusion_to_first_order():
    x, t = f64([0.7], [-1.2]), f64(0.6)[0]
    pair = line(VP)(x, t)
    gaps = []
    for step in (0.02, 0.01):
        s = t - step
        a = VP.alpha(t) / VP.alpha(s)
        b = VP.sigma(t) ** 2 - a**2 * VP.sigma(s) ** 2
        theirs = (2 - a) * x + b * parameterizations.score(VP, pair, t)
        ours = reverse.posterior_mean(reverse.reverse_step(VP, t, s), x, pair.x0)
        gaps.append(float((ours - theirs).norm()))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.15)


def test_a_corrector_s_drift_is_r_times_as_long_as_its_noise():
    x, score, snr = f64([1.0, 0.0]), f64([-2.0, 1.0]), f64(0.16)[0]
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    z = torch.randn(1, 2, generator=seeds[0], dtype=torch.float64)
    moved = samplers.corrector_step(x, score, snr, seeds[1]) - x
    e = 2 * (0.16 * z.norm() / score.norm()) ** 2
    torch.testing.assert_close(moved, e * score + (2 * e).sqrt() * z)
    assert float(e * score.norm()) == pytest.approx(0.16 * float((2 * e).sqrt() * z.norm()))


@pytest.mark.parametrize("e", [0.1, 0.4])
def test_corrections_settle_a_little_too_wide(e):
    variance, settled = 0.7, 0.0
    for _ in range(2000):
        ends = [
            float(
                samplers.released_langevin_step(
                    f64([x]), f64([-x / variance]), f64(e)[0], torch.Generator().manual_seed(1)
                )
            )
            for x in (0.0, 1.0)
        ]
        z = float(
            torch.randn(1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        )
        gain, noise = ends[1] - ends[0], (ends[0] / z) ** 2
        before, settled = settled, gain**2 * settled + noise
        if abs(settled - before) < 1e-13:
            break
    assert settled == pytest.approx(variance / (1 - e / (2 * variance)), rel=1e-9)
    assert settled > 1.05 * variance


# ---- Likelihood ---------------------------------------------------------------------------------


def test_along_the_ode_the_log_density_falls_by_the_divergence():
    law = GaussianMixture(VP, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))
    x, t, h = f64([0.4, -0.3], [1.2, 0.6]), f64(0.4)[0], 1e-4
    options = {"rtol": 1e-11, "atol": 1e-11, "method": "DOP853"}
    ends = torch.stack([t, t - h, t - 2 * h])
    path = list(samplers.adaptive(law, x, ends, **options))
    logs = [law.log_prob(p, u) for p, u in zip([x, *(s.x for s in path)], ends, strict=True)]
    moved = (3 * logs[0] - 4 * logs[1] + logs[2]) / (2 * h)
    trace = law.divergence(x, t)
    divergence = flow.velocity_divergence(VP, trace, t, 2)
    torch.testing.assert_close(moved, -divergence, rtol=1e-5, atol=1e-5)


def test_signs_estimate_a_trace_with_noise_from_off_the_diagonal():
    jacobian = f64([0.3, -0.7, 1.1], [0.2, 0.9, 0.4], [-0.5, 0.6, -0.2])
    values = torch.stack(
        [f64(*e) @ jacobian @ f64(*e) for e in itertools.product((-1.0, 1.0), repeat=3)]
    )
    assert float(values.mean()) == pytest.approx(float(jacobian.trace()), rel=1e-12)
    both = jacobian + jacobian.T
    noise = sum(float(both[i, j]) ** 2 for i, j in itertools.combinations(range(3), 2))
    assert float(values.var(unbiased=False)) == pytest.approx(noise, rel=1e-12)


@pytest.mark.parametrize("x", [-0.3, 0.05, 0.7])
def test_the_mean_log_density_of_a_bin_bounds_its_log_probability(x):
    h = 0.125
    u = torch.linspace(-h, h, 401, dtype=torch.float64)
    log_p = torch.distributions.Normal(f64(0.1)[0], f64(0.15)[0]).log_prob(x + u)
    probability = simpson(log_p.exp(), u)
    bound = float(simpson(log_p, u)) / (2 * h) + math.log(2 * h)
    assert bound < math.log(probability)
    narrow = torch.linspace(-h / 50, h / 50, 401, dtype=torch.float64)
    log_p = torch.distributions.Normal(f64(0.1)[0], f64(0.15)[0]).log_prob(x + narrow)
    tight = float(simpson(log_p, narrow)) / (2 * h / 50) + math.log(2 * h / 50)
    assert tight == pytest.approx(math.log(simpson(log_p.exp(), narrow)), abs=1e-3)
