"""The equations of the chapter on the two roots: closed forms, quadrature, autograd."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion import losses
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.likelihood import gaussian_decoder, gaussian_kl
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import predict_score
from retro_diffusion.reverse import reverse_step
from retro_diffusion.schedules import SigmaSchedule, TabulatedSchedule, linear
from retro_diffusion.tensors import match_dims

torch.set_num_threads(1)

BETAS = torch.tensor([0.02, 0.1, 0.05, 0.3, 0.2, 0.5, 0.7, 0.9, 0.95, 0.97], dtype=torch.float64)
CHAIN = TabulatedSchedule(BETAS)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def time(t):
    return torch.tensor(float(t), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def integral(values, grid):
    return float(torch.trapezoid(values, grid))


def entropy(variance):
    return 0.5 * math.log(2 * math.pi * math.e * float(variance))


# ---- The chain -------------------------------------------------------------------------------------


def test_the_kernel_applied_again_and_again_is_the_marginal():
    scale, variance, product = 1.0, 0.0, 1.0
    for t, beta in enumerate(BETAS.tolist(), 1):
        scale, variance = math.sqrt(1 - beta) * scale, (1 - beta) * variance + beta
        product *= 1 - beta
        assert scale == pytest.approx(math.sqrt(product), rel=1e-12)
        assert variance == pytest.approx(1 - product, rel=1e-12)
        assert float(CHAIN.alpha(time(t))) == pytest.approx(scale, rel=1e-12)
        assert float(CHAIN.sigma(time(t))) ** 2 == pytest.approx(variance, rel=1e-12)
    assert math.sqrt(0.3) ** 2 * 1 + 0.7 == pytest.approx(1)  # N(0, 1) stays


def test_bayes_rule_turns_the_kernel_round():
    before, after, x0 = torch.randn(3, 50, generator=seeded(), dtype=torch.float64)
    for t in range(2, 11):
        step, beta = reverse_step(CHAIN, time(t), time(t - 1)), BETAS[t - 1]
        mean = step.of_x_t * after + step.of_x0 * x0
        forward = gaussian_decoder(after, (1 - beta).sqrt() * before, beta)
        backward = gaussian_decoder(before, mean, step.lower)
        now, then = (
            gaussian_decoder(x, CHAIN.alpha(time(s)) * x0, CHAIN.sigma(time(s)) ** 2)
            for x, s in ((after, t), (before, t - 1))
        )
        torch.testing.assert_close(forward, backward + now - then, rtol=1e-9, atol=1e-9)


def exact_bound(law, variance):
    """The formula of K for data N(0, diag) and exact means; and its path form, step by step."""
    T = CHAIN.n_timesteps
    D = len(law.mean)
    formula = D * (entropy(CHAIN.sigma(time(T)) ** 2) - entropy(BETAS[0]) - entropy(1))
    path = D * -0.5 * math.log(2 * math.pi) - 0.5 * float(law.marginal_variances(time(T)).sum())
    for t in range(2, T + 1):
        step = reverse_step(CHAIN, time(t), time(t - 1))
        true, model = law.reverse_variances(step.t, step.s), variance(step, law)
        formula -= float(0.5 * (true / model - 1 + (model / step.lower).log()).sum())
        # E log p(x_{t-1} | x_t) - E log q(x_t | x_{t-1})
        log_p = -0.5 * ((2 * math.pi * model).log() + true / model)
        path += float(log_p.sum()) + D * entropy(BETAS[t - 1])
    return formula, path


def exact(step, law):
    return law.reverse_variances(step.t, step.s)


def upper(step, law):
    return step.upper.expand(len(law.mean))


@pytest.mark.parametrize("variance", [exact, upper])
def test_k_is_the_path_s_bound_and_that_of_the_data_noised_once(variance):
    law = Gaussian(CHAIN, torch.zeros(2), torch.diag(f64(1.6, 0.4)))  # mean square 1 per axis
    formula, path = exact_bound(law, variance)
    assert formula == pytest.approx(path, abs=1e-12)
    H0, H1, HT = (sum(map(entropy, law.marginal_variances(time(t)))) for t in (0, 1, 10))
    assert formula < -H1 < -H0
    if variance is exact:  # less the divergence from pi at the end
        assert formula == pytest.approx(-H1 - (2 * entropy(1) - HT), abs=1e-12)
    else:
        assert formula < -H1 - (2 * entropy(1) - HT) - 1e-3


def test_the_entropy_of_a_step_back_lies_between_its_bounds():
    widths = torch.linspace(0.01, 1.5, 40, dtype=torch.float64)
    for s in widths.tolist():
        law = Gaussian(CHAIN, f64(0.0), f64([s**2]))
        for t in range(2, 11):
            step = reverse_step(CHAIN, time(t), time(t - 1))
            back = entropy(law.reverse_variances(step.t, step.s)[0])
            H = {u: entropy(law.marginal_variances(time(u))[0]) for u in (t - 1, t)}
            given = {u: entropy(CHAIN.sigma(time(u)) ** 2) for u in (t - 1, t)}
            forward = entropy(BETAS[t - 1])
            assert back == pytest.approx(forward + H[t - 1] - H[t], abs=1e-12)
            low = forward + given[t - 1] - given[t]
            assert low == pytest.approx(entropy(step.lower), abs=1e-9)
            assert low <= back + 1e-12
            assert (back <= forward + 1e-12) == (s <= 1)  # beyond 1 the upper bound is false


def test_a_narrow_step_times_a_function_is_the_step_moved():
    def log_r(x):
        return -0.5 * (x - 1) ** 2 + torch.sin(x)

    errors = []
    for variance in (0.04, 0.01, 0.0025):
        mu = f64(0.3)[0].requires_grad_()
        slope = torch.autograd.grad(log_r(mu), mu)[0]
        mu = mu.detach()
        x = mu + variance**0.5 * torch.linspace(-9, 9, 8001, dtype=torch.float64)
        law = torch.exp(gaussian_decoder(x, mu, f64(variance)[0]) + log_r(x))
        law = law / integral(law, x)
        mean = integral(law * x, x)
        spread = integral(law * (x - mean) ** 2, x)
        errors.append((abs(mean - float(mu + variance * slope)), abs(spread - variance)))
        assert abs(mean - float(mu)) > 5 * errors[-1][0]  # the control: not moved
    for first, second in zip(errors, errors[1:], strict=False):
        # A step four times as narrow has a sixteenth of the error.
        assert all(12 < a / b < 20 for a, b in zip(first, second, strict=True))


# ---- Score matching --------------------------------------------------------------------------------

PLANE = torch.linspace(-8, 8, 161, dtype=torch.float64)
POINTS = torch.cartesian_prod(PLANE, PLANE)
CELL = float(PLANE[1] - PLANE[0]) ** 2
LAW = GaussianMixture(SigmaSchedule(), f64([1, 0.5], [-1, 0]), 0.7, f64(0.3, 0.7))


def field(x, k):
    """A field with a Jacobian that is not symmetric."""
    first = torch.sin(x[..., 0]) - k * x[..., 1]
    return torch.stack([first, torch.tanh(k * x[..., 0]) - 0.5 * x[..., 1]], -1)


def test_the_implicit_objective_differs_from_the_explicit_one_by_a_constant():
    t = f64(1e-3)[0]
    p, score = LAW.log_prob(POINTS, t).exp() * CELL, LAW.score(POINTS, t)
    constant = 0.5 * float(p @ score.square().sum(1))
    for k in (0.0, 0.6, 2.0):
        x = POINTS.clone().requires_grad_()
        s = field(x, k)
        rows = [torch.autograd.grad(s[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
        s, trace = s.detach(), rows[0][:, 0] + rows[1][:, 1]
        explicit = 0.5 * float(p @ (s - score).square().sum(1))
        implicit = float(p @ (trace + 0.5 * s.square().sum(1)))
        assert explicit == pytest.approx(implicit + constant, abs=1e-9)


def test_random_slices_have_the_trace_on_average():
    x = torch.randn(7, 2, generator=seeded(), dtype=torch.float64)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: field(x, 0.6), y) for y in x]
    )
    signs = torch.cartesian_prod(f64(-1, 1), f64(-1, 1))  # all of them: E v v' = 1
    torch.testing.assert_close(signs.T @ signs / 4, torch.eye(2, dtype=torch.float64))
    slices = torch.einsum("vi,nij,vj->nv", signs, jacobian, signs).mean(1)
    torch.testing.assert_close(slices, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    along = (field(x, 0.6) @ signs.T).square().mean(1)  # the two forms of the second term
    torch.testing.assert_close(along, field(x, 0.6).square().sum(1))
    # One backward pass gives a row v' (grad s).
    x.requires_grad_()
    row = torch.autograd.grad((field(x, 0.6) @ signs[1]).sum(), x)[0]
    torch.testing.assert_close(row, torch.einsum("i,nij->nj", signs[1], jacobian))


ATOMS, WEIGHTS, SIGMA = f64([-1], [0.5], [2]), f64([0.2], [0.5], [0.3]), 0.5


def three_points():
    line = torch.linspace(-9, 10, 8001, dtype=torch.float64, requires_grad=True)
    joint = WEIGHTS * gaussian_decoder(line, ATOMS, f64(SIGMA**2)[0]).exp()
    q = joint.sum(0)
    score = torch.autograd.grad(q.log().sum(), line)[0]
    return line.detach(), joint.detach(), q.detach(), score


def test_the_score_of_noised_data_is_a_mean_of_known_scores():
    line, joint, q, score = three_points()
    known = (ATOMS - line) / SIGMA**2
    torch.testing.assert_close((joint * known).sum(0) / q, score, rtol=0, atol=1e-10)


def test_denoising_differs_from_matching_by_what_is_uncertain():
    line, joint, q, score = three_points()
    target = (ATOMS - line) / SIGMA**2
    mean = (joint * ATOMS).sum(0) / q
    uncertain = integral((joint * (ATOMS - mean) ** 2).sum(0), line) / (2 * SIGMA**4)
    assert uncertain > 0.1
    for model in (0 * line, -line, torch.tanh(3 * line)):
        denoising = 0.5 * integral((joint * (model - target) ** 2).sum(0), line)
        matching = 0.5 * integral(q * (model - score) ** 2, line)
        assert denoising == pytest.approx(matching + uncertain, abs=1e-9)


def test_tweedie_s_formula():
    schedule = linear()
    law = GaussianMixture(schedule, f64([-1, 0.5], [1, 0], [0.4, -1.2]), 0.3, f64(1, 2, 3))
    x = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    for t in (50, 300, 800):
        alpha, sigma = schedule.alpha(time(t)), schedule.sigma(time(t))
        leaf = x.clone().requires_grad_()
        score = torch.autograd.grad(law.log_prob(leaf, time(t)).sum(), leaf)[0]
        # E[x_0 | x_t] component by component, from the conditioning of Gaussians.
        v = alpha**2 * 0.09 + sigma**2
        r = (law.log_weights + gaussian_decoder(x[:, None], alpha * law.means, v).sum(2)).softmax(1)
        parts = law.means + alpha * 0.09 / v * (x[:, None] - alpha * law.means)
        mean = (r[..., None] * parts).sum(1)
        torch.testing.assert_close((x + sigma**2 * score) / alpha, mean, rtol=1e-9, atol=1e-9)
        eps = (x - alpha * mean) / sigma
        torch.testing.assert_close(eps, -sigma * score, rtol=1e-9, atol=1e-9)


# ---- Langevin dynamics -----------------------------------------------------------------------------

TARGET = (0.5, 0.8)  # mean and variance; the walkers' law stays Gaussian


def walkers(tau):
    """Mean and variance at time tau of dx = 1/2 grad log p + dw from N(-1, 0.3)."""
    decay = torch.exp(-tau / (2 * TARGET[1]))
    return TARGET[0] + (-1 - TARGET[0]) * decay, TARGET[1] + (0.3 - TARGET[1]) * decay**2


def log_ratio(x, tau):
    return gaussian_decoder(x, *walkers(tau)) - gaussian_decoder(x, *f64(*TARGET))


def test_the_fokker_planck_equation_of_langevin_dynamics():
    grad = torch.func.grad
    tau = f64(0.7)[0]

    def rho(x, tau):
        return gaussian_decoder(x, *walkers(tau)).exp()

    def drift(x):
        return 0.5 * grad(lambda x: gaussian_decoder(x, *f64(*TARGET)))(x)

    for x in f64(-2.0, 0.1, 1.3):
        change = grad(rho, argnums=1)(x, tau)
        carried = -grad(lambda x: rho(x, tau) * drift(x))(x)
        spread = 0.5 * grad(grad(rho))(x, tau)
        torch.testing.assert_close(change, carried + spread, rtol=1e-9, atol=1e-12)
        flux = grad(lambda x: 0.5 * rho(x, tau) * grad(log_ratio)(x, tau))(x)
        torch.testing.assert_close(change, flux, rtol=1e-9, atol=1e-12)


def test_langevin_dynamics_approach_their_law_at_half_the_fisher_divergence():
    tau = f64(0.7)[0].requires_grad_()
    mean, variance = walkers(tau)
    speed = torch.autograd.grad(gaussian_kl(mean, variance, *f64(*TARGET)), tau)[0]
    x = torch.linspace(-9, 9, 8001, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(log_ratio(x, tau.detach()).sum(), x)[0]
    rho = gaussian_decoder(x, *walkers(tau.detach())).exp()
    assert float(speed) == pytest.approx(
        -0.5 * integral((rho * slope**2).detach(), x.detach()), rel=1e-9
    )


RUNNING = GaussianMixture(SigmaSchedule(), f64([5, 5], [-5, -5]), 1.0, f64(0.8, 0.2))


def test_inside_a_mode_the_score_does_not_know_the_weights():
    t, away = f64(1e-3)[0], torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    near = f64(5, 5) + away.clamp(-1.5, 1.5)
    rare = GaussianMixture(SigmaSchedule(), RUNNING.means, 1.0, f64(0.01, 0.99))
    score, alone = RUNNING.score(near, t), (f64(5, 5) - near) / (1 + t**2)
    torch.testing.assert_close(score, rare.score(near, t), rtol=0, atol=1e-6)
    torch.testing.assert_close(score, alone, rtol=0, atol=1e-6)
    x = 3 * torch.randn(50, 2, generator=seeded(1), dtype=torch.float64)
    r = RUNNING.responsibilities(x, t)
    parts = (RUNNING.means - x[:, None]) / (1 + t**2)
    torch.testing.assert_close(RUNNING.score(x, t), (r[..., None] * parts).sum(1))


def test_the_watershed_gives_the_large_mode_0_509_of_a_uniform_start():
    side = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * 16 - 8
    x = torch.cartesian_prod(side, side)
    terms = [math.log(w) - 0.5 * (x - m).square().sum(1) for w, m in ((0.8, 5.0), (0.2, -5.0))]
    share = float((terms[0] > terms[1]).double().mean())
    assert share == pytest.approx(0.5 + math.log(4) / 160, abs=5e-4)
    assert round(share, 3) == 0.509


# ---- Many levels of noise --------------------------------------------------------------------------


def test_weighted_by_sigma_squared_the_loss_guesses_the_noise():
    class Field(torch.nn.Module):
        def forward(self, x, c_noise, cond=None):
            return torch.tanh(x) / (0.2 + match_dims(c_noise, x))

    schedule = SigmaSchedule()
    denoiser = Denoiser(Field(), schedule, predict_score)
    x0 = torch.randn(200, 3, generator=seeded(), dtype=torch.float64)
    z = torch.randn(200, 3, generator=seeded(1), dtype=torch.float64)
    for sigma in f64(0.1, 1.0, 10.0):
        x = x0 + sigma * z
        s = Field()(x, sigma / schedule.t_max)
        loss = sigma**2 * 0.5 * (s + (x - x0) / sigma**2).square().sum(1).mean()
        torch.testing.assert_close(loss, 0.5 * (sigma * s + z).square().sum(1).mean())
        times = sigma.expand(200)
        ours = losses.denoising_loss(denoiser, x0, times, weight=losses.simple, generator=seeded(1))
        torch.testing.assert_close(ours.double(), 2 * loss / 3, rtol=1e-5, atol=0)  # mean over 3


def test_fisher_divergences_weighted_by_sigma_squared_over_log_sigma_are_kl():
    a, m, b = 0.4, 0.7, 1.3

    def kl(v):
        return float(gaussian_kl(*f64(0.0, a + v, m, b + v)))

    log_sigma = torch.linspace(math.log(0.05), math.log(20), 2001, dtype=torch.float64)
    v = torch.exp(2 * log_sigma)
    A, B = a + v, b + v
    fisher = A * (1 / B - 1 / A) ** 2 + m**2 / B**2
    assert integral(v * fisher, log_sigma) == pytest.approx(kl(0.05**2) - kl(400.0), rel=1e-6)


def test_the_gain_of_an_annealed_step_is_the_same_at_every_level():
    levels, eps = f64(1.0, 0.3, 0.01), 2e-5
    sizes = eps * levels**2 / levels[-1] ** 2
    law = GaussianMixture(SigmaSchedule(), f64([0.0]), 0.0)  # one point
    for sigma, size in zip(levels, sizes, strict=True):
        ends = f64([0.0], [1.0])
        ends = ends + size / 2 * law.score(ends, sigma)
        assert float(ends[1, 0] - ends[0, 0]) == pytest.approx(1 - eps / (2 * 0.01**2), rel=1e-9)
        assert float(ends[1, 0] - ends[0, 0]) == pytest.approx(0.9, rel=1e-9)


# ---- Where the roots meet --------------------------------------------------------------------------


def test_the_step_back_is_tweedie_s_formula_for_one_step():
    law = GaussianMixture(CHAIN, f64([-1.0], [0.8]), f64(0.3, 0.2), f64(1.0, 2.0))
    before = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for t in (2, 5, 8):
        beta, x = BETAS[t - 1], f64(0.4)[0]
        log_prior = law.log_prob(before[:, None], time(t - 1))
        back = torch.exp(log_prior + gaussian_decoder(x, (1 - beta).sqrt() * before, beta))
        back = back / integral(back, before)
        mean = integral(back * before, before)
        variance = integral(back * (before - mean) ** 2, before)
        leaf = x.clone().requires_grad_()
        score = torch.autograd.grad(
            law.log_prob(leaf.reshape(1, 1), time(t)).sum(), leaf, create_graph=True
        )[0]
        curvature, score = torch.autograd.grad(score, leaf)[0], score.detach()
        assert mean == pytest.approx(float((x + beta * score) / (1 - beta).sqrt()), abs=1e-9)
        expected = float(beta / (1 - beta) * (1 + beta * curvature))
        assert variance == pytest.approx(expected, abs=1e-9)
