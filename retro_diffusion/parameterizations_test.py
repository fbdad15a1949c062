"""Every prediction type names the same pair: round trips, identities, EDM's unit variances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_diffusion import parameterizations
from retro_diffusion.parameterizations import (
    Prediction,
    from_eps,
    from_output,
    from_x0,
    precondition_edm,
    predict_eps,
    predict_score,
    predict_v,
    predict_velocity,
    predict_x0,
    score,
    target,
    v,
    velocity,
)
from retro_diffusion.reverse import predict_posterior_mean
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    cosine,
    linear,
)

torch.set_num_threads(1)

SCHEDULES = {
    "linear": linear(),
    "cosine": cosine(),
    "LinearVP": LinearVP(),
    "CosineVP": CosineVP(),
    "GeometricVE": GeometricVE(),
    "SigmaSchedule": SigmaSchedule(),
    "RectifiedFlow": RectifiedFlow(),
}
EDM = precondition_edm(0.7)
EVERY = {
    "eps": predict_eps,
    "x0": predict_x0,
    "v": predict_v,
    "velocity": predict_velocity,
    "score": predict_score,
    "edm": EDM,
}
TYPES = st.sampled_from(sorted(EVERY))
PATHS = st.sampled_from(sorted(SCHEDULES))
# Fractions of the schedule, near both ends too.
FRACTIONS = st.one_of(st.floats(1e-3, 0.999), st.sampled_from([1e-3, 0.999]))


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def pair(shape=(3, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    return x0, eps


# ---- Round trips -------------------------------------------------------------------------------


@given(TYPES, PATHS, FRACTIONS)
@settings(max_examples=150, deadline=None)
def test_the_target_is_what_makes_the_prediction_exact(name, path, fraction):
    schedule = SCHEDULES[path]
    t = f64(fraction * schedule.t_max)[0]
    x0, eps = pair()
    x_t = schedule.add_noise(x0, eps, t)
    output = target(schedule, EVERY[name], x0, eps, t)
    prediction = from_output(schedule, EVERY[name], x_t, output, t)
    # x0 at the noise end and eps at the data end are divided by alpha and sigma.
    slack = 1e-10 if float(schedule.alpha(t)) > 1e-3 else 1e-9
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=slack)
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-10)


@given(TYPES, PATHS, FRACTIONS)
@settings(max_examples=80, deadline=None)
def test_whatever_the_network_says_the_pair_explains_x_t(name, path, fraction):
    schedule = SCHEDULES[path]
    t = f64(fraction * schedule.t_max)[0]
    x_t, output = pair(seed=1)
    x0, eps, _ = from_output(schedule, EVERY[name], x_t, output, t)
    again = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    scale = 1 + float(x0.abs().max() + eps.abs().max())
    torch.testing.assert_close(again, x_t, rtol=0, atol=1e-12 * scale)


@given(st.integers(1, 1000))
@settings(max_examples=60, deadline=None)
def test_the_posterior_mean_is_a_parameterisation_too(k):
    x0, eps = pair()
    t = f64(k)[0]
    x_t = linear().add_noise(x0, eps, t)
    output = target(linear(), predict_posterior_mean, x0, eps, t)
    prediction = from_output(linear(), predict_posterior_mean, x_t, output, t)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-8)  # divided by 1e-4 of x0
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4, 4)])
@pytest.mark.parametrize("name", EVERY)
def test_each_sample_may_have_its_own_time(name, shape):
    x0, eps = pair(shape)
    t = f64(1.0, 400.0, 1000.0)
    x_t = linear().add_noise(x0, eps, t)
    output = target(linear(), EVERY[name], x0, eps, t)
    prediction = from_output(linear(), EVERY[name], x_t, output, t)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-10)
    one = from_output(linear(), EVERY[name], x_t[1:2], output[1:2], t[1])
    torch.testing.assert_close(one.x0[0], prediction.x0[1])


def test_single_precision_data_stay_so_and_low_noise_costs_no_digits():
    x0, eps = (z.float() for z in pair())
    t = f64(1e-5)[0]
    schedule = SigmaSchedule()
    exact = target(schedule, EDM, x0.double(), eps.double(), t)
    output = target(schedule, EDM, x0, eps, t)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), exact, rtol=0, atol=1e-6)


# ---- What the targets are ----------------------------------------------------------------------


@pytest.mark.parametrize("path", SCHEDULES)
def test_each_target_is_its_definition(path):
    schedule = SCHEDULES[path]
    t = schedule.t_max * f64(0.1, 0.5, 0.9)
    x0, eps = pair()
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    alpha_dot, sigma_dot = schedule.alpha_dot(t)[:, None], schedule.sigma_dot(t)[:, None]
    definitions = {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "velocity": alpha_dot * x0 + sigma_dot * eps,
        "score": -eps / sigma,
    }
    for name, expected in definitions.items():
        output = target(schedule, EVERY[name], x0, eps, t)
        torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9, msg=name)


def test_velocity_of_rectified_flow_is_eps_minus_x0():
    x0, eps = pair()
    output = target(RectifiedFlow(), predict_velocity, x0, eps, f64(0.3)[0])
    torch.testing.assert_close(output, eps - x0)


def test_with_time_as_noise_level_velocity_prediction_is_eps_prediction():
    t = f64(0.1, 1.0, 60.0)
    ours, theirs = predict_velocity(SigmaSchedule(), t), predict_eps(SigmaSchedule(), t)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("path", SCHEDULES)
def test_score_v_and_velocity_are_read_from_the_pair(path):
    schedule = SCHEDULES[path]
    t = schedule.t_max * f64(0.1, 0.5, 0.9)
    x0, eps = pair()
    prediction = Prediction(x0, eps)
    for name, function in (("score", score), ("v", v), ("velocity", velocity)):
        expected = target(schedule, EVERY[name], x0, eps, t)
        torch.testing.assert_close(
            function(schedule, prediction, t), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("path", SCHEDULES)
def test_velocity_is_drift_minus_half_g2_score(path):
    # Song et al. 2021, equation 13: the probability-flow ODE.
    schedule = SCHEDULES[path]
    t = schedule.t_max * f64(0.11, 0.52, 0.93)
    x0, eps = pair()
    x_t, prediction = schedule.add_noise(x0, eps, t), Prediction(x0, eps)
    drift, g = schedule.drift(t)[:, None], schedule.diffusion(t)[:, None]
    ode = drift * x_t - 0.5 * g**2 * score(schedule, prediction, t)
    torch.testing.assert_close(velocity(schedule, prediction, t), ode, rtol=1e-9, atol=1e-9)


def test_x0_and_x_t_determine_eps():
    x0, eps = pair()
    t = f64(7.0, 300.0, 1000.0)
    x_t = linear().add_noise(x0, eps, t)
    prediction = from_x0(linear(), x_t, x0, t)
    assert prediction.x0 is x0 and prediction.variance_fraction is None
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-11)


def test_eps_and_x_t_determine_x0():
    x0, eps = pair()
    t = f64(7.0, 300.0, 1000.0)
    x_t = linear().add_noise(x0, eps, t)
    prediction = from_eps(linear(), x_t, eps, t)
    assert prediction.eps is eps and prediction.variance_fraction is None
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["eps", "x0", "v", "velocity", "score"])
def test_plain_networks_read_x_t_and_the_fraction_of_time(name):
    c = EVERY[name](linear(), f64(1.0, 500.0, 1000.0))
    torch.testing.assert_close(c.c_noise, f64(0.001, 0.5, 1.0))
    assert (c.c_in == 1).all()


# ---- EDM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("sigma_data", [0.1, 0.5, 1.3])
def test_edm_inputs_and_targets_have_unit_variance_at_every_noise_level(path, sigma_data):
    schedule = SCHEDULES[path]
    t = schedule.t_max * torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    c = precondition_edm(sigma_data)(schedule, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    input_variance = c.c_in**2 * (alpha**2 * sigma_data**2 + sigma**2)
    of_x0, of_eps = (1 - c.c_skip * alpha) / c.c_out, c.c_skip * sigma / c.c_out
    one = torch.ones_like(t)
    torch.testing.assert_close(input_variance, one, rtol=1e-10, atol=0)
    torch.testing.assert_close(of_x0**2 * sigma_data**2 + of_eps**2, one, rtol=1e-9, atol=0)


def test_edm_skip_connection_amplifies_network_errors_least():
    # Karras et al. 2022, appendix B.6: c_skip minimises c_out under the unit-variance condition.
    t, sigma_data = f64(0.02, 0.5, 3.0, 40.0), 0.5
    c = precondition_edm(sigma_data)(SigmaSchedule(), t)
    for change in (-0.01, 0.01):
        skip = c.c_skip + change
        c_out2 = (1 - skip) ** 2 * sigma_data**2 + skip**2 * t**2
        assert (c_out2 > c.c_out**2).all()


def test_edm_coefficients_are_table_1():
    sigma = f64(0.002, 0.5, 80.0)
    c = precondition_edm(0.5)(SigmaSchedule(), sigma)
    power = sigma**2 + 0.25
    torch.testing.assert_close(c.c_skip, 0.25 / power)
    torch.testing.assert_close(c.c_out, 0.5 * sigma / power.sqrt())
    torch.testing.assert_close(c.c_in, 1 / power.sqrt())
    torch.testing.assert_close(c.c_noise, sigma.log() / 4)


def test_edm_loss_weight_cancels_c_out():
    # lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: effective weight 1 everywhere.
    sigma = torch.logspace(-3, 1.9, 30, dtype=torch.float64)
    c_out = precondition_edm(0.5)(SigmaSchedule(), sigma).c_out
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(c_out**2 * weight, torch.ones_like(sigma))


def test_edm_on_a_vp_path_is_edm_in_the_rescaled_frame():
    t = f64(100.0, 500.0, 900.0)
    alpha, ratio = linear().alpha(t), linear().sigma(t) / linear().alpha(t)
    vp, frame = EDM(linear(), t), EDM(SigmaSchedule(t_max=1000.0), ratio)
    torch.testing.assert_close(vp.c_skip * alpha, frame.c_skip)
    torch.testing.assert_close(vp.c_in * alpha, frame.c_in)
    torch.testing.assert_close(vp.c_out, frame.c_out)
    torch.testing.assert_close(vp.c_noise, frame.c_noise)


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_edm_needs_data_that_vary(sigma_data):
    with pytest.raises(ValueError, match="sigma_data"):
        precondition_edm(sigma_data)


def test_a_prediction_without_learned_variance_says_so():
    x0, eps = pair()
    assert parameterizations.Prediction(x0, eps).variance_fraction is None
