"""Langevin dynamics: the papers' settings, exact stationary laws, and what each convention costs."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion.denoiser import Denoiser
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import Prediction, predict_x0
from retro_diffusion.samplers import (
    annealed_langevin,
    langevin_step,
    last,
    released_langevin_step,
)
from retro_diffusion.schedules import GeometricVE, LinearVP, SigmaSchedule
from retro_diffusion.times import geometric

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- One step ----------------------------------------------------------------------------------


def test_a_step_is_half_the_size_times_the_score_and_noise_of_variance_the_size():
    x, score = f64([0.3], [-1.0]), f64([2.0], [5.0])
    z = torch.randn(2, 1, generator=seeded(1), dtype=torch.float64)
    end = langevin_step(x, score, torch.tensor(0.01), seeded(1))
    torch.testing.assert_close(end, x + 0.005 * score + 0.1 * z, rtol=1e-7, atol=0)


def test_the_released_step_is_the_paper_s_of_twice_the_size():
    x, score = torch.randn(2, 4, 3, generator=seeded(2), dtype=torch.float64)
    for size in (torch.tensor(0.04), f64(0.01, 0.02, 0.04, 0.08)):
        ours = released_langevin_step(x, score, size, seeded(1))
        assert torch.equal(ours, langevin_step(x, score, 2 * size, seeded(1)))
        assert not torch.allclose(ours, langevin_step(x, score, size, seeded(1)))


# ---- Exact laws ----------------------------------------------------------------------------------


def affine(take, times, **options):
    """Gain and noise of a chain on N(0, 1/4), read off two runs with the same draws."""
    oracle = Gaussian(SigmaSchedule(), f64(0.0), f64([0.25]))
    ends = [
        take(annealed_langevin(oracle, f64([x]), times, generator=seeded(3), n_steps=1, **options))
        for x in (0.0, 1.0)
    ]
    z = torch.randn(1, 1, generator=seeded(3), dtype=torch.float64)
    return float(ends[1] - ends[0]), float(ends[0] / z)


@pytest.mark.parametrize(
    ("step", "size", "in_the_paper_s_units"),
    [(langevin_step, 0.1, 0.1), (released_langevin_step, 0.1, 0.2), (langevin_step, 0.8, 0.8)],
)
def test_the_chain_s_variance_settles_at_the_fixed_point_of_an_autoregression(
    step, size, in_the_paper_s_units
):
    # At one level x -> (1 - a / 2v) x + sqrt(a) z is an AR(1) whose variance is v / (1 - a / 4v),
    # above the true v by a / 4 for small steps.
    sigma = 0.5
    v = 0.25 + sigma**2
    gain, noise = affine(lambda run: next(run).x, f64(sigma, 0.0), step=step, step_size=size)
    variance = 3.0
    for _ in range(2000):
        variance = gain**2 * variance + noise**2
    assert variance == pytest.approx(v / (1 - in_the_paper_s_units / (4 * v)), rel=1e-10)


def test_a_step_s_size_grows_as_the_square_of_the_noise_level():
    # Two levels, one step each: the gain at level i is 1 - step_size (sigma_i / sigma_L)^2 / (2 v_i).
    levels, size = f64(2.0, 0.5), 0.01
    gain, _ = affine(last, levels, step_size=size)
    expected = (1 - size * (levels / levels[-1]) ** 2 / (2 * (0.25 + levels**2))).prod()
    assert gain == pytest.approx(float(expected), rel=1e-12)


def test_the_final_denoising_returns_x0_and_removes_the_noise_that_is_left():
    # Single-point data: the chain ends at the point with noise sigma_L, and exactly at it if denoised.
    oracle = GaussianMixture(SigmaSchedule(), f64([0.5, -0.5]), 0.0)
    levels = geometric(5, 0.1, 1.0)
    x = torch.randn(2000, 2, generator=seeded(1), dtype=torch.float64)
    options = {"n_steps": 80, "step_size": 1e-3}
    noisy = last(annealed_langevin(oracle, x, levels, generator=seeded(2), **options))
    grid = torch.cat([levels, f64(0.0)])
    states = list(annealed_langevin(oracle, x, grid, generator=seeded(2), **options))
    spread = float((noisy - oracle.means).square().mean().sqrt())
    # AR(1) again: variance sigma^2 / (1 - a / 4 sigma^2) with a = 0.001, sigma^2 = 0.01.
    assert spread == pytest.approx(0.1 / math.sqrt(1 - 0.025), rel=0.05)
    assert torch.equal(states[-2].x, noisy)
    torch.testing.assert_close(states[-1].x, oracle.means.expand(2000, 2), rtol=0, atol=1e-12)
    assert float(states[-1].t) == 0 and len(states) == 6


# ---- The experiment of Song and Ermon 2019, section 3.2 --------------------------------------------


def shares_of_the_large_mode():
    mixture = GaussianMixture(SigmaSchedule(), f64([5, 5], [-5, -5]), 1.0, f64(0.8, 0.2))
    x = 16 * torch.rand(2000, 2, generator=seeded(0), dtype=torch.float64) - 8
    levels = torch.linspace(math.log(20), 0, 10, dtype=torch.float64).exp()
    chains = {  # plain: at one level, far below the width of the modes
        "plain": (f64(1e-3, 0.0), {"n_steps": 1000, "step_size": 0.1}),
        "annealed": (levels, {"n_steps": 100, "step_size": 0.1}),
    }
    ends = {
        name: last(annealed_langevin(mixture, x, grid, generator=seeded(1), **options))
        for name, (grid, options) in chains.items()
    }
    return {name: float((end.sum(1) > 0).double().mean()) for name, end in ends.items()}


def test_annealing_recovers_the_weights_of_the_modes_and_plain_dynamics_do_not():
    shares = shares_of_the_large_mode()
    assert abs(shares["annealed"] - 0.8) <= 0.05
    assert abs(shares["plain"] - 0.8) >= 0.2
    assert shares["plain"] == pytest.approx(0.51, abs=4 * math.sqrt(0.25 / 2000))


# ---- Other paths, errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "ends"), [(LinearVP(), (0.4, 0.1)), (GeometricVE(), (0.6, 0.45))]
)
def test_levels_of_other_paths_may_be_used(schedule, ends):
    oracle = Gaussian(schedule, f64(0.3), f64([0.25]))
    x = torch.randn(4000, 1, generator=seeded(1), dtype=torch.float64)
    times = torch.linspace(*ends, 8, dtype=torch.float64)
    size = 0.2 * float(schedule.sigma(times[-1])) ** 2
    end = last(annealed_langevin(oracle, x, times, n_steps=50, step_size=size, generator=seeded(2)))
    v = float(oracle.marginal_variances(times[-1]))
    assert float(end.var()) == pytest.approx(v / (1 - size / (4 * v)), rel=4 * math.sqrt(2 / 4000))
    mean = float(schedule.alpha(times[-1])) * 0.3
    assert float(end.mean()) == pytest.approx(mean, abs=4 * math.sqrt(v / 4000))


def test_levels_from_small_to_large_are_refused():
    oracle = Gaussian(SigmaSchedule(), f64(0.0), f64([0.25]))
    with pytest.raises(ValueError, match="decreasing"):
        annealed_langevin(oracle, f64([0.0]), geometric(5).flip(0))


@pytest.mark.parametrize(
    "options", [{"n_steps": 0}, {"step_size": 0.0}, {"step_size": -1.0}, {"step_size": math.nan}]
)
def test_steps_and_their_size_must_be_positive(options):
    oracle = Gaussian(SigmaSchedule(), f64(0.0), f64([0.25]))
    with pytest.raises(ValueError, match="must be positive"):
        last(annealed_langevin(oracle, f64([0.0]), geometric(5), **options))


def test_every_step_asks_the_denoiser_at_the_level_of_the_step():
    class Asked(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            asked.append(float(c_noise[0]))
            return 0 * x

    asked = []
    denoiser = Denoiser(Asked(), SigmaSchedule(t_max=1.0), predict_x0)
    states = list(
        annealed_langevin(denoiser, f64([0.0]), f64(1.0, 0.5, 0.0), n_steps=3, step_size=1e-3)
    )
    assert asked == [1.0] * 3 + [0.5] * 4  # the last one denoises
    assert [float(state.t) for state in states] == [1.0, 0.5, 0.0]
    assert all(isinstance(state.prediction, Prediction) for state in states)
