"""One call for every prediction type, and errors where a question has no answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from retro_diffusion import parameterizations
from retro_diffusion.denoiser import Clipped, Denoiser, OnSchedule
from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.parameterizations import (
    precondition_edm,
    predict_eps,
    predict_score,
    predict_v,
    predict_velocity,
    predict_x0,
)
from retro_diffusion.reverse import predict_posterior_mean
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    linear,
)

torch.set_num_threads(1)

EVERY = {
    "eps": predict_eps,
    "x0": predict_x0,
    "v": predict_v,
    "velocity": predict_velocity,
    "score": predict_score,
    "edm": precondition_edm(0.5),
    "posterior mean": predict_posterior_mean,
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


class OracleNetwork(nn.Module):
    """The exact denoiser as a bare network: undoes c_in, and answers in the given prediction type."""

    def __init__(self, oracle, parameterization, t):
        super().__init__()
        self.oracle, self.parameterization, self.t = oracle, parameterization, t

    def forward(self, x, c_noise, cond):
        c = self.parameterization(self.oracle.schedule, self.t)
        x_t = x / c.c_in.reshape(-1, 1)
        prediction = self.oracle(x_t, self.t, cond)
        return (prediction.x0 - c.c_skip.reshape(-1, 1) * x_t) / c.c_out.reshape(-1, 1)


class Spy(nn.Module):
    """Remembers what it was asked; answers with `factor` times its input's channels."""

    def __init__(self, factor=1):
        super().__init__()
        self.factor = factor

    def forward(self, x, c_noise, cond):
        self.seen = x, c_noise, cond
        return torch.cat([x * (i + 1) for i in range(self.factor)], dim=1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("times", [(500.0,), (2.0, 300.0, 1000.0)])
def test_the_exact_network_gives_the_exact_pair_in_every_prediction_type(name, times):
    oracle = GaussianMixture(linear(), f64([-1, 0], [1, 0.5]), 0.3, labels=torch.tensor([0, 1]))
    t = f64(*times) if len(times) > 1 else f64(*times)[0]
    x_t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cond = torch.tensor([0, 1, 1])
    denoiser = Denoiser(OracleNetwork(oracle, EVERY[name], t), linear(), EVERY[name])
    prediction, exact = denoiser(x_t, t, cond), oracle(x_t, t, cond)
    # Dividing by c_out and multiplying by it costs digits where posterior means hide x0: 1e-4.
    torch.testing.assert_close(prediction.x0, exact.x0, rtol=0, atol=1e-8)
    torch.testing.assert_close(prediction.eps, exact.eps, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4, 4)])
def test_the_network_sees_scaled_data_one_noise_number_per_sample_and_cond_untouched(shape):
    network, cond = Spy(), object()
    denoiser = Denoiser(network, SigmaSchedule(), precondition_edm(0.5))
    x_t = torch.ones(shape)
    denoiser(x_t, f64(2.0)[0], cond)
    x, c_noise, seen = network.seen
    torch.testing.assert_close(x, x_t / math.sqrt(4.25))
    torch.testing.assert_close(c_noise, torch.full((3,), math.log(2) / 4))
    assert x.dtype == c_noise.dtype == torch.float32
    assert seen is cond


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_have_the_dtype_of_the_data(dtype):
    prediction = Denoiser(Spy(), linear())(torch.ones(2, 3, dtype=dtype), f64(5.0)[0])
    assert prediction.x0.dtype == prediction.eps.dtype == dtype
    assert prediction.variance_fraction is None


def test_eps_prediction_is_the_default():
    denoiser = Denoiser(Spy(), linear())
    x_t = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x_t, f64(700.0)[0]).eps, x_t, rtol=0, atol=1e-12)


def test_target_is_the_output_of_a_perfect_network():
    denoiser = Denoiser(Spy(), linear(), predict_v)
    x0, eps = torch.randn(2, 3, 2, dtype=torch.float64)
    t = f64(10.0, 500.0, 990.0)
    expected = linear().alpha(t)[:, None] * eps - linear().sigma(t)[:, None] * x0
    torch.testing.assert_close(denoiser.target(x0, eps, t), expected)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4), (2, 1)])
def test_the_second_half_of_the_channels_is_the_variance_fraction(shape):
    denoiser = Denoiser(Spy(2), linear(), predict_x0, learned_variance=True)
    x_t = torch.randn(shape)
    prediction = denoiser(x_t, f64(5.0)[0])
    torch.testing.assert_close(prediction.x0, x_t)
    torch.testing.assert_close(prediction.variance_fraction, 2 * x_t)


def test_gradients_reach_the_network():
    network = nn.Bilinear(2, 1, 2)
    wrapped = nn.Module()
    wrapped.inner = network
    wrapped.forward = lambda x, c_noise, cond: network(x, c_noise[:, None])
    prediction = Denoiser(wrapped, linear())(torch.ones(3, 2), f64(5.0)[0])
    prediction.x0.sum().backward()
    assert float(network.weight.grad.abs().sum()) > 0


# ---- Clipping ----------------------------------------------------------------------------------


def test_clipping_bounds_x0_and_keeps_the_pair_consistent():
    denoiser = Clipped(Denoiser(Spy(2), linear(), predict_x0, learned_variance=True), -1, 0.5)
    x_t, t = f64([-3.0, 0.2], [0.7, 9.0]), f64(100.0, 900.0)
    prediction = denoiser(x_t, t)
    torch.testing.assert_close(prediction.x0, x_t.clamp(-1, 0.5))
    again = denoiser.schedule.add_noise(prediction.x0, prediction.eps, t)
    torch.testing.assert_close(again, x_t)
    torch.testing.assert_close(prediction.variance_fraction, 2 * x_t)


def test_clipping_leaves_predictions_inside_the_range_alone():
    bare = Denoiser(Spy(), linear(), predict_x0)
    x_t, t = torch.full((2, 3), 0.9, dtype=torch.float64), f64(300.0)[0]
    for a, b in zip(Clipped(bare)(x_t, t)[:2], bare(x_t, t)[:2], strict=True):
        torch.testing.assert_close(a, b)


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP(t_max=1.0)])
@pytest.mark.parametrize("parameterization", [predict_eps, predict_score, precondition_edm(0.5)])
def test_where_no_signal_is_left_noise_says_nothing_of_x0(schedule, parameterization):
    with pytest.raises(ValueError, match="undefined at t = 1 .* alpha = 0"):
        Denoiser(Spy(), schedule, parameterization)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP(t_max=1.0)])
@pytest.mark.parametrize("parameterization", [predict_x0, predict_v, predict_velocity])
def test_x0_v_and_velocity_are_defined_without_signal(schedule, parameterization):
    denoiser = Denoiser(Spy(), schedule, parameterization)
    prediction = denoiser(torch.ones(2, 3), f64(1.0)[0])
    assert prediction.x0.isfinite().all() and prediction.eps.isfinite().all()


@pytest.mark.parametrize("t", [f64(0.0)[0], f64(0.0, 5.0)])
def test_without_noise_there_is_nothing_to_denoise(t):
    with pytest.raises(ValueError, match="sigma = 0"):
        Denoiser(Spy(), linear())(torch.ones(2, 3), t)


@pytest.mark.parametrize("t", [f64(1001.0)[0], f64(math.nan)[0], f64(5.0), f64(5.0, 6.0, 7.0)])
def test_times_must_fit_schedule_and_batch(t):
    with pytest.raises(ValueError, match=r"outside|one for each"):
        Denoiser(Spy(), LinearVP() if t.ndim else linear())(torch.ones(2, 3), t)


@pytest.mark.parametrize(("factor", "learned"), [(2, False), (1, True), (3, True)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_with_the_wrong_number_of_channels_is_named(factor, learned, channels):
    denoiser = Denoiser(Spy(factor), linear(), learned_variance=learned)
    with pytest.raises(ValueError, match="the network predicts shape"):
        denoiser(torch.ones(2, channels), f64(5.0)[0])


def test_the_pair_of_a_denoiser_explains_x_t():
    denoiser = Denoiser(Spy(), linear(), predict_v)
    x_t, t = torch.randn(3, 2, dtype=torch.float64), f64(1.0, 500.0, 1000.0)
    x0, eps, _ = denoiser(x_t, t)
    torch.testing.assert_close(linear().add_noise(x0, eps, t), x_t)
    velocity = parameterizations.velocity(linear(), denoiser(x_t, t), t)
    assert velocity.shape == x_t.shape


PATHS = [LinearVP(), SubVP(), CosineVP(), GeometricVE(), SigmaSchedule(), RectifiedFlow(), linear()]


@pytest.mark.parametrize("old", PATHS)
@pytest.mark.parametrize("new", PATHS)
def test_a_denoiser_of_one_path_is_one_of_every_path(old, new):
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    moved, there = (
        OnSchedule(GaussianMixture(old, means, 0.3), new),
        GaussianMixture(new, means, 0.3),
    )
    t = new.time_at(f64(4.0, 0.0, -3.0))
    x_t = new.add_noise(f64([-1, 0.1], [0.2, 0.4], [1, 1]), f64([0.3, 2], [-1, 0], [0.5, 0.7]), t)
    for ours, exact in zip(moved(x_t, t)[:2], there(x_t, t)[:2], strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)


def test_pure_noise_can_be_moved_where_both_paths_have_it():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    cosine = CosineVP(t_max=1.0)
    moved = OnSchedule(GaussianMixture(RectifiedFlow(), means, 0.3), cosine)
    exact = GaussianMixture(cosine, means, 0.3)
    x_t = f64([0.3, -2.0])
    torch.testing.assert_close(moved(x_t, f64(1.0)[0]).x0, exact(x_t, f64(1.0)[0]).x0)


def test_a_noise_level_that_the_denoiser_does_not_know_is_refused():
    moved = OnSchedule(GaussianMixture(GeometricVE(0.01, 2.0), torch.zeros(1, 2), 0.3), LinearVP())
    moved(torch.ones(1, 2), f64(0.3)[0])
    for t in (1e-6, 1.0):
        with pytest.raises(ValueError, match="outside the denoiser's GeometricVE"):
            moved(torch.ones(1, 2), f64(t)[0])
