"""The variational bound against densities known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from retro_diffusion.denoiser import Clipped
from retro_diffusion.likelihood import (
    VariationalBound,
    bits_per_dim,
    discretized_decoder,
    gaussian_decoder,
    gaussian_kl,
    variational_bound,
)
from retro_diffusion.oracles import Gaussian
from retro_diffusion.reverse import lower_variance, upper_variance
from retro_diffusion.samplers import starting_noise
from retro_diffusion.schedules import GeometricVE, SigmaSchedule, linear
from retro_diffusion.times import trailing, uniform

torch.set_num_threads(1)

THOUSAND = linear()
FIFTY = linear(50, 2e-3, 0.4)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def gaussian(schedule, s2, mean=0.0):
    return Gaussian(schedule, f64(mean), f64([s2]))


def exact_variance(oracle):
    return lambda step, prediction: oracle.reverse_variances(step.t, step.s)


# ---- Building blocks ---------------------------------------------------------------------------


def test_kl_of_two_gaussians_is_the_integral():
    p, q = stats.norm(0.3, 1.7), stats.norm(-0.4, 0.6)
    integral = q.expect(lambda x: q.logpdf(x) - p.logpdf(x))
    kl = gaussian_kl(f64(-0.4), f64(0.36), f64(0.3), f64(1.7**2))
    assert float(kl) == pytest.approx(integral, rel=1e-9)
    assert float(gaussian_kl(f64(1.0), f64(2.0), f64(1.0), f64(2.0))) == 0


def test_the_gaussian_decoder_is_a_normal_log_density():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    ours = gaussian_decoder(x, f64(0.4), f64(0.49))
    torch.testing.assert_close(ours, torch.tensor(stats.norm(0.4, 0.7).logpdf(x.numpy())))


def test_bits_per_dim():
    assert float(bits_per_dim(f64(math.log(2) * 192), 64)) == pytest.approx(3)


# ---- The discretised decoder -------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "half_width"), [(256, 1 / 255), (17, 1 / 16)])
@pytest.mark.parametrize("mean", [-1.3, -1.0, -0.2, 0.013, 1.0, 2.0])
@pytest.mark.parametrize("std", [1e-3, 0.05, 0.7, 5.0])
def test_the_probabilities_of_all_bins_sum_to_one(levels, half_width, mean, std):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    log_prob = discretized_decoder(half_width)(x, f64(mean), f64(std**2))
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mean", [-0.9, 0.0, 0.31])
def test_bins_hold_differences_of_the_distribution_function(mean):
    x = torch.linspace(-1, 1, 17, dtype=torch.float64)
    edges = torch.cat([f64(-math.inf), x[:-1] + 1 / 16, f64(math.inf)])
    naive = torch.tensor(stats.norm(mean, 0.4).cdf(edges.numpy())).diff()
    ours = discretized_decoder(1 / 16)(x, f64(mean), f64(0.16)).exp()
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-14)


def test_by_default_the_bins_are_those_of_8_bit_images():
    x = torch.arange(256, dtype=torch.float64)[:, None] / 127.5 - 1
    for mean in (-0.3, 0.999):
        total = discretized_decoder()(x, f64(mean), f64(1e-4)).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_tails_stay_finite_and_symmetric(dtype):
    x = torch.linspace(-1, 1, 256, dtype=dtype)
    mean, variance = torch.tensor(30.0, dtype=dtype), torch.tensor(0.01, dtype=dtype)
    left = discretized_decoder()(x, -mean, variance)
    right = discretized_decoder()(x, mean, variance)
    assert left.isfinite().all() and right.isfinite().all()
    torch.testing.assert_close(left, right.flip(0))
    # 290 standard deviations out, a bin holds what its nearer edge leaves: about -z^2 / 2.
    z = (30 - 1 / 255) / 0.1
    assert float(left[128]) == pytest.approx(-(z**2) / 2, rel=1e-3)


def test_gradients_of_the_decoder_are_finite():
    x = torch.linspace(-1, 1, 17)
    mean = torch.linspace(-40, 40, 17).requires_grad_()
    discretized_decoder(1 / 16)(x, mean, torch.tensor(0.02)).sum().backward()
    assert mean.grad.isfinite().all()


# ---- The bound of a Gaussian -------------------------------------------------------------------

# Nats above -E[log p] for data N(0, s^2): with the upper, lower and exact reverse variance.
GAPS = [
    (THOUSAND, 1.0, 0.0, 0.579),
    (THOUSAND, 0.25, 1.1e-3, 0.570),
    (FIFTY, 1.0, 0.0, 2.23),
    (FIFTY, 0.25, 0.022, 1.99),
]


@pytest.mark.parametrize(("schedule", "s2", "upper", "lower"), GAPS)
def test_how_much_each_variance_loses(schedule, s2, upper, lower):
    oracle = gaussian(schedule, s2)
    grid = trailing(schedule, schedule.n_timesteps)
    assert oracle.bound_gap(grid, upper_variance) == pytest.approx(upper, rel=0.03, abs=1e-9)
    assert oracle.bound_gap(grid, lower_variance) == pytest.approx(lower, rel=5e-3)
    assert abs(oracle.bound_gap(grid, exact_variance(oracle))) < 1e-8


@pytest.mark.parametrize(("schedule", "s2"), [(linear(20, 0.01, 0.5), 1.0), (FIFTY, 0.25)])
@pytest.mark.parametrize("name", ["upper", "lower", "exact"])
@pytest.mark.parametrize("stride", [1, 5])
def test_the_sampled_bound_lies_the_known_gap_above_the_true_likelihood(schedule, s2, name, stride):
    oracle = gaussian(schedule, s2, mean=0.4)
    variance = {
        "upper": upper_variance,
        "lower": lower_variance,
        "exact": exact_variance(oracle),
    }[name]
    grid = trailing(schedule, schedule.n_timesteps // stride)
    generator = torch.Generator().manual_seed(0)
    x0 = oracle.sample(4000, generator)
    bound = variational_bound(oracle, x0, grid, variance=variance, generator=generator)
    excess = bound.total + oracle.log_prob(x0, f64(0.0)[0])
    error = float(excess.std()) / math.sqrt(len(x0))
    assert abs(float(excess.mean()) - oracle.bound_gap(grid, variance)) < 4 * error + 1e-9
    assert bound.transitions.shape == (4000, len(grid) - 2)


def test_the_bound_sums_over_dimensions():
    # Independent axes: the nats of each add up.
    two = Gaussian(FIFTY, f64(0.0, 0.0), torch.eye(2, dtype=torch.float64))
    one = gaussian(FIFTY, 1.0)
    grid = trailing(FIFTY, 50)
    twice = 2 * one.bound_gap(grid, lower_variance)
    assert two.bound_gap(grid, lower_variance) == pytest.approx(twice, rel=1e-12)
    x0 = two.sample(4000, torch.Generator().manual_seed(0))
    terms = variational_bound(two, x0, grid, generator=torch.Generator().manual_seed(1))
    # With the upper variance the bound is tight: its mean is the entropy, 1/2 log(2 pi e) per axis.
    entropy, total = math.log(2 * math.pi * math.e), terms.total
    assert abs(float(total.mean()) - entropy) < 4 * float(total.std()) / 4000**0.5
    assert torch.equal(terms.total, terms.prior + terms.transitions.sum(1) + terms.decoder)


# The first two paths end with much of the signal left, where the prior matters.
@pytest.mark.parametrize("schedule", [linear(5, 0.1, 0.2), SigmaSchedule(t_max=1.0), FIFTY])
def test_the_prior_term_is_a_kl_to_the_sampler_s_start(schedule):
    oracle, end = gaussian(schedule, 1.0), f64(schedule.t_max)[0]
    x0 = f64([0.5], [-2.0])
    bound = variational_bound(oracle, x0, uniform(schedule, 5))
    alpha2, sigma2 = float(schedule.alpha(end)) ** 2, float(schedule.sigma(end)) ** 2
    start = float(starting_noise(schedule, (20_000, 1), generator=torch.Generator()).var())
    assert start == pytest.approx(alpha2 + sigma2, rel=0.04)
    ratio = sigma2 / (alpha2 + sigma2)
    expected = 0.5 * (alpha2 * x0[:, 0] ** 2 / (alpha2 + sigma2) + ratio - 1 - math.log(ratio))
    torch.testing.assert_close(bound.prior, expected)


@pytest.mark.parametrize("schedule", [linear(5, 0.1, 0.2), SigmaSchedule(t_max=1.0)])
def test_with_the_exact_variance_the_prior_is_all_that_is_lost(schedule):
    oracle = gaussian(schedule, 0.25, mean=0.4)
    grid = uniform(schedule, 5)
    alpha, sigma = float(schedule.alpha(grid[0])), float(schedule.sigma(grid[0]))
    q, p = (0.4 * alpha, 0.25 * alpha**2 + sigma**2), (0.0, alpha**2 + sigma**2)
    prior = float(gaussian_kl(*f64(*q), *f64(*p)))
    assert prior > 0.01
    assert oracle.bound_gap(grid, exact_variance(oracle)) == pytest.approx(prior, rel=1e-9)


def test_the_bound_works_on_images_with_a_discretised_decoder():
    oracle = Gaussian(FIFTY, torch.zeros(4), 0.25 * torch.eye(4))

    class Images:
        schedule = FIFTY

        def __call__(self, x_t, t, cond=None):
            x0, eps, _ = oracle(x_t.flatten(1), t)
            return type(oracle(x_t.flatten(1), t))(x0.view_as(x_t), eps.view_as(x_t))

    x0 = torch.linspace(-1, 1, 17)[torch.randint(0, 17, (8, 1, 2, 2))]
    bound = variational_bound(
        Clipped(Images()), x0, trailing(FIFTY, 50), decoder=discretized_decoder(1 / 16)
    )
    assert isinstance(bound, VariationalBound)
    assert bound.total.shape == (8,) and bound.total.isfinite().all()
    assert (bound.decoder >= 0).all()  # a probability, not a density


def test_a_bound_ends_at_the_data_and_has_two_steps():
    oracle = gaussian(FIFTY, 1.0)
    for grid in ([50.0, 0.0], [50.0, 20.0, 1.0]):
        with pytest.raises(ValueError, match="two steps"):
            variational_bound(oracle, torch.ones(2, 1), f64(*grid))
        with pytest.raises(ValueError, match="two steps"):
            oracle.bound_gap(f64(*grid), lower_variance)
    ve = gaussian(GeometricVE(), 1.0)
    with pytest.raises(ValueError, match="sigma = 0"):
        variational_bound(ve, torch.ones(2, 1), uniform(GeometricVE(), 5))
