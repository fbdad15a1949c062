"""Equations of the chapter on variance and schedule that the library's own tests do not reach."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion import reverse, schedules
from retro_diffusion.likelihood import gaussian_kl
from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.parameterizations import Prediction

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def step_at(chain, t, s):
    return reverse.reverse_step(chain, f64(t)[0], f64(s)[0])


# ---- The variance --------------------------------------------------------------------------------


def mean_posterior_variance(law, t):
    """E Var[x0 | x_t] of a law on the line, by quadrature."""
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64)[:, None]
    density = law.log_prob(x, t).exp()
    variance = law.posterior_variances(x, t).reshape(-1)
    return (density * variance).sum() / density.sum()


def test_the_cost_of_a_variance_and_the_best_one():
    step = step_at(schedules.linear(), 300.0, 260.0)
    error = torch.randn(4000, generator=torch.Generator().manual_seed(0)).double() * 0.3
    e2 = (error**2).mean()
    best = step.lower + step.of_x0**2 * e2

    def cost(tau2):
        kl = gaussian_kl(step.of_x0 * error, step.lower, f64(0.0)[0], tau2).mean()
        ours = 0.5 * ((step.lower + step.of_x0**2 * e2) / tau2 - 1 - (step.lower / tau2).log())
        torch.testing.assert_close(kl, ours, rtol=1e-10, atol=0)
        return float(kl)

    for factor in (0.5, 0.9, 1.1, 2.0):
        loss, r = cost(best * factor) - cost(best), 1 / factor
        assert loss > 0
        assert loss == pytest.approx(0.5 * (r - 1 - math.log(r)), rel=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
@pytest.mark.parametrize(("t", "s"), [(20.0, 19.0), (300.0, 200.0), (700.0, 100.0)])
def test_the_best_variance_lies_between_its_bounds(scale, t, s):
    # Two modes with mean 0 and variance `scale`^2.
    chain = schedules.linear()
    law = GaussianMixture(chain, scale * f64([-0.8], [0.8]), scale * 0.6)
    step = step_at(chain, t, s)
    best = step.lower + step.of_x0**2 * mean_posterior_variance(law, step.t)
    universal = (chain.alpha(step.s) / chain.alpha(step.t)) ** 2 * step.upper
    assert step.lower < best < universal
    if scale <= 1:
        assert best < step.upper


def test_for_unscaled_data_the_larger_variance_of_ddpm_is_too_small():
    chain = schedules.linear()
    law = GaussianMixture(chain, 6 * f64([-0.8], [0.8]), 3.6)
    step = step_at(chain, 700.0, 100.0)
    best = step.lower + step.of_x0**2 * mean_posterior_variance(law, step.t)
    assert best > step.upper


def test_the_price_is_a_parabola_in_the_logarithm():
    for u in (0.1, -0.1, 0.02):
        cost = 0.5 * (math.exp(u) - 1 - u)
        assert cost == pytest.approx(u**2 / 4 + u**3 / 12, abs=u**4 / 40)
    assert 0.5 * (2 - 1 - math.log(2)) == pytest.approx(0.153, abs=5e-4)
    assert 0.5 * (0.5 - 1 + math.log(2)) == pytest.approx(0.097, abs=5e-4)


def test_the_interval_of_variances_is_as_wide_as_the_noise_grows():
    chain = schedules.cosine()
    step = reverse.reverse_step(chain, f64(2.0, 50.0, 800.0), f64(1.0, 10.0, 799.0))
    width = (step.upper / step.lower).log()
    torch.testing.assert_close(width, 2 * (chain.sigma(step.t) / chain.sigma(step.s)).log())


def test_the_fraction_that_gives_the_best_variance():
    step = reverse.reverse_step(schedules.linear(), f64(2.0, 300.0), f64(1.0, 200.0))
    best = step.lower + step.of_x0**2 * f64(1e-5, 0.05)
    v = (best / step.lower).log() / (step.upper / step.lower).log()
    answer = Prediction(v[:, None], v[:, None], v[:, None])
    torch.testing.assert_close(reverse.learned_variance(step, answer)[:, 0], best)


# ---- Schedules -----------------------------------------------------------------------------------


def test_the_linear_chain_loses_its_signal_like_a_gaussian_in_t():
    chain = schedules.linear()
    t = torch.arange(100, 1001, 50, dtype=torch.float64)
    parabola = 1e-4 * t + (0.02 - 1e-4) / 2000 * t**2
    exact = -chain.alphas_cumprod[t.long() - 1].log()
    torch.testing.assert_close(exact, parabola, rtol=0.02, atol=0)
    assert float(exact[t == 500]) == pytest.approx(2.5, abs=0.05)
    assert float(chain.alphas_cumprod[499]) == pytest.approx(0.08, abs=0.005)


def test_the_cosine_path_in_log_snr():
    path = schedules.CosineVP()
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64).requires_grad_()
    logsnr = path.logsnr(t)
    torch.testing.assert_close(logsnr, -2 * torch.tan(math.pi * t / 2).log())
    slope = torch.autograd.grad(logsnr.sum(), t)[0]
    torch.testing.assert_close(slope, -2 * math.pi / torch.sin(math.pi * t))
    torch.testing.assert_close(slope, -2 * math.pi * torch.cosh(logsnr / 2))
    level = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
    density = 1 / torch.cosh(level / 2) / (2 * math.pi)
    assert float(torch.trapezoid(density, level)) == pytest.approx(1, abs=1e-9)


# ---- Which steps to draw -------------------------------------------------------------------------


def test_no_law_of_steps_has_a_smaller_second_moment():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(30, 200, generator=generator).double() * torch.logspace(0, -3, 30)[:, None]
    moments = (losses**2).mean(1)
    best = moments.sqrt() / moments.sqrt().sum()
    least = float((moments / best).sum())
    assert least == pytest.approx(float(moments.sqrt().sum() ** 2), rel=1e-6)
    for _ in range(20):
        p = best * (0.3 * torch.randn(30, generator=generator).double()).exp()
        assert float((moments / (p / p.sum())).sum()) > least
    # The second moment itself, by enumeration of all t and all draws of L_t.
    p = torch.full((30,), 1 / 30, dtype=torch.float64)
    second = (p[:, None] * (losses / p[:, None]) ** 2).mean(1).sum()
    torch.testing.assert_close(second, (moments / p).sum())


def test_a_respaced_chain_is_a_chain():
    chain = schedules.cosine()
    kept = f64(1.0, 40.0, 400.0, 990.0)
    products = chain.alphas_cumprod[kept.long() - 1]
    before = torch.cat([f64(1.0), products[:-1]])
    betas = 1 - products / before
    short = schedules.TabulatedSchedule(betas)
    torch.testing.assert_close(short.alphas_cumprod, products)
    step = reverse.reverse_step(chain, kept, torch.cat([f64(0.0), kept[:-1]]))
    torch.testing.assert_close(step.upper, betas)
    torch.testing.assert_close(step.lower, betas * (1 - before) / (1 - products))


# ---- The bound in terms of log-SNR ---------------------------------------------------------------


def test_a_step_s_divergence_is_a_difference_of_snrs():
    chain = schedules.LinearVP()
    t, s = f64(0.6)[0], f64(0.25)[0]
    step = reverse.reverse_step(chain, t, s)
    x0, guess, x_t = f64(0.7, -0.2), f64(0.4, 0.1), f64(0.3, 1.0)
    means = [reverse.posterior_mean(step, x_t, x) for x in (x0, guess)]
    kl = gaussian_kl(means[0], step.lower, means[1], step.lower)
    snr = [torch.exp(chain.logsnr(r)) for r in (s, t)]
    torch.testing.assert_close(kl, 0.5 * (snr[0] - snr[1]) * (x0 - guess) ** 2)
    eps_error = (chain.alpha(t) / chain.sigma(t) * (x0 - guess)) ** 2
    gamma_t, gamma_s = -chain.logsnr(t), -chain.logsnr(s)
    torch.testing.assert_close(kl, 0.5 * torch.expm1(gamma_t - gamma_s) * eps_error)


TWO_POINTS = torch.linspace(-12, 12, 4001, dtype=torch.float64)
NORMAL = torch.exp(-(TWO_POINTS**2) / 2)
NORMAL = NORMAL / NORMAL.sum()


def two_point_error(snr):
    """Least squared error for x0 = +-1, each as likely: the guess is tanh(snr x0 + sqrt(snr) z)."""
    snr = snr[..., None]
    return ((1 - torch.tanh(snr + snr.sqrt() * TWO_POINTS)) ** 2 * NORMAL).sum(-1)


def two_point_entropy(snr):
    """H(x0 | x_t) in nats: the cost of Bayes' rule with a uniform prior."""
    logit = 2 * (snr + math.sqrt(snr) * TWO_POINTS)
    return float((torch.nn.functional.softplus(-logit) * NORMAL).sum())


def diffusion_loss(gammas, n_points=400):
    """1/2 of the integral of the eps-error over gamma."""
    low, high = gammas
    edges = torch.linspace(low, high, n_points + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    error = torch.exp(-middle) * two_point_error(torch.exp(-middle))
    return 0.5 * float(error.sum()) * (high - low) / n_points


def test_splitting_a_step_gains_the_stated_amount():
    snr_s, snr_m, snr_t = f64(3.0, 1.2, 0.2)
    e = two_point_error
    coarse = 0.5 * (snr_s - snr_t) * e(snr_t)
    fine = 0.5 * (snr_s - snr_m) * e(snr_m) + 0.5 * (snr_m - snr_t) * e(snr_t)
    gain = 0.5 * (snr_s - snr_m) * (e(snr_t) - e(snr_m))
    torch.testing.assert_close(coarse - fine, gain)
    assert gain > 0
    # Down a whole grid the sum falls towards the integral, from above.
    sums = []
    for n in (8, 16, 64, 512):
        snr = torch.exp(torch.linspace(3, -6, n + 1, dtype=torch.float64))
        sums.append(float((0.5 * (snr[:-1] - snr[1:]) * e(snr[1:])).sum()))
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] > diffusion_loss((-3.0, 6.0)) > 0.95 * sums[-1]


def test_a_cleaner_input_errs_less_by_the_distance_of_the_guesses():
    # x0 = +-1; x_m = x0 + 0.8 z, x_t = x_m + 1.1 z'. The distance by quadrature over both noises.
    z, w = TWO_POINTS[::20], NORMAL[::20] / NORMAL[::20].sum()
    x_m = 1 + 0.8 * z
    x_t = x_m[:, None] + 1.1 * z
    guess_m, guess_t = torch.tanh(x_m / 0.64), torch.tanh(x_t / (0.64 + 1.21))
    distance = ((guess_m[:, None] - guess_t) ** 2 * w[:, None] * w).sum()
    e_m, e_t = two_point_error(1 / f64(0.64, 0.64 + 1.21))
    torch.testing.assert_close(e_t, e_m + distance, rtol=1e-9, atol=0)


def test_the_diffusion_loss_is_the_information_lost_on_the_way():
    clean, noisy = -2.0, 4.0
    lost = two_point_entropy(math.exp(-noisy)) - two_point_entropy(math.exp(-clean))
    assert diffusion_loss((clean, noisy)) == pytest.approx(lost, rel=1e-4)
    assert abs(2 * diffusion_loss((clean, noisy)) - lost) > 0.1


def softmax_decoder(x, x0, values, alpha, sigma):
    logits = -((x[..., None] - alpha * values) ** 2) / (2 * sigma**2)
    index = (values - x0).abs().argmin()
    return logits.log_softmax(-1)[..., index]


def test_prior_reconstruction_and_diffusion_add_up_to_the_entropy():
    # Exact denoiser, infinitely many steps: only the mismatch of the prior is lost.
    gammas = (-2.5, 7.0)
    alpha, sigma = (math.sqrt(1 / (1 + math.exp(g))) for g in (gammas[0], -gammas[0]))
    noisy = alpha + sigma * TWO_POINTS
    decoder = softmax_decoder(noisy, 1.0, f64(-1.0, 1.0), alpha, sigma)
    reconstruction = -float((decoder * NORMAL).sum())
    assert reconstruction == pytest.approx(two_point_entropy(math.exp(-gammas[0])), rel=1e-9)
    kept = 1 / (1 + math.exp(gammas[1]))
    prior = float(gaussian_kl(f64(math.sqrt(kept)), f64(1 - kept), f64(0.0), f64(1.0)))
    total = prior + reconstruction + diffusion_loss(gammas)
    assert total > math.log(2)
    assert total == pytest.approx(math.log(2), abs=1e-4)


def test_the_decoder_is_bayes_rule_and_costs_nothing_without_noise():
    values, x = torch.arange(17).double() / 8 - 1, f64(-0.9, 0.03, 1.4)
    alpha, sigma = 0.999, 0.08
    log_probs = torch.stack([softmax_decoder(x, v, values, alpha, sigma) for v in values])
    likelihood = torch.stack(
        [torch.distributions.Normal(alpha * v, sigma).log_prob(x).exp() for v in values]
    )
    torch.testing.assert_close(log_probs.exp(), likelihood / likelihood.sum(0))
    clear = softmax_decoder(alpha * values[3], values[3], values, alpha, 0.005)
    assert abs(float(clear)) < 1e-12


# ---- What is left for the schedule ---------------------------------------------------------------


def second_moment(gamma, slope, moment, n=20_000):
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return float((0.25 * slope(t) ** 2 * moment(gamma(t))).mean())


def test_the_second_moment_of_the_loss_is_an_integral_over_noise_levels():
    # gamma = -2 + 6 t^2: density 1 / slope = 1 / (12 t) with t = sqrt((gamma + 2) / 6).
    def moment(g):
        return 3 * (torch.exp(-g) / (1 + torch.exp(-g))) ** 2

    ours = second_moment(lambda t: -2 + 6 * t**2, lambda t: 12 * t, moment)
    gamma = torch.linspace(-2, 4, 40_001, dtype=torch.float64)
    density = 1 / (12 * ((gamma + 2) / 6).sqrt().clamp(min=1e-12))
    integral = 0.25 * float(torch.trapezoid(moment(gamma) / density, gamma))
    assert ours == pytest.approx(integral, rel=1e-4)


def test_the_best_density_of_noise_levels_is_the_root_of_the_fourth_moment():
    gamma = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    error = 0.25 * torch.exp(-gamma) / (1 + 0.25 * torch.exp(-gamma))
    moment = 3 * error**2
    best = moment.sqrt() / torch.trapezoid(moment.sqrt(), gamma)

    def second(density):
        return 0.25 * float(torch.trapezoid(moment / density, gamma))

    # 3 L^2: the variance that no schedule can remove is 2 L^2.
    loss = 0.5 * float(torch.trapezoid(error, gamma))
    assert second(best) == pytest.approx(3 * loss**2, rel=1e-9)
    for slope in (-0.2, 0.1, 0.3):
        other = best * torch.exp(slope * gamma)
        assert second(other / torch.trapezoid(other, gamma)) > second(best)
    assert second(torch.full_like(gamma, 1 / 12)) > second(best)
