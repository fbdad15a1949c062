"""Likelihood through the probability-flow ODE, against densities and entropies in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion.flow import (
    closed_form,
    dequantize,
    discrete_bits_per_dim,
    exact_trace,
    hutchinson,
    log_likelihood,
    rademacher,
    velocity_divergence,
)
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import velocity
from retro_diffusion.samplers import adaptive, last
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
)

torch.set_num_threads(1)
TIGHT = {"rtol": 1e-8, "atol": 1e-8}
START = 1e-2


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), f64(0.3, 0.5), f64(1, 3))


def points(n=5, schedule=None):
    return mixture(schedule or LinearVP()).sample(n, seeded(1))


def true_prior(oracle):
    return lambda x: oracle.log_prob(x, scalar(oracle.schedule.t_max))


# ---- Closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [LinearVP(), SubVP(), CosineVP(), GeometricVE(), RectifiedFlow()],
    ids=lambda s: type(s).__name__,
)
def test_with_the_true_prior_the_likelihood_of_a_mixture_is_exact(schedule):
    oracle, x = mixture(schedule), points()
    result = log_likelihood(
        oracle, x, start=START, divergence=closed_form, prior=true_prior(oracle), **TIGHT
    )
    exact = oracle.log_prob(x, scalar(START))
    torch.testing.assert_close(result.log_prob, exact, rtol=0, atol=1e-5)
    assert result.latent.shape == x.shape and result.nfe > 20


def test_with_the_true_prior_the_likelihood_of_a_gaussian_is_exact_and_its_latent_the_flow_s():
    oracle = Gaussian(LinearVP(), f64(0.4, -0.3), f64([0.25, 0.1], [0.1, 0.5]))
    x, (start, end) = points(), f64(START, 1.0)
    options = {"start": START, "prior": true_prior(oracle), **TIGHT}
    result = log_likelihood(oracle, x, divergence=closed_form, **options)
    torch.testing.assert_close(result.log_prob, oracle.log_prob(x, start), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.latent, oracle.flow(x, start, end), rtol=0, atol=1e-5)


def test_a_standard_prior_costs_1e_3_nats_because_the_last_marginal_is_not_standard():
    # Not an error of the solver: alpha(1) = 6.6e-3 on this path, and the prior does not know it. The
    # error is the log-ratio of the true prior and the standard one, at the latents.
    oracle, x = mixture(LinearVP()), points(50)
    result = log_likelihood(oracle, x, start=START, divergence=closed_form, **TIGHT)
    error = result.log_prob - oracle.log_prob(x, scalar(START))
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(result.latent).sum(1)
    mismatch = standard - true_prior(oracle)(result.latent)
    torch.testing.assert_close(error, mismatch, rtol=0, atol=1e-5)
    assert 1e-3 < float(error.abs().mean()) < 6e-3
    assert float(LinearVP().alpha(scalar(1.0))) == pytest.approx(6.6e-3, rel=0.01)


def test_on_an_exploding_path_the_default_prior_is_as_wide_as_the_noise():
    oracle, x = mixture(GeometricVE()), points()
    result = log_likelihood(oracle, x, start=START, divergence=closed_form, **TIGHT)
    exact = oracle.log_prob(x, scalar(START))
    torch.testing.assert_close(result.log_prob, exact, rtol=0, atol=5e-2)  # |mean| |z| / 50


# ---- Three ways to the divergence --------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_the_exact_trace_is_the_closed_form(shape):
    means = torch.randn(3, *shape, generator=seeded(1), dtype=torch.float64)
    oracle, t = GaussianMixture(LinearVP(), means, 0.4, f64(1, 2, 3)), scalar(0.4)
    x = torch.randn(4, *shape, generator=seeded(2), dtype=torch.float64)
    pair, trace = exact_trace(oracle, x, t)
    pair_too, formula = closed_form(oracle, x, t)
    torch.testing.assert_close(trace, formula, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pair.x0, pair_too.x0)
    assert not pair.x0.requires_grad and not pair.eps.requires_grad and not trace.requires_grad


def test_the_mean_of_many_probes_is_the_exact_trace():
    oracle, t, n = mixture(LinearVP()), scalar(0.4), 1000
    x = points()
    exact = exact_trace(oracle, x, t)[1]
    each = torch.stack(
        [hutchinson(probe[None])(oracle, x, t)[1] for probe in rademacher(x, n, seeded(3))]
    )
    together = hutchinson(rademacher(x, n, seeded(3)))(oracle, x, t)[1]
    torch.testing.assert_close(together, each.mean(0), rtol=1e-9, atol=1e-9)
    standard_error = each.std(0) / math.sqrt(n)
    assert bool(((together - exact).abs() <= 3 * standard_error).all())
    assert float(standard_error.max()) > 0  # the Jacobian is not diagonal: probes are random here


def test_the_divergence_of_the_velocity_is_what_automatic_differentiation_says():
    for schedule in (LinearVP(), SubVP(), GeometricVE(), RectifiedFlow(), SigmaSchedule(t_max=2.0)):
        oracle, t, x = mixture(schedule), scalar(0.4), points()
        trace = exact_trace(oracle, x, t)[1]
        ours = velocity_divergence(schedule, trace, t, 2)

        def flow(point, oracle=oracle, t=t):
            return velocity(oracle.schedule, oracle(point[None], t), t)[0]

        theirs = torch.stack([torch.autograd.functional.jacobian(flow, p).trace() for p in x])
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_probes_are_signs_drawn_independently_and_reproducibly():
    x = torch.zeros(50, 1, 4, 4)
    probes = rademacher(x, 3, seeded(1))
    assert probes.shape == (3, 50, 1, 4, 4) and probes.dtype == x.dtype
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(probes.mean())) < 4 / math.sqrt(probes.numel())
    assert torch.equal(probes, rademacher(x, 3, seeded(1)))
    assert rademacher(x).shape == (1, 50, 1, 4, 4)


@pytest.mark.parametrize("shape", [(2,), (5, 2), (1, 4, 2), (1, 5, 3)])
def test_probes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"probes must have shape \(n, 5, 2\)"):
        hutchinson(torch.ones(shape))(mixture(LinearVP()), points(), scalar(0.4))


def test_probes_must_stay_the_same_along_a_solve():
    oracle, x = mixture(LinearVP()), points()
    options = {"start": 0.05, "prior": true_prior(oracle), "rtol": 1e-4, "atol": 1e-4}
    fixed = log_likelihood(oracle, x, divergence=hutchinson(rademacher(x, 1, seeded(1))), **options)

    generator, calls = seeded(1), 0

    def fresh(denoiser, x_t, t, cond):
        nonlocal calls
        calls += 1
        if calls > 5 * fixed.nfe:
            raise TimeoutError
        return hutchinson(rademacher(x_t, 1, generator))(denoiser, x_t, t, cond)

    with pytest.raises((TimeoutError, RuntimeError)):  # no step size resolves noise
        log_likelihood(oracle, x, divergence=fresh, **options)


def test_one_probe_s_likelihood_is_unbiased():
    # Each sample 200 times, each with a probe of its own; one solve.
    oracle, x = mixture(LinearVP()), points(3)
    many = x.repeat(200, 1)
    result = log_likelihood(
        oracle,
        many,
        start=0.05,
        divergence=hutchinson(rademacher(many, 1, seeded(1))),
        prior=true_prior(oracle),
    )
    each = result.log_prob.reshape(200, 3)
    exact = oracle.log_prob(x, scalar(0.05))
    assert bool(((each.mean(0) - exact).abs() < 3.5 * each.std(0) / math.sqrt(200)).all())


# ---- Latents -----------------------------------------------------------------------------------


def test_the_latent_decodes_to_the_sample():
    oracle, x = mixture(LinearVP()), points()
    latent = log_likelihood(oracle, x, start=START, divergence=closed_form, **TIGHT).latent
    back = last(adaptive(oracle, latent, f64(1.0, START), **TIGHT))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def test_two_denoisers_that_agree_give_one_latent():
    # Uniquely identifiable encodings: the mixture and a relabelled copy of it with a split component.
    x, schedule = points(), LinearVP()
    copy = GaussianMixture(
        schedule, f64([1, 0.5], [-1, 0], [1, 0.5]), f64(0.5, 0.3, 0.5), f64(1.5, 1, 1.5)
    )
    results = [
        log_likelihood(oracle, x, start=START, divergence=closed_form, **TIGHT)
        for oracle in (mixture(schedule), copy)
    ]
    torch.testing.assert_close(results[0].latent, results[1].latent, rtol=0, atol=1e-6)
    torch.testing.assert_close(results[0].log_prob, results[1].log_prob, rtol=0, atol=1e-6)


def test_the_condition_reaches_the_denoiser():
    oracle = mixture(LinearVP())
    oracle.labels, cond = torch.tensor([0, 1]), torch.tensor([0, 1, 1, 0, 1])
    prior = lambda x: oracle.log_prob(x, scalar(1.0), cond)  # noqa: E731
    for divergence in (closed_form, exact_trace, hutchinson(rademacher(points(), 1, seeded(1)))):
        result = log_likelihood(
            oracle, points(), cond, start=START, divergence=divergence, prior=prior
        )
        if divergence in (closed_form, exact_trace):
            exact = oracle.log_prob(points(), scalar(START), cond)
            torch.testing.assert_close(result.log_prob, exact, rtol=0, atol=1e-2)


# ---- Bits per dimension ------------------------------------------------------------------------


def test_the_likelihood_of_uniformly_dequantised_data_is_the_logarithm_of_the_number_of_bins():
    # 16 equally likely values: the density of x + u is 1 / (16 * 2 half_width) everywhere.
    half_width, n_bins, n_dims = 1 / 16, 16, 3
    log_density = torch.full((4,), -n_dims * math.log(n_bins * 2 * half_width))
    bits = discrete_bits_per_dim(log_density.double(), n_dims, half_width)
    torch.testing.assert_close(bits, torch.full_like(bits, 4.0), rtol=1e-6, atol=0)
    # The trap: without the volume the result is a differential entropy, here 1 bit, and negative for 4.
    differential = -log_density / (n_dims * math.log(2))
    torch.testing.assert_close(differential.double(), bits - 3, rtol=1e-6, atol=1e-6)


def test_a_finely_gridded_gaussian_has_its_entropy_in_bits():
    # h = 1/2 log2(2 pi e s^2) - log2(bin): with bins of 1/50 of s the discrete entropy is that.
    s, half_width = 0.3, 0.003
    grid = torch.arange(-5 * s, 5 * s, 2 * half_width, dtype=torch.float64)
    edges = torch.stack([grid - half_width, grid + half_width])
    p = torch.special.ndtr(edges / s).diff(dim=0)[0]
    entropy = float(-(p * p.log2()).sum())
    n = 40_000
    values = grid[torch.multinomial(p, n, replacement=True, generator=seeded(1))]
    x = dequantize(values, half_width, seeded(2))[:, None]
    log_density = torch.distributions.Normal(0.0, s).log_prob(x)[:, 0]
    bits = discrete_bits_per_dim(log_density, 1, half_width)
    assert float(bits.mean()) == pytest.approx(entropy, abs=4 * float(bits.std()) / math.sqrt(n))


def test_dequantised_values_fill_their_bins_evenly():
    x = torch.linspace(-1, 1, 17, dtype=torch.float64).repeat(2000, 1)
    y = dequantize(x, 1 / 16, seeded(1))
    assert y.dtype == x.dtype and y.shape == x.shape
    assert float((y - x).abs().max()) <= 1 / 16
    assert torch.equal(((y + 1) * 8).round() / 8 - 1, x)  # no value leaves its bin
    n = x.numel()
    assert float((y - x).mean()) == pytest.approx(0, abs=4 / 16 / math.sqrt(3 * n))
    assert float((y - x).var()) == pytest.approx((1 / 16) ** 2 / 3, rel=0.03)
    assert dequantize(torch.zeros(2)).abs().max() <= 1 / 255


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, -0.1, 1.1, math.nan])
def test_a_start_without_noise_or_outside_the_path_is_refused(start):
    with pytest.raises(ValueError, match=r"sigma > 0|outside"):
        log_likelihood(mixture(LinearVP()), points(), start=start)


def test_where_noise_is_left_at_0_the_likelihood_may_start_there():
    oracle, x = mixture(GeometricVE()), points()
    result = log_likelihood(
        oracle, x, start=0.0, divergence=closed_form, prior=true_prior(oracle), **TIGHT
    )
    exact = oracle.log_prob(x, scalar(0.0))
    torch.testing.assert_close(result.log_prob, exact, rtol=0, atol=1e-5)


def test_float32_keeps_its_dtype_and_refuses_tolerances_below_its_rounding():
    oracle, x = mixture(LinearVP()), points().float()
    result = log_likelihood(oracle, x, start=START, divergence=closed_form)
    assert result.log_prob.dtype == result.latent.dtype == torch.float32
    assert not result.log_prob.requires_grad
    with pytest.raises(ValueError, match="1e-6"):
        log_likelihood(oracle, x, divergence=closed_form, rtol=1e-7)
