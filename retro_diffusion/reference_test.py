"""Step-for-step agreement with `diffusers`, an implementation by other people.

It numbers the steps of a chain from 0: its timestep ``k`` is our ``t = k + 1``. It computes in
float32 from a float32 cumulative product, which sets every tolerance below.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from retro_diffusion.denoiser import Denoiser
from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.parameterizations import (
    Prediction,
    from_output,
    predict_eps,
    predict_v,
    predict_x0,
    v,
)
from retro_diffusion.reverse import (
    learned_variance,
    lower_variance,
    posterior_mean,
    reverse_step,
    upper_variance,
)
from retro_diffusion.samplers import ancestral, ddim, ddim_step, last
from retro_diffusion.schedules import cosine, linear
from retro_diffusion.tensors import match_dims, randn_like
from retro_diffusion.times import leading, trailing

torch.set_num_threads(1)

TYPES = {"epsilon": predict_eps, "sample": predict_x0, "v_prediction": predict_v}
SHAPE = (4, 1, 3, 3)


def f64(value):
    return torch.tensor(float(value), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seed):
    return torch.randn(SHAPE, generator=seeded(seed))


def their_ddpm(prediction_type="epsilon", variance_type="fixed_small", n_steps=1000):
    # Leading, to end at timestep 0: a trailing grid ends above it, where their fixed_large still
    # adds noise to the finished sample.
    scheduler = DDPMScheduler(
        clip_sample=False,
        prediction_type=prediction_type,
        variance_type=variance_type,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(n_steps)
    return scheduler


def their_ddim(prediction_type="epsilon", spacing="trailing", n_steps=50):
    scheduler = DDIMScheduler(
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction_type,
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(n_steps)
    return scheduler


# float32 cancellation in 1 - alphas_cumprod, which is 1e-4 at timestep 0: worst at timestep 1.
STEPS = [(999, 1e-5), (500, 1e-5), (100, 1e-5), (1, 5e-4), (0, 1e-5)]


@pytest.mark.parametrize(("k", "tolerance"), STEPS)
@pytest.mark.parametrize(
    ("variance_type", "variance"),
    [("fixed_small", lower_variance), ("fixed_large", upper_variance)],
)
def test_ddpm_steps_agree(k, tolerance, variance_type, variance):
    output, x_t = noise(1), noise(2)
    theirs = their_ddpm(variance_type=variance_type).step(output, k, x_t, generator=seeded(3))
    t = f64(k + 1)
    prediction = from_output(linear(), predict_eps, x_t, output, t)
    step = reverse_step(linear(), t, t - 1)
    x = posterior_mean(step, x_t, prediction.x0)
    if k > 0:
        x = x + match_dims(variance(step, prediction), x).sqrt() * randn_like(x, seeded(3))
    torch.testing.assert_close(x, theirs.prev_sample, rtol=0, atol=tolerance)


@pytest.mark.parametrize("k", [999, 500, 100])
def test_learned_variance_agrees(k):
    # Their network's variance channels run from -1 to 1, our fraction from 0 to 1.
    output, channels, x_t = noise(1), noise(4), noise(2)
    scheduler = their_ddpm(variance_type="learned_range")
    theirs = scheduler.step(torch.cat([output, channels], 1), k, x_t, generator=seeded(3))
    t = f64(k + 1)
    x0, eps, _ = from_output(linear(), predict_eps, x_t, output, t)
    prediction = Prediction(x0, eps, (channels + 1) / 2)
    step = reverse_step(linear(), t, t - 1)
    std = learned_variance(step, prediction).sqrt()
    x = posterior_mean(step, x_t, x0) + std * randn_like(x_t, seeded(3))
    torch.testing.assert_close(x, theirs.prev_sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("k", [999, 500, 3])
def test_all_prediction_types_agree(name, k):
    output, x_t = noise(1), noise(2)
    theirs = their_ddpm(name).step(output, k, x_t, generator=seeded(3))
    ours = from_output(linear(), TYPES[name], x_t, output, f64(k + 1))
    # Relative: at timestep 999 x0 is divided by alpha = 6e-3, so it is hundreds.
    torch.testing.assert_close(ours.x0, theirs.pred_original_sample, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_steps_agree(name, eta, spacing):
    output, x_t = noise(1), noise(2)
    scheduler = their_ddim(name, spacing)
    grid = {"leading": leading, "trailing": trailing}[spacing](linear(), 50)
    for i in (0, 20, 48, 49):
        t, s = grid[i], grid[i + 1]
        k = int(t) - 1
        assert k == int(scheduler.timesteps[i])
        theirs = scheduler.step(output, k, x_t, eta=eta, generator=seeded(3)).prev_sample
        ours = ddim_step(
            linear(), from_output(linear(), TYPES[name], x_t, output, t), t, s,
            eta=eta, generator=seeded(3),
        )  # fmt: skip
        # At t = 1 of the leading grid they divide float32 noise of 1 - alphas_cumprod by 1e-4.
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("k", [0, 1, 500, 999])
def test_add_noise_and_v_agree(k):
    x0, eps = noise(1), noise(2)
    scheduler, t = their_ddpm(), f64(k + 1)
    steps = torch.tensor([k] * 4)
    # 2e-5: their sigma at timestep 0 comes from 1 - 0.9999 in float32.
    theirs = scheduler.add_noise(x0, eps, steps)
    torch.testing.assert_close(linear().add_noise(x0, eps, t), theirs, rtol=0, atol=2e-5)
    ours = v(linear(), Prediction(x0, eps), t)
    torch.testing.assert_close(ours, scheduler.get_velocity(x0, eps, steps), rtol=0, atol=2e-5)


def test_add_noise_agrees_with_a_time_per_sample():
    x0, eps, k = noise(1), noise(2), torch.tensor([0, 10, 500, 999])
    theirs = their_ddpm().add_noise(x0, eps, k)
    ours = linear().add_noise(x0, eps, (k + 1).double())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


class Oracle:
    """An exact denoiser, called by their loop and by ours."""

    def __init__(self):
        means = torch.linspace(-1, 1, 18).reshape(2, *SHAPE[1:])
        self.mixture = GaussianMixture(linear(), means, 0.3)

    def eps(self, x, k):
        return self.mixture(x, f64(k + 1)).eps


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_whole_ddim_trajectories_agree(eta, spacing):
    oracle, scheduler = Oracle(), their_ddim(spacing=spacing)
    grid = {"leading": leading, "trailing": trailing}[spacing](linear(), 50)
    theirs, generator = noise(1), seeded(2)
    ours = ddim(oracle.mixture, noise(1), grid, eta=eta, generator=seeded(2))
    for k, state in zip(scheduler.timesteps, ours, strict=True):
        output = oracle.eps(theirs, int(k))
        theirs = scheduler.step(output, k, theirs, eta=eta, generator=generator).prev_sample
        # Fifty float32 steps; the first divides by alpha = 6e-3.
        torch.testing.assert_close(state.x, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("variance_type", "variance"),
    [("fixed_small", lower_variance), ("fixed_large", upper_variance)],
)
def test_whole_respaced_ddpm_trajectories_agree(variance_type, variance):
    oracle, scheduler = Oracle(), their_ddpm(variance_type=variance_type, n_steps=50)
    theirs, generator = noise(1), seeded(2)
    ours = ancestral(
        oracle.mixture, noise(1), leading(linear(), 50), variance=variance, generator=seeded(2)
    )
    for k, state in zip(scheduler.timesteps, ours, strict=True):
        output = oracle.eps(theirs, int(k))
        theirs = scheduler.step(output, int(k), theirs, generator=generator).prev_sample
        torch.testing.assert_close(state.x, theirs, rtol=0, atol=2e-4)


def test_a_trained_denoiser_of_theirs_can_be_ours():
    # A network that reads timesteps k is one that reads c_noise = (k + 1) / 1000.
    class Theirs(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            timestep = (c_noise * 1000 - 1).round().reshape(-1, 1, 1, 1)
            return torch.sin(x) * (1 + timestep / 1000)

    scheduler, theirs = their_ddim(), noise(1)
    for k in scheduler.timesteps:
        theirs = scheduler.step(torch.sin(theirs) * (1 + k / 1000), k, theirs).prev_sample
    ours = last(ddim(Denoiser(Theirs(), linear()), noise(1), trailing(linear(), 50)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_cosine_chains_take_the_same_steps():
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    output, x_t = noise(1), noise(2)
    for t, s in pairwise(torch.tensor([700.0, 699.0, 698.0], dtype=torch.float64)):
        theirs = scheduler.step(output, int(t) - 1, x_t, generator=seeded(3)).prev_sample
        step = reverse_step(cosine(), t, s)
        x0 = from_output(cosine(), predict_eps, x_t, output, t).x0
        z = randn_like(x_t, seeded(3))
        ours = posterior_mean(step, x_t, x0) + match_dims(step.lower, z).sqrt() * z
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
