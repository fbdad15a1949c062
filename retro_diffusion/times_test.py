"""Grids against `diffusers` and the papers; draws against the laws they claim."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats

from retro_diffusion import times
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    linear,
    rescaled_linear,
)

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- Grids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("n_steps", [1, 4, 7, 16, 30, 50, 999, 1000])
def test_integer_grids_visit_diffusers_timesteps(spacing, n_steps):
    scheduler = DDPMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(n_steps)
    grid = getattr(times, spacing)(linear(), n_steps)
    assert grid[:-1].tolist() == (scheduler.timesteps + 1).tolist()  # diffusers counts from 0
    assert float(grid[-1]) == 0


@pytest.mark.parametrize("n_steps", [2, 4, 16, 50, 1000])
def test_linspace_visits_the_steps_of_diffusers_ddim(n_steps):
    scheduler = DDPMScheduler(timestep_spacing="linspace")
    scheduler.set_timesteps(n_steps)
    grid = times.linspace(linear(), n_steps)
    # Half-way cases: they round after turning the order round, and numbers from 0.
    assert (grid[:-1] - 1 - scheduler.timesteps).abs().max() <= 1
    assert (float(grid[0]), float(grid[-2]), float(grid[-1])) == (1000, 1, 0)


MAKERS = [times.uniform, times.trailing, times.leading, times.quadratic]


@pytest.mark.parametrize(
    ("make", "n_steps"),
    [(m, n) for m in MAKERS for n in (1, 3, 50, 97)] + [(times.linspace, n) for n in (2, 97)],
)
def test_grids_decrease_to_the_data_in_as_many_steps_as_asked(make, n_steps):
    grid = make(rescaled_linear(100), n_steps)
    assert grid.shape == (n_steps + 1,) and grid.dtype == torch.float64
    assert (grid.diff() < 0).all()
    assert float(grid[-1]) == 0
    assert torch.equal(times.check_grid(rescaled_linear(100), grid), grid)


def test_only_leading_misses_the_noise_end():
    assert float(times.uniform(linear(), 10)[0]) == 1000
    assert float(times.trailing(linear(), 10)[0]) == 1000
    assert float(times.quadratic(linear(), 10)[0]) == 1000
    assert float(times.linspace(linear(), 10)[0]) == 1000
    assert float(times.leading(linear(), 10)[0]) == 901


def test_only_trailing_misses_step_1():
    assert float(times.leading(linear(), 10)[-2]) == 1
    assert float(times.linspace(linear(), 10)[-2]) == 1
    assert float(times.trailing(linear(), 10)[-2]) == 100


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), SigmaSchedule(), GeometricVE()])
def test_continuous_grids_span_the_schedule_evenly(schedule):
    grid = times.uniform(schedule, 8)
    step = (schedule.t_max - schedule.t_min) / 8
    torch.testing.assert_close(grid.diff(), torch.full((8,), -step, dtype=torch.float64))
    assert (float(grid[0]), float(grid[-1])) == (schedule.t_max, schedule.t_min)


def test_quadratic_grids_have_evenly_spaced_roots():
    roots = times.quadratic(linear(), 20).sqrt()
    torch.testing.assert_close(roots.diff(), torch.full((20,), -(1000**0.5) / 20).double())


@pytest.mark.parametrize("make", [times.uniform, times.quadratic, times.uniform_logsnr])
def test_grids_can_stop_before_the_data(make):
    grid = make(LinearVP(), 10, 1e-3)
    assert (float(grid[0]), float(grid[-1]), len(grid)) == (1.0, 1e-3, 11)
    assert (grid.diff() < 0).all()
    for end in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="end must be in"):
            make(LinearVP(), 10, end)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), SigmaSchedule(), RectifiedFlow()])
def test_uniform_logsnr_spaces_the_log_of_the_signal_to_noise_ratio_evenly(schedule):
    if isinstance(schedule, RectifiedFlow):  # alpha = 0 at its noise end
        with pytest.raises(ValueError, match="finite at both ends"):
            times.uniform_logsnr(schedule, 10, 0.01)
        return
    grid = times.uniform_logsnr(schedule, 20, 1e-3)
    steps = schedule.logsnr(grid).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-7, atol=0)


def test_uniform_logsnr_needs_noise_at_its_end():
    with pytest.raises(ValueError, match="finite at both ends"):
        times.uniform_logsnr(LinearVP(), 10, 0.0)


def test_geometric_levels_shrink_by_one_factor_from_the_largest():
    levels = times.geometric(10, 0.01, 1.0)
    assert (float(levels[0]), float(levels[-1])) == (1.0, pytest.approx(0.01))
    torch.testing.assert_close(levels[1:] / levels[:-1], torch.full((9,), 0.01 ** (1 / 9)).double())
    for bad in ((1,), (5, 2.0, 1.0), (5, 0.0, 1.0)):
        with pytest.raises(ValueError, match="geometric"):
            times.geometric(*bad)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), GeometricVE(0.001, 90.0)])
def test_one_list_of_noise_levels_is_a_grid_of_every_path(schedule):
    levels = times.karras(12, 0.002, 80.0)[:-1]
    grid = times.at_levels(schedule, levels)
    reached = schedule.sigma(grid) / schedule.alpha(grid)
    torch.testing.assert_close(reached, levels, rtol=1e-9, atol=0)
    times.check_grid(schedule, grid)


def test_the_level_0_is_the_data_where_a_path_has_it():
    assert float(times.at_levels(LinearVP(), f64(1.0, 0.0))[-1]) == 0
    for levels in (f64(1.0, 0.0), f64(60.0, 1.0), f64(1.0, -1.0), f64(1.0, math.nan)):
        with pytest.raises(ValueError, match="levels run from"):
            times.at_levels(GeometricVE(), levels)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_levels_follow_equation_5_and_end_at_0(rho):
    n, low, high = 18, 0.002, 80.0
    grid = times.karras(n, low, high, rho)
    for i in range(n):
        root = high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))
        assert float(grid[i]) == pytest.approx(root**rho, rel=1e-10)
    assert grid.shape == (n + 1,) and float(grid[-1]) == 0


@pytest.mark.parametrize("high", [3.0, 50.0, 80.0, 81.7])
@pytest.mark.parametrize("rho", [2.0, 3.0, 5.0, 7.0, 9.0])
def test_karras_levels_never_round_past_the_schedule(high, rho):
    schedule = SigmaSchedule(t_max=high)
    for n in range(2, 30):
        assert float(times.check_grid(schedule, times.karras(n, 0.01, high, rho))[0]) <= high


@pytest.mark.parametrize("bad", [0, -1])
def test_a_grid_needs_a_step(bad):
    for make in (times.uniform, times.trailing, times.leading, times.quadratic):
        with pytest.raises(ValueError, match="n_steps"):
            make(linear(), bad)


def test_a_chain_has_no_more_steps_than_it_has():
    for make in (times.trailing, times.leading):
        with pytest.raises(ValueError, match="between 1 and 1000"):
            make(linear(), 1001)
    for n_steps in (1, 1001):
        with pytest.raises(ValueError, match="between 2 and 1000"):
            times.linspace(linear(), n_steps)


@pytest.mark.parametrize("arguments", [(1,), (5, 0.0), (5, 2.0, 1.0), (5, math.nan)])
def test_karras_levels_must_be_in_order(arguments):
    with pytest.raises(ValueError, match="karras"):
        times.karras(*arguments)


@pytest.mark.parametrize(
    "grid", [[5.0], [], [1.0, 2.0], [2.0, 2.0], [2.0, math.nan], [[2.0, 1.0]], 3.0]
)
def test_a_sampler_only_walks_down(grid):
    with pytest.raises(ValueError, match="decreasing"):
        times.check_grid(linear(), torch.tensor(grid))


@pytest.mark.parametrize("grid", [[1001.0, 0.0], [5.0, -1.0], [math.inf, 0.0]])
def test_a_sampler_stays_in_the_schedule(grid):
    with pytest.raises(ValueError, match="outside"):
        times.check_grid(linear(), torch.tensor(grid))


def test_checked_grids_are_double_precision():
    assert times.check_grid(linear(), torch.tensor([3, 1, 0])).dtype == torch.float64


# ---- Draws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), RectifiedFlow(), SigmaSchedule()])
def test_uniform_draws_are_uniform(schedule):
    t = times.draw_uniform(schedule, 20_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64
    assert stats.kstest(t.numpy() / schedule.t_max, "uniform").pvalue > 0.01


@pytest.mark.parametrize("draw", [times.draw_uniform, times.draw_stratified])
def test_the_data_end_is_never_drawn_and_the_noise_end_may_be(monkeypatch, draw):
    for extreme in (0.0, 1 - 2.0**-53):
        monkeypatch.setattr(torch, "rand", lambda n, e=extreme, **_: f64(*[e] * n))
        t = draw(LinearVP(), 1)
        assert 0 < float(t) <= 1


def test_stratified_draws_put_one_time_in_each_stratum():
    n = 64
    for seed in range(20):
        t = times.draw_stratified(SigmaSchedule(), n, torch.Generator().manual_seed(seed))
        strata = ((80 - t) / 80 * n - 1e-9).floor().clamp(0).sort().values
        gaps = t.sort().values.diff()
        torch.testing.assert_close(gaps, torch.full((n - 1,), 80 / n).double())
        assert len(strata.unique()) >= n - 1  # n, but for rounding at an edge


def test_each_stratified_time_is_uniform_on_its_own():
    generator = torch.Generator().manual_seed(0)
    t = torch.stack([times.draw_stratified(LinearVP(), 5, generator) for _ in range(4000)])
    for column in t.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 0.01


def test_step_draws_cover_1_to_T_evenly():
    t = times.draw_steps(linear(10, 0.1, 0.2), 20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(t.long(), minlength=12)
    assert t.dtype == torch.float64
    assert counts[0] == 0 and counts[11] == 0
    assert stats.chisquare(counts[1:11].numpy()).pvalue > 0.01


def test_levels_are_drawn_evenly():
    levels = times.geometric(5, 0.1, 2.0)
    t = times.draw_levels(levels)(SigmaSchedule(), 20_000, torch.Generator().manual_seed(1))
    counts = (t[:, None] == levels).sum(0)
    assert int(counts.sum()) == 20_000
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    with pytest.raises(ValueError, match="levels"):
        times.draw_levels(f64())


@pytest.mark.parametrize("schedule", [SigmaSchedule(), LinearVP()])
def test_lognormal_draws_have_edm_s_noise_levels_on_any_path(schedule):
    t = times.draw_lognormal()(schedule, 20_000, torch.Generator().manual_seed(0))
    level = (schedule.sigma(t) / schedule.alpha(t)).log()
    assert stats.kstest((level.numpy() + 1.2) / 1.2, "norm").pvalue > 0.01
    with pytest.raises(ValueError, match="std"):
        times.draw_lognormal(std=0.0)


@pytest.mark.parametrize("schedule", [LinearVP(), CosineVP(), SigmaSchedule()])
def test_a_continuous_path_has_no_steps_to_draw(schedule):
    with pytest.raises(ValueError, match="draw_uniform"):
        times.draw_steps(schedule, 3)


@pytest.mark.parametrize("draw", [times.draw_uniform, times.draw_stratified, times.draw_steps])
def test_draws_follow_their_generator(draw):
    first, again, other = (draw(linear(), 50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
