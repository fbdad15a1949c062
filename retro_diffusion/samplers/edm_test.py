"""EDM's stochastic sampler: Heun's method with churn, against algorithm 2 of the paper."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.samplers import edm_stochastic, heun, last
from retro_diffusion.schedules import GeometricVE, LinearVP, RectifiedFlow, SigmaSchedule
from retro_diffusion.times import karras, uniform

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def points(n=6, scale=80.0):
    return scale * torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)


def algorithm_2(oracle, x, times, *, churn, s_min, s_max, s_noise, generator):
    """Algorithm 2 of Karras et al. 2022, line by line."""
    n = len(times) - 1
    for t, s in pairwise(times.tolist()):
        gamma = min(churn / n, math.sqrt(2) - 1) if s_min <= t <= s_max else 0.0
        t_hat = min(t + gamma * t, oracle.schedule.t_max)
        if gamma > 0:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + math.sqrt(t_hat**2 - t**2) * s_noise * z
        d = (x - oracle(x, f64(t_hat)[0]).x0) / t_hat
        there = x + (s - t_hat) * d
        if s != 0:
            d_there = (there - oracle(there, f64(s)[0]).x0) / s
            there = x + (s - t_hat) * (d / 2 + d_there / 2)
        x = there
        yield x


@pytest.mark.parametrize(
    "options",
    [
        {"churn": 5.0, "s_min": 0.0, "s_max": math.inf, "s_noise": 1.0},
        {"churn": 1000.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
    ],
)
def test_it_follows_algorithm_2_step_by_step(options):
    oracle, times = mixture(SigmaSchedule()), karras(12)
    ours = edm_stochastic(oracle, points(), times, generator=seeded(2), **options)
    theirs = algorithm_2(oracle, points(), times, generator=seeded(2), **options)
    for state, x in zip(ours, theirs, strict=True):
        torch.testing.assert_close(state.x, x, rtol=1e-9, atol=1e-9)


def test_without_churn_it_is_heuns_method_step_by_step():
    oracle, times = mixture(SigmaSchedule()), karras(12)
    for a, b in zip(
        edm_stochastic(oracle, points(), times, churn=0.0),
        heun(oracle, points(), times),
        strict=True,
    ):
        assert torch.equal(a.x, b.x) and torch.equal(a.t, b.t)


@pytest.mark.parametrize("bounds", [{"s_min": 81.0}, {"s_max": 1e-4}])
def test_outside_its_range_nothing_is_churned(bounds):
    oracle, times = mixture(SigmaSchedule()), karras(12)
    ours = last(edm_stochastic(oracle, points(), times, churn=40.0, **bounds))
    assert torch.equal(ours, last(heun(oracle, points(), times)))


def test_the_noise_level_is_never_raised_above_the_schedule_s():
    class Asked:
        schedule = SigmaSchedule(t_max=10.0)

        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return mixture(self.schedule)(x_t, t)

    asked = []
    last(edm_stochastic(Asked(), points(), f64(10.0, 9.0, 1.0), churn=2.0, generator=seeded(1)))
    assert max(asked) == 10.0 and asked[2] == 10.0  # from 9 it would have gone to 12.7


@pytest.mark.parametrize("churn", [10.0, 40.0])
def test_churn_keeps_the_law(churn):
    # Adding noise and stepping down both lead from marginal to marginal. The variance, from each step's
    # gain and noise, read off two runs with the same draw: no sampling error, only Heun's.
    oracle = Gaussian(SigmaSchedule(), f64(0.0), f64([0.25]))
    levels = karras(100, 0.02, 20.0)[:-1]
    z = float(torch.randn(1, 1, generator=seeded(3), dtype=torch.float64))
    v = 0.25 + 20.0**2
    for step in torch.stack([levels[:-1], levels[1:]], 1):
        noise, end = (
            float(
                last(edm_stochastic(oracle, f64([x]), step, churn=churn / 99, generator=seeded(3)))
            )
            for x in (0.0, 1.0)
        )
        v = (end - noise) ** 2 * v + (noise / z) ** 2
    assert v == pytest.approx(0.25 + 0.02**2, rel=0.02)


@pytest.mark.parametrize("schedule", [LinearVP(), GeometricVE(), RectifiedFlow()])
def test_paths_whose_time_is_not_the_noise_level_are_refused(schedule):
    with pytest.raises(ValueError, match="needs a SigmaSchedule"):
        last(edm_stochastic(mixture(schedule), points(), uniform(schedule, 5)))


@pytest.mark.parametrize("churn", [-1.0, math.nan])
def test_a_negative_churn_is_refused(churn):
    with pytest.raises(ValueError, match="churn"):
        last(edm_stochastic(mixture(SigmaSchedule()), points(), karras(5), churn=churn))
