"""Schedules against the papers' numbers, `diffusers`, and their own differential equations."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    TabulatedSchedule,
    cosine,
    linear,
    rescale_zero_terminal_snr,
    rescaled_linear,
    scaled_linear,
)

torch.set_num_threads(1)

CHAINS = {
    "linear": linear(),
    "cosine": cosine(),
    "rescaled": rescaled_linear(50),
    "scaled": scaled_linear(),
    "zero terminal": rescale_zero_terminal_snr(scaled_linear()),
}
CONTINUOUS = {
    "LinearVP": LinearVP(),
    "SubVP": SubVP(),
    "CosineVP": CosineVP(),
    "GeometricVE": GeometricVE(),
    "SigmaSchedule": SigmaSchedule(),
    "RectifiedFlow": RectifiedFlow(),
}
EVERY = CHAINS | CONTINUOUS
VARIANCE_PRESERVING = [*CHAINS, "LinearVP", "CosineVP"]


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def inner_times(schedule, n=41):
    """Times inside the schedule, none of them an integer, where a chain's slope jumps."""
    u = torch.linspace(0.0123, 0.9867, n, dtype=torch.float64)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * u


# ---- Numbers of the papers ---------------------------------------------------------------------


def test_ddpm_leaves_4e_5_of_the_signal_power():
    assert float(linear().alphas_cumprod[-1]) == pytest.approx(4.036e-5, rel=2e-4)


def test_the_cosine_chain_ends_at_2e_9_because_its_last_beta_is_bounded():
    schedule = cosine()
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(2.43e-9, rel=2e-3)
    assert float(schedule.betas[-1]) == pytest.approx(0.999, abs=1e-12)


def test_the_cosine_chain_follows_equation_17_before_the_bound():
    k = torch.arange(1, 999, dtype=torch.float64)
    f = torch.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    f0 = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(cosine().alphas_cumprod[:998], f / f0, rtol=1e-10, atol=0)


def test_tables_are_computed_in_float64():
    schedule = linear()
    product, expected = 1.0, []
    for k in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        expected.append(product)
    assert schedule.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(schedule.alphas_cumprod, f64(*expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (linear(), {"beta_schedule": "linear"}),
        (linear(50, 2e-3, 0.4), {"beta_start": 2e-3, "beta_end": 0.4, "num_train_timesteps": 50}),
        (cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (cosine(100), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}),
        (
            scaled_linear(),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (
            rescale_zero_terminal_snr(linear()),
            {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
        ),
    ],
)
def test_chains_agree_with_diffusers(ours, theirs):
    # 5e-7: diffusers multiplies a thousand factors in float32.
    reference = DDPMScheduler(**theirs).alphas_cumprod.double()
    torch.testing.assert_close(ours.alphas_cumprod, reference, rtol=0, atol=5e-7)


def test_rescaled_linear_is_ddpm_at_a_thousand_steps_and_adds_as_much_noise_with_fewer():
    torch.testing.assert_close(rescaled_linear(1000).betas, linear().betas)
    thousand = linear().betas.sum()
    assert float(rescaled_linear(100).betas.sum()) == pytest.approx(float(thousand), rel=1e-12)


def test_linear_vp_is_the_limit_of_long_chains():
    t, gaps = torch.linspace(0.1, 1, 10, dtype=torch.float64), []
    for n in (1000, 4000):
        gap = (rescaled_linear(n).logsnr(t * n) - LinearVP().logsnr(t)).abs().max()
        gaps.append(float(gap))
    assert gaps[0] < 0.1
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.15)  # an error of order 1 / T


def test_latent_diffusion_s_chain_leaves_half_a_percent_of_the_signal_power():
    assert float(scaled_linear().alphas_cumprod[-1]) == pytest.approx(4.66e-3, rel=1e-3)
    assert float(scaled_linear().betas[500]) != pytest.approx(float(scaled_linear().betas.mean()))


@pytest.mark.parametrize("chain", [linear(), scaled_linear(), cosine(), linear(2, 0.1, 0.3)])
def test_zero_terminal_snr_keeps_the_first_step_and_ends_in_pure_noise(chain):
    rescaled = rescale_zero_terminal_snr(chain)
    first, final = f64(1.0, chain.t_max)
    torch.testing.assert_close(rescaled.alpha(first), chain.alpha(first))
    assert float(rescaled.alpha(final)) == 0 and float(rescaled.sigma(final)) == 1
    assert float(rescaled.betas[-1]) == 1
    with pytest.raises(ValueError, match="at least two"):
        rescale_zero_terminal_snr(linear(1))


def test_alpha_falls_to_zero_along_the_last_step_of_a_zero_terminal_chain():
    chain = rescale_zero_terminal_snr(linear())
    t = torch.linspace(999, 1000, 11, dtype=torch.float64)
    share = (chain.alpha(t) / chain.alpha(t[0])) ** 2
    torch.testing.assert_close(share, 1000 - t, rtol=1e-9, atol=1e-12)


def test_sub_vp_has_the_vp_signal_and_the_square_of_its_noise():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert torch.equal(SubVP().alpha(t), LinearVP().alpha(t))
    torch.testing.assert_close(SubVP().sigma(t), LinearVP().sigma(t) ** 2)


def test_the_sub_vp_sde_has_the_papers_g():
    t = torch.linspace(0.01, 1, 21, dtype=torch.float64)
    beta, integral = 0.1 + t * 19.9, 0.1 * t + 0.5 * 19.9 * t**2
    g2 = beta * -torch.expm1(-2 * integral)
    torch.testing.assert_close(SubVP().diffusion(t) ** 2, g2, rtol=1e-10, atol=0)
    torch.testing.assert_close(SubVP().drift(t), -beta / 2, rtol=1e-12, atol=0)


# ---- alpha, sigma, logsnr ----------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_noise_grows_and_snr_falls_from_data_to_noise(name):
    schedule = EVERY[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 2003, dtype=torch.float64)
    assert (schedule.alpha(t).diff() <= 0).all()
    assert (schedule.sigma(t).diff() > 0).all()
    assert (schedule.logsnr(t).diff() < 0).all()
    assert float(schedule.alpha(t[0])) == 1


@pytest.mark.parametrize("name", EVERY)
def test_only_the_variance_exploding_sde_has_noise_at_the_data_end(name):
    start = EVERY[name].sigma(f64(0.0))
    assert float(start) == (0.01 if name == "GeometricVE" else 0)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_variance_preserving_paths_keep_unit_variance(name):
    t = inner_times(EVERY[name])
    power = EVERY[name].alpha(t) ** 2 + EVERY[name].sigma(t) ** 2
    torch.testing.assert_close(power, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_logsnr_is_the_log_of_alpha2_over_sigma2(name):
    t = inner_times(EVERY[name])
    ratio = EVERY[name].alpha(t) ** 2 / EVERY[name].sigma(t) ** 2
    torch.testing.assert_close(EVERY[name].logsnr(t), ratio.log(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", EVERY)
def test_one_time_and_a_batch_of_times_agree(name):
    schedule = EVERY[name]
    t = inner_times(schedule, 5)
    for function in ("alpha", "sigma", "alpha_dot", "sigma_dot", "logsnr", "drift", "diffusion"):
        batch = getattr(schedule, function)(t)
        single = getattr(schedule, function)(t[2])
        assert batch.shape == (5,) and single.shape == ()
        torch.testing.assert_close(batch[2], single)


def test_sigma_keeps_its_digits_next_to_the_data():
    t = f64(1e-10)
    assert float(LinearVP().sigma(t)) == pytest.approx(math.sqrt(0.1e-10), rel=1e-8)
    assert float(linear().sigma(t)) == pytest.approx(
        math.sqrt(-math.log1p(-1e-4) * 1e-10), rel=1e-8
    )


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_times_are_good_to_single_precision(name):
    schedule = EVERY[name]
    t = inner_times(schedule).float()
    # A float32 time carries float32 rounding; at the noise end it moves alpha in the 4th digit.
    torch.testing.assert_close(
        schedule.alpha(t), schedule.alpha(t.double()).float(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        schedule.sigma(t), schedule.sigma(t.double()).float(), rtol=1e-4, atol=1e-6
    )


def test_the_cosine_path_reaches_exactly_zero_signal_at_one():
    assert float(CosineVP(t_max=1.0).alpha(f64(1.0))) == 0


def test_the_cosine_path_ends_by_default_where_signal_is_left():
    schedule = CosineVP()
    assert float(schedule.alpha(f64(schedule.t_max))) > 1e-3


# ---- Chains between their steps ----------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_its_products_at_integers(name):
    chain = CHAINS[name]
    t = torch.arange(1, chain.n_timesteps + 1, dtype=torch.float64)
    products = torch.cumprod(1 - chain.betas, 0)
    torch.testing.assert_close(chain.alpha(t) ** 2, products, rtol=1e-11, atol=0)
    torch.testing.assert_close(chain.alphas_cumprod, products, rtol=1e-11, atol=0)
    torch.testing.assert_close(chain.sigma(t) ** 2, 1 - products, rtol=1e-11, atol=1e-15)
    assert chain.t_max == chain.n_timesteps == len(chain.betas)


@given(st.floats(0, 1000), st.floats(0, 1000))
@settings(max_examples=60, deadline=None)
def test_interpolation_never_goes_back(a, b):
    early, late = sorted((a, b))
    assert float(linear().alpha(f64(early))) >= float(linear().alpha(f64(late)))


@given(st.integers(0, 999), st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_during_a_step_the_rate_is_constant(k, inside):
    chain = linear()
    log_alphas_cumprod = 2 * chain.alpha(f64(k, k + inside, k + 1.0)).log()
    share = (log_alphas_cumprod[1] - log_alphas_cumprod[0]) / (log_alphas_cumprod.diff().sum())
    if k:  # at the first step the digits of log(alpha) end before those of the share
        assert float(share) == pytest.approx(inside, abs=1e-9)
    else:
        assert float(share) == pytest.approx(inside, abs=1e-6)


# ---- Derivatives and the forward SDE -----------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_derivatives_equal_finite_differences(name):
    schedule = EVERY[name]
    t = inner_times(schedule)
    h = 1e-6 * schedule.t_max
    for function, derivative in (("alpha", "alpha_dot"), ("sigma", "sigma_dot")):
        f = getattr(schedule, function)
        difference = (f(t + h) - f(t - h)) / (2 * h)
        torch.testing.assert_close(
            getattr(schedule, derivative)(t), difference, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("name", EVERY)
def test_drift_and_diffusion_solve_the_variance_equation(name):
    schedule = EVERY[name]
    t = inner_times(schedule)
    h = 1e-6 * schedule.t_max
    variance_dot = (schedule.sigma(t + h) ** 2 - schedule.sigma(t - h) ** 2) / (2 * h)
    right = 2 * schedule.drift(t) * schedule.sigma(t) ** 2 + schedule.diffusion(t) ** 2
    torch.testing.assert_close(right, variance_dot, rtol=1e-6, atol=1e-8)


def test_the_vp_sde_has_drift_minus_half_beta_and_g2_beta():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    beta = 0.1 + t * (20 - 0.1)
    torch.testing.assert_close(LinearVP().drift(t), -beta / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(LinearVP().diffusion(t) ** 2, beta, rtol=1e-10, atol=0)


def test_a_chain_is_a_vp_sde_with_rate_minus_log_1_minus_beta():
    chain = linear()
    middle = torch.arange(1000, dtype=torch.float64) + 0.5
    rate = -torch.log1p(-chain.betas)
    torch.testing.assert_close(chain.drift(middle), -rate / 2, rtol=1e-9, atol=0)
    torch.testing.assert_close(chain.diffusion(middle) ** 2, rate, rtol=1e-9, atol=0)


def test_the_ve_sde_has_no_drift_and_the_papers_g():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    g = 0.01 * 5000**t * math.sqrt(2 * math.log(5000))
    assert (GeometricVE().drift(t) == 0).all()
    torch.testing.assert_close(GeometricVE().diffusion(t), g, rtol=1e-12, atol=0)


def test_edm_and_rectified_flow_have_their_known_sdes():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(SigmaSchedule().diffusion(t), (2 * t).sqrt())
    torch.testing.assert_close(RectifiedFlow().drift(t), -1 / (1 - t))
    torch.testing.assert_close(RectifiedFlow().diffusion(t), (2 * t / (1 - t)).sqrt())


@pytest.mark.parametrize("name", EVERY)
def test_the_forward_sde_can_start_at_the_data(name):
    schedule = EVERY[name]
    start, near = schedule.diffusion(f64(0.0)), schedule.diffusion(f64(1e-9))
    assert start.isfinite().all()
    torch.testing.assert_close(start, near, rtol=1e-6, atol=1e-4)


# ---- Times from noise levels -------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_time_can_be_found_by_its_log_snr(name):
    schedule, t = EVERY[name], inner_times(EVERY[name])
    found = schedule.time_at(schedule.logsnr(t))
    torch.testing.assert_close(found, t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_levels_that_a_path_does_not_reach_are_at_its_ends(name):
    ends = EVERY[name].time_at(f64(math.inf, -math.inf))
    assert ends.tolist() == [EVERY[name].t_min, EVERY[name].t_max]


# ---- add_noise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4, 4)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_add_noise_scales_data_and_noise_of_each_sample(shape, per_sample):
    x0, eps = torch.randn(2, *shape, dtype=torch.float64)
    t = f64(10.0, 500.0, 1000.0) if per_sample else f64(500.0)[0]
    x_t = linear().add_noise(x0, eps, t)
    for i, time in enumerate(t.expand(3)):
        expected = linear().alpha(time) * x0[i] + linear().sigma(time) * eps[i]
        torch.testing.assert_close(x_t[i], expected)


def test_add_noise_keeps_the_dtype_of_the_data():
    assert linear().add_noise(torch.ones(1, 2), torch.ones(1, 2), f64(3.0)).dtype == torch.float32


def test_marginal_variance_of_one_forward_step_is_beta():
    # Two ways to x_2: q(x_2 | x_0), and q(x_1 | x_0) followed by one step with beta_2.
    chain = linear(2, 0.1, 0.3)
    one, two = f64(1.0, 2.0)
    torch.testing.assert_close(chain.alpha(two), chain.alpha(one) * math.sqrt(0.7))
    torch.testing.assert_close(chain.sigma(two) ** 2, 0.7 * chain.sigma(one) ** 2 + 0.3)


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [-0.1, 1000.5, math.nan, math.inf])
def test_times_outside_the_schedule_are_refused(t):
    with pytest.raises(ValueError, match="outside"):
        linear().add_noise(torch.ones(1, 2), torch.ones(1, 2), f64(t))


@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1)])
def test_times_must_be_one_or_one_per_sample(shape):
    with pytest.raises(ValueError, match="one for each of 3"):
        linear().add_noise(torch.ones(3, 2), torch.ones(3, 2), torch.ones(shape))


def test_noise_must_be_shaped_like_the_data():
    with pytest.raises(ValueError, match="must agree"):
        linear().add_noise(torch.ones(3, 2), torch.ones(3, 1), f64(1.0)[0])


@pytest.mark.parametrize(
    "betas", [[], [0.0, 0.1], [1.0, 0.1], [0.1, 1.5], [-0.1], [math.nan], [[0.1, 0.2]], 0.1]
)
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        TabulatedSchedule(torch.tensor(betas))


def test_a_rescaled_chain_needs_more_than_twenty_steps():
    assert float(rescaled_linear(21).betas[-1]) < 1
    with pytest.raises(ValueError, match="more than 20"):
        rescaled_linear(20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearVP(-1.0, 2.0), "beta_min"),
        (lambda: SubVP(0.0, 0.0), "beta_min"),
        (lambda: CosineVP(1.5), "t_max"),
        (lambda: CosineVP(0.0), "t_max"),
        (lambda: GeometricVE(1.0, 0.5), "sigma_min"),
        (lambda: GeometricVE(0.0, 0.5), "sigma_min"),
        (lambda: SigmaSchedule(math.inf), "t_max"),
        (lambda: SigmaSchedule(math.nan), "t_max"),
        (lambda: scaled_linear(10, -0.1, 0.2), "betas"),
    ],
)
def test_impossible_paths_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
