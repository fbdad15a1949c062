"""Losses against hand formulas, the variational bound, and the exact minimiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from retro_diffusion import losses, parameterizations
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.likelihood import discretized_decoder, variational_bound
from retro_diffusion.losses import (
    bound_loss,
    bound_terms,
    denoising_loss,
    edm,
    elbo,
    elbo_steps,
    elbo_steps_upper,
    eps_error_scale,
    huber,
    hybrid_loss,
    l1,
    l2,
    min_snr,
    sech,
    simple,
    simple_loss,
    snr_plus_one,
    truncated_snr,
    weighted_bound,
    x0_error,
)
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import (
    Prediction,
    precondition_edm,
    predict_eps,
    predict_score,
    predict_v,
    predict_velocity,
    predict_x0,
)
from retro_diffusion.reverse import learned_variance, lower_variance, upper_variance
from retro_diffusion.schedules import CosineVP, LinearVP, SigmaSchedule, cosine, linear
from retro_diffusion.times import draw_stratified, draw_uniform, trailing

torch.set_num_threads(1)

EVERY = [
    predict_eps,
    predict_x0,
    predict_v,
    predict_velocity,
    predict_score,
    precondition_edm(0.5),
]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Answer(nn.Module):
    """A bare network whose pair is that of `predict`, whatever the prediction type, plus `extra`."""

    def __init__(self, schedule, parameterization, t, predict, extra=None):
        super().__init__()
        self.schedule, self.parameterization, self.t = schedule, parameterization, t
        self.predict, self.extra = predict, extra

    def forward(self, x, c_noise, cond):
        c = self.parameterization(self.schedule, self.t)
        skip, out, scale = (z.reshape(-1, *(1,) * (x.ndim - 1)) for z in c[:3])
        x_t = x / scale
        output = (self.predict(x_t, self.t) - skip * x_t) / out
        return output if self.extra is None else torch.cat([output, self.extra(x_t)], 1)


def answering(schedule, parameterization, t, predict):
    network = Answer(schedule, parameterization, t, predict)
    return Denoiser(network, schedule, parameterization)


# ---- L_simple ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 2, 2)])
def test_l_simple_is_the_mean_squared_error_of_eps(shape):
    x0 = torch.randn(shape, generator=seeded(1), dtype=torch.float64)
    t = f64(1.0, 10.0, 500.0, 1000.0)
    network = nn.Flatten(start_dim=1)
    network.forward = lambda x, c_noise, cond: x * c_noise.reshape(-1, *(1,) * (x.ndim - 1))
    loss = denoising_loss(Denoiser(network, linear()), x0, t, generator=seeded(2))
    eps = torch.randn(shape, generator=seeded(2), dtype=torch.float64)
    x_t, total = linear().add_noise(x0, eps, t), 0.0
    for i in range(4):
        total += ((x_t[i] * t[i] / 1000 - eps[i]) ** 2).mean() / 4
    torch.testing.assert_close(loss, total)


@pytest.mark.parametrize("parameterization", EVERY)
def test_one_weight_is_one_objective_whatever_the_network_predicts(parameterization):
    t = f64(1.0, 10.0, 500.0, 1000.0)
    x0 = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    expected = None
    for kind in (predict_eps, parameterization):
        denoiser = answering(linear(), kind, t, lambda x_t, t: 0.9 * torch.tanh(x_t))
        loss = denoising_loss(denoiser, x0, t, weight=min_snr(), generator=seeded(2))
        expected = loss if expected is None else expected
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)


def test_the_weight_multiplies_the_eps_error_of_its_own_sample():
    t = f64(10.0, 700.0)
    x0 = torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)
    denoiser = answering(linear(), predict_x0, t, lambda x_t, t: 0 * x_t)
    loss = denoising_loss(denoiser, x0, t, weight=lambda schedule, t: t, generator=seeded(2))
    snr = (linear().alpha(t) / linear().sigma(t)) ** 2
    eps_error = snr * (x0**2).mean(1)  # the network always says x0 = 0
    torch.testing.assert_close(loss, (t * eps_error).mean())


def test_weighting_the_x0_error_is_unweighted_x0_prediction():
    t = f64(10.0, 700.0)
    x0 = torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)
    denoiser = answering(linear(), predict_x0, t, lambda x_t, t: 0.3 * x_t)
    plain = denoising_loss(denoiser, x0, t, generator=seeded(2))
    weighted = denoising_loss(denoiser, x0, t, weight=x0_error, generator=seeded(2))
    torch.testing.assert_close(weighted, plain)


@pytest.mark.parametrize("schedule", [linear(), LinearVP(), SigmaSchedule(t_max=2.0)])
def test_no_denoiser_beats_the_exact_one(schedule):
    oracle = GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.3)
    x0 = oracle.sample(2000, seeded(1))
    t = (0.05 + 0.9 * torch.rand(2000, generator=seeded(3), dtype=torch.float64)) * schedule.t_max

    def loss(predict):
        denoiser = answering(schedule, predict_x0, t, predict)
        return float(denoising_loss(denoiser, x0, t, weight=x0_error, generator=seeded(2)))

    best = loss(lambda x_t, t: oracle(x_t, t).x0)
    for angle in torch.arange(8, dtype=torch.float64) * math.pi / 4:
        change = 0.2 * torch.stack([angle.cos(), angle.sin()])
        assert loss(lambda x_t, t, c=change: oracle(x_t, t).x0 + c) > best
        assert loss(lambda x_t, t, c=change: oracle(x_t, t).x0 * (1 + c)) > best


def test_the_exact_denoiser_still_has_the_loss_of_the_posterior_spread():
    # E |x0 - E[x0|x_t]|^2 is the posterior variance, known for a Gaussian.
    oracle = Gaussian(linear(), f64(0.3, -1.0), 0.25 * torch.eye(2))
    t = torch.full((20_000,), 400.0, dtype=torch.float64)
    x0 = oracle.sample(20_000, seeded(1))
    denoiser = answering(linear(), predict_x0, t, lambda x_t, t: oracle(x_t, t).x0)
    loss = float(denoising_loss(denoiser, x0, t, generator=seeded(2)))
    variance = float(oracle.posterior_variances(t[0]).mean())
    assert loss == pytest.approx(variance, rel=4 * math.sqrt(2 / 40_000))


def test_eps_error_scale_turns_output_errors_into_eps_errors():
    x_t, t = torch.randn(3, 2, dtype=torch.float64), f64(2.0, 400.0, 1000.0)
    for kind in EVERY:
        denoiser = Denoiser(nn.Identity(), linear(), kind)
        one = parameterizations.from_output(linear(), kind, x_t, x_t, t).eps
        two = parameterizations.from_output(linear(), kind, x_t, x_t + 1, t).eps
        scale = eps_error_scale(denoiser, t)[:, None].expand(3, 2)
        torch.testing.assert_close((two - one).abs(), scale.abs(), rtol=1e-8, atol=1e-10)


# ---- Norms -------------------------------------------------------------------------------------


def test_norms_are_those_of_torch():
    r, zero = torch.linspace(-3, 3, 25), torch.zeros(25)
    torch.testing.assert_close(l2(r), functional.mse_loss(r, zero, reduction="none"))
    torch.testing.assert_close(l1(r), functional.l1_loss(r, zero, reduction="none"))
    for delta in (0.1, 1.0, 2.5):
        expected = functional.huber_loss(r, zero, reduction="none", delta=delta)
        torch.testing.assert_close(huber(delta)(r), expected)


def test_huber_needs_a_positive_delta():
    with pytest.raises(ValueError, match="delta"):
        huber(0.0)


@pytest.mark.parametrize("norm", [l1, l2, huber(0.5)])
def test_the_norm_is_applied_to_the_residual(norm):
    t, x0 = f64(10.0, 700.0), torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)
    denoiser = answering(linear(), predict_x0, t, lambda x_t, t: 0 * x_t)
    torch.testing.assert_close(denoising_loss(denoiser, x0, t, norm=norm), norm(x0).mean())


# ---- Weights -----------------------------------------------------------------------------------


def test_bound_weights_are_equation_12():
    chain = linear()
    t = torch.arange(2, 1001, dtype=torch.float64)
    beta, now, before = chain.betas[1:], chain.alphas_cumprod[1:], chain.alphas_cumprod[:-1]
    posterior = beta * (1 - before) / (1 - now)
    for weight, variance in ((elbo_steps, posterior), (elbo_steps_upper, beta)):
        expected = beta**2 / (2 * variance * (1 - beta) * (1 - now))
        torch.testing.assert_close(weight(chain, t), expected, rtol=1e-10, atol=0)
        first = 1 / (2 * (1 - chain.betas[0]))
        torch.testing.assert_close(weight(chain, f64(1.0))[0], first, rtol=1e-10, atol=0)


@pytest.mark.parametrize("chain", [linear(30, 0.01, 0.3), cosine(30)])
def test_weighted_eps_errors_are_the_terms_of_the_bound(chain):
    # With the lower variance L_{t-1} is all mean error; with the upper one, mean error and a constant.
    oracle = Gaussian(chain, f64(0.2, -0.3), 0.25 * torch.eye(2))
    x0 = oracle.sample(50, seeded(1))
    grid, size = trailing(chain, chain.n_timesteps), (50, 2)
    eps = [
        torch.randn(size, generator=g, dtype=torch.float64) for g in [seeded(2)] for _ in grid[:-1]
    ]
    for variance, weight in ((lower_variance, elbo_steps), (upper_variance, elbo_steps_upper)):
        bound = variational_bound(oracle, x0, grid, variance=variance, generator=seeded(2))
        for i, t in enumerate(grid[:-2]):
            error = eps[i] - oracle(chain.add_noise(x0, eps[i], t), t).eps
            term = weight(chain, t[None]) * (error**2).sum(1)
            if variance is upper_variance:
                before, now = chain.alphas_cumprod[int(t) - 2], chain.alphas_cumprod[int(t) - 1]
                ratio = (1 - before) / (1 - now)
                term = term + (ratio - 1 - ratio.log())  # twice one half: two dimensions
            torch.testing.assert_close(bound.transitions[:, i], term, rtol=1e-6, atol=1e-9)


def test_the_weighted_sum_over_all_steps_is_the_bound():
    chain = linear(30, 0.01, 0.3)
    oracle = Gaussian(chain, f64(0.2), f64([0.25]))
    n, t = 3000, torch.arange(1, 31, dtype=torch.float64)
    x0, total = oracle.sample(n, seeded(1)), 0.0
    for k in t:
        times = k.expand(n)
        denoiser = answering(chain, predict_v, times, lambda x_t, t: oracle(x_t, t).x0)
        total += float(
            denoising_loss(denoiser, x0, times, weight=elbo_steps, generator=seeded(int(k)))
        )
    bound = variational_bound(
        oracle, x0, trailing(chain, 30), variance=lower_variance, generator=seeded(9)
    )
    # L_0 is a density, which no weighted error gives: leave its term out of both sums.
    first = denoising_loss(
        answering(chain, predict_v, t[:1].expand(n), lambda x_t, t: oracle(x_t, t).x0),
        x0, t[:1].expand(n), weight=elbo_steps, generator=seeded(1),
    )  # fmt: skip
    sums = bound.transitions.sum(1)
    assert total - float(first) == pytest.approx(
        float(sums.mean()), abs=6 * float(sums.std()) / math.sqrt(n)
    )


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), SigmaSchedule()])
def test_the_continuous_weight_is_minus_half_the_slope_of_logsnr(schedule):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64) * schedule.t_max
    h = 1e-6 * schedule.t_max
    slope = (schedule.logsnr(t + h) - schedule.logsnr(t - h)) / (2 * h)
    torch.testing.assert_close(elbo(schedule, t), -0.5 * slope, rtol=1e-7, atol=0)


def test_the_continuous_weight_is_the_limit_of_the_discrete_ones():
    chain = linear()
    t = torch.arange(300, 1000, dtype=torch.float64)
    torch.testing.assert_close(elbo(chain, t - 0.5), elbo_steps(chain, t), rtol=0.02, atol=0)


def test_min_snr_bounds_the_weight_of_the_x0_error():
    t = torch.linspace(1, 1000, 50, dtype=torch.float64)
    snr = (linear().alpha(t) / linear().sigma(t)) ** 2
    for gamma in (1.0, 5.0):
        weight = min_snr(gamma)(linear(), t)
        torch.testing.assert_close(weight * snr, snr.clamp(max=gamma))
    torch.testing.assert_close(x0_error(linear(), t), 1 / snr)


@pytest.mark.parametrize(
    ("parameterization", "weight"),
    [(predict_eps, simple), (predict_x0, x0_error), (predict_v, snr_plus_one)],
)
def test_unweighted_losses_are_these_weights_on_the_eps_error(parameterization, weight):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    schedule = LinearVP()
    denoiser = Denoiser(nn.Identity(), schedule, parameterization)
    torch.testing.assert_close(eps_error_scale(denoiser, t) ** -2, weight(schedule, t))


@pytest.mark.parametrize("sigma_data", [0.5, 0.9])
@pytest.mark.parametrize("schedule", [SigmaSchedule(), LinearVP()])
def test_edm_s_weight_gives_its_own_target_weight_1(schedule, sigma_data):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64) * schedule.t_max
    denoiser = Denoiser(nn.Identity(), schedule, precondition_edm(sigma_data))
    unit = edm(sigma_data)(schedule, t) * eps_error_scale(denoiser, t) ** 2
    torch.testing.assert_close(unit, torch.ones_like(t))
    level = schedule.sigma(t) / schedule.alpha(t)  # table 1, on the x0-error
    theirs = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    torch.testing.assert_close(edm(sigma_data)(schedule, t), theirs * level**2)
    with pytest.raises(ValueError, match="sigma_data"):
        edm(0.0)


def test_the_truncated_weight_is_the_larger_of_two_errors():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    of_x0 = truncated_snr(CosineVP(), t) * torch.exp(CosineVP().logsnr(t))
    torch.testing.assert_close(of_x0, torch.exp(CosineVP().logsnr(t)).clamp(min=1))


def test_on_the_cosine_path_sech_is_l_simple():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(sech(CosineVP(), t), math.pi * simple(CosineVP(), t))
    assert float(sech(LinearVP(), t).std()) > 0.1


@pytest.mark.parametrize("weight", [torch.ones_like, lambda logsnr: 1 / torch.cosh(logsnr / 2)])
def test_a_weighted_bound_does_not_depend_on_the_schedule_between_its_ends(weight):
    # N(0, s2) has the eps-error alpha^2 s2 / v; the integral over t between the same two log-SNRs.
    ends, s2, integrals = f64(6.0, -6.0), 0.25, []
    for schedule in (LinearVP(), CosineVP(), SigmaSchedule()):
        low, high = schedule.time_at(ends)
        edges = low + (high - low) * torch.linspace(0, 1, 200_001, dtype=torch.float64)
        t = (edges[1:] + edges[:-1]) / 2
        alpha2, sigma2 = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        error = alpha2 * s2 / (alpha2 * s2 + sigma2)
        integrals.append(float((weighted_bound(weight)(schedule, t) * error).mean() * (high - low)))
    assert integrals[0] == pytest.approx(integrals[1], rel=1e-4)
    assert integrals[0] == pytest.approx(integrals[2], rel=1e-4)
    if weight is torch.ones_like:  # the closed form
        snr_high, snr_low = math.exp(6), math.exp(-6)
        exact = 0.5 * math.log((1 + s2 * snr_high) / (1 + s2 * snr_low))
        assert integrals[0] == pytest.approx(exact, rel=1e-4)


# ---- Losses of whole batches -------------------------------------------------------------------


@pytest.mark.parametrize("draw", [losses.draw_steps, draw_uniform, draw_stratified])
def test_simple_loss_draws_times_then_noise(draw):
    denoiser, x0 = Denoiser(nn.Identity(), linear()), torch.randn(8, 2)
    denoiser.network.forward = lambda x, c_noise, cond: x * cond[:, None]
    cond = torch.arange(8.0)
    loss = simple_loss(draw, weight=min_snr(), norm=l1)(denoiser, (x0, cond), seeded(3))
    generator = seeded(3)
    t = draw(linear(), 8, generator)
    expected = denoising_loss(denoiser, x0, t, cond, weight=min_snr(), norm=l1, generator=generator)
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("variance", [lower_variance, upper_variance])
def test_terms_for_training_average_to_the_evaluated_bound(variance):
    chain = linear(12, 0.02, 0.4)
    oracle = Gaussian(chain, f64(0.2, -0.3), 0.25 * torch.eye(2))
    n = 400
    x0 = oracle.sample(n, seeded(1))
    generator, total = seeded(2), torch.zeros(n, dtype=torch.float64)
    bound = variational_bound(
        oracle, x0, trailing(chain, 12), variance=variance, generator=seeded(2)
    )
    for k in range(12, 0, -1):  # the same noise, in the order of the grid
        t = torch.full((n,), float(k), dtype=torch.float64)
        x_t = chain.add_noise(x0, torch.randn(n, 2, generator=generator, dtype=torch.float64), t)
        total += 2 * bound_terms(
            chain, oracle(x_t, t), x0, x_t, t, variance=variance,
            decoder=losses.gaussian_decoder,
        )  # fmt: skip
    torch.testing.assert_close(total, bound.transitions.sum(1) + bound.decoder)


def test_the_bound_loss_is_an_unbiased_estimate_in_nats_per_dimension():
    chain = linear(12, 0.02, 0.4)
    oracle = Gaussian(chain, f64(0.2, -0.3), 0.25 * torch.eye(2))

    class Exact(Denoiser):
        def forward(self, x_t, t, cond=None):
            return oracle(x_t, t)

    x0 = oracle.sample(40_000, seeded(1))
    estimate = float(bound_loss()(Exact(nn.Identity(), chain), (x0, None), seeded(2)))
    bound = variational_bound(oracle, x0[:4000], trailing(chain, 12), generator=seeded(3))
    truth = (bound.transitions.sum(1) + bound.decoder) / 2
    assert estimate == pytest.approx(float(truth.mean()), abs=0.05)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.variance = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x, c_noise, cond):
        return torch.cat([self.mean(x), torch.sigmoid(self.variance(x))], 1)


def test_in_the_hybrid_loss_the_bound_trains_the_variance_alone():
    torch.manual_seed(0)
    network, x0 = TwoHeads(), torch.randn(64, 2)
    denoiser = Denoiser(network, linear(20, 0.01, 0.4), learned_variance=True)
    gradients = []
    for scale in (1e-9, 0.001, 1.0):
        denoiser.zero_grad()
        hybrid_loss(scale=scale)(denoiser, (x0, None), seeded(1)).backward()
        gradients.append((network.mean.weight.grad.clone(), network.variance.weight.grad.clone()))
    for mean, variance in gradients:
        torch.testing.assert_close(mean, gradients[0][0])
        assert float(variance.abs().sum()) > 0
    torch.testing.assert_close(gradients[2][1], 1000 * gradients[1][1])


def test_the_hybrid_loss_adds_the_bound_in_bits_per_dimension():
    torch.manual_seed(0)
    chain, x0 = linear(20, 0.01, 0.4), torch.randn(64, 2)
    denoiser = Denoiser(TwoHeads(), chain, learned_variance=True)
    generator = seeded(1)
    t = losses.draw_steps(chain, 64, generator)
    eps = torch.randn(64, 2, generator=generator)
    x_t = chain.add_noise(x0, eps, t)
    prediction = denoiser(x_t, t)
    nats = (
        20
        * bound_terms(
            chain,
            prediction,
            x0,
            x_t,
            t,
            variance=learned_variance,
            decoder=losses.gaussian_decoder,
        ).mean()
    )
    simple = ((prediction.eps - eps) ** 2).mean()
    for scale in (0.001, 0.5):
        loss = hybrid_loss(scale=scale)(denoiser, (x0, None), seeded(1))
        torch.testing.assert_close(loss, simple + scale * nats / math.log(2))


def test_the_bound_of_data_on_a_grid_has_finite_gradients():
    torch.manual_seed(0)
    x0 = torch.linspace(-1, 1, 17)[torch.randint(0, 17, (256, 2))]
    denoiser = Denoiser(TwoHeads(), linear(), learned_variance=True)
    decoder = discretized_decoder(1 / 16)
    hybrid_loss(decoder=decoder)(denoiser, (x0, None), seeded(1)).backward()
    bound_loss(variance=learned_variance, decoder=decoder)(
        denoiser, (x0, None), seeded(1)
    ).backward()
    assert all(p.grad.isfinite().all() for p in denoiser.parameters())


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [f64(0.0, 5.0), f64(5.0, 1001.0), f64(5.0, math.nan), f64(5.0)])
@pytest.mark.parametrize("weight", [None, elbo_steps])
def test_times_without_noise_or_outside_the_schedule_are_refused(t, weight):
    with pytest.raises(ValueError, match=r"sigma = 0|outside|one for each"):
        denoising_loss(Denoiser(nn.Identity(), linear()), torch.ones(2, 3), t, weight=weight)


def test_a_chain_s_loss_is_refused_for_a_continuous_path():
    with pytest.raises(ValueError, match="draw_uniform"):
        simple_loss()(Denoiser(nn.Identity(), LinearVP()), (torch.ones(2, 3), None), None)


def test_a_prediction_can_be_scored_without_a_network():
    x0 = torch.zeros(2, 1, dtype=torch.float64)
    t = f64(1.0, 7.0)
    terms = bound_terms(
        linear(), Prediction(x0, x0), x0, x0, t, variance=lower_variance,
        decoder=losses.gaussian_decoder,
    )  # fmt: skip
    assert terms.shape == (2,) and terms.isfinite().all()
    assert float(terms[1]) == pytest.approx(0, abs=1e-15)  # the very same Gaussian
