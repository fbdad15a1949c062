"""The reverse step against DDPM's equations and against Bayes' rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import (
    learned_variance,
    lower_variance,
    posterior_mean,
    predict_posterior_mean,
    reverse_step,
    upper_variance,
)
from retro_diffusion.schedules import GeometricVE, LinearVP, RectifiedFlow, SigmaSchedule, linear

torch.set_num_threads(1)

PATHS = {
    "linear": linear(),
    "LinearVP": LinearVP(),
    "GeometricVE": GeometricVE(),
    "SigmaSchedule": SigmaSchedule(),
    "RectifiedFlow": RectifiedFlow(),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def exact(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_steps_of_length_one_are_ddpms_equations_6_and_7():
    chain = linear()
    t = torch.arange(2, 1001, dtype=torch.float64)
    beta = chain.betas[1:]
    now, before = chain.alphas_cumprod[1:], chain.alphas_cumprod[:-1]
    step = reverse_step(chain, t, t - 1)
    # The textbook form loses digits in 1 - alphas_cumprod, 2e-4 at the start.
    torch.testing.assert_close(step.of_x0, before.sqrt() * beta / (1 - now), rtol=1e-11, atol=0)
    torch.testing.assert_close(
        step.of_x_t, (1 - beta).sqrt() * (1 - before) / (1 - now), rtol=1e-11, atol=0
    )
    torch.testing.assert_close(step.lower, beta * (1 - before) / (1 - now), rtol=1e-11, atol=0)
    torch.testing.assert_close(step.upper, beta, rtol=1e-11, atol=0)


def test_the_last_step_returns_x0_and_has_no_variance():
    step = reverse_step(linear(), f64(1.0)[0], f64(0.0)[0])
    assert [float(c) for c in step] == pytest.approx([1, 0, 0, 1, 0, 1e-4], rel=1e-12, abs=0)


@given(st.sampled_from(sorted(PATHS)), st.floats(0.02, 0.98), st.floats(0.02, 0.98))
@settings(max_examples=60, deadline=None)
def test_a_step_of_any_length_is_bayes_rule(name, a, b):
    # q(x_s | x_t, x0) from the joint Gaussian of (x_s, x_t) given x0.
    early, late = sorted((a, b))
    if late - early < 1e-3:
        return
    schedule = PATHS[name]
    t, s = schedule.t_max * f64(late)[0], schedule.t_max * f64(early)[0]
    decay = schedule.alpha(t) / schedule.alpha(s)
    sigma2_s, sigma2_t = schedule.sigma(s) ** 2, schedule.sigma(t) ** 2
    gain = decay * sigma2_s / sigma2_t
    step = reverse_step(schedule, t, s)
    tight = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(step.of_x_t, gain, **tight)
    torch.testing.assert_close(step.of_x0, schedule.alpha(s) - gain * schedule.alpha(t), **tight)
    torch.testing.assert_close(step.lower, sigma2_s - gain * decay * sigma2_s, **tight)
    torch.testing.assert_close(step.upper, sigma2_t - decay**2 * sigma2_s, **tight)


@pytest.mark.parametrize("name", PATHS)
def test_two_steps_compose_to_one(name):
    # Chapman-Kolmogorov: x_t -> x_s -> x_r given x0 has the law of x_t -> x_r given x0.
    schedule = PATHS[name]
    t, s, r = schedule.t_max * f64(0.9, 0.55, 0.2)
    first, second = reverse_step(schedule, t, s), reverse_step(schedule, s, r)
    whole = reverse_step(schedule, t, r)
    exact(second.of_x_t * first.of_x_t, whole.of_x_t)
    exact(second.of_x_t * first.of_x0 + second.of_x0, whole.of_x0)
    exact(second.of_x_t**2 * first.lower + second.lower, whole.lower)


@pytest.mark.parametrize("name", PATHS)
def test_reverse_steps_keep_the_forward_marginals(name):
    # If x_t ~ q(x_t | x0), then x_s drawn from q(x_s | x_t, x0) has the law q(x_s | x0).
    schedule = PATHS[name]
    t, s = schedule.t_max * f64(0.8, 0.3)
    step = reverse_step(schedule, t, s)
    exact(step.of_x_t * schedule.alpha(t) + step.of_x0, schedule.alpha(s))
    exact(step.of_x_t**2 * schedule.sigma(t) ** 2 + step.lower, schedule.sigma(s) ** 2)


def test_a_step_from_zero_signal_forgets_x_t():
    step = reverse_step(RectifiedFlow(), f64(1.0)[0], f64(0.6)[0])
    assert float(step.of_x_t) == 0
    exact(step.of_x0, f64(0.4)[0])
    exact(step.lower, f64(0.36)[0])


def test_the_mean_combines_x_t_and_x0_per_sample():
    t = f64(10.0, 500.0)
    step = reverse_step(linear(), t, t - 1)
    x_t, x0 = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64)
    mean = posterior_mean(step, x_t, x0)
    for i in range(2):
        exact(mean[i], step.of_x_t[i] * x_t[i] + step.of_x0[i] * x0[i])


def test_the_lower_bound_is_right_for_one_point_and_the_upper_for_a_unit_gaussian():
    # True variance of q(x_s | x_t): lower + of_x0^2 Var[x0 | x_t].
    t = torch.arange(2, 1001, dtype=torch.float64)
    step = reverse_step(linear(), t, t - 1)
    nothing = Prediction(f64(0.0), f64(0.0))
    unit_gaussian = step.lower + step.of_x0**2 * linear().sigma(t) ** 2
    torch.testing.assert_close(unit_gaussian, upper_variance(step, nothing), rtol=1e-10, atol=0)
    assert lower_variance(step, nothing) is step.lower
    assert (step.lower < step.upper).all()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0, 1.5])
def test_learned_variance_interpolates_the_logarithms_of_the_bounds(fraction):
    t = f64(2.0, 300.0, 1000.0)
    step = reverse_step(linear(), t, t - 1)
    f = torch.full((3, 2), fraction, dtype=torch.float64)
    variance = learned_variance(step, Prediction(f, f, f))
    expected = step.upper**fraction * step.lower ** (1 - fraction)
    assert variance.shape == (3, 2)
    torch.testing.assert_close(variance, expected[:, None].expand(3, 2))


def test_learned_variance_needs_a_network_that_learnt_it():
    step = reverse_step(linear(), f64(5.0), f64(4.0))
    with pytest.raises(ValueError, match="learned_variance=True"):
        learned_variance(step, Prediction(f64(0.0), f64(0.0)))


def test_posterior_mean_prediction_is_equation_7_solved_for_x0():
    t = torch.arange(1, 1001, dtype=torch.float64)
    x_t, x0 = torch.randn(2, 1000, 1, dtype=torch.float64)
    mu = posterior_mean(reverse_step(linear(), t, t - 1), x_t, x0)
    c = predict_posterior_mean(linear(), t)
    # x0 is a small part of mu, so its digits are few: 1e-16 / 1e-4.
    solved = c.c_skip[:, None] * x_t + c.c_out[:, None] * mu
    torch.testing.assert_close(solved, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(c.c_noise, t / 1000)
    assert (c.c_in == 1).all()
