"""The reverse SDE's solvers: their formulas, their correctors, and where they are refused.

Their order of convergence is in convergence_test.py, by exact variances.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.samplers import (
    euler,
    euler_maruyama,
    euler_maruyama_step,
    last,
    predictor_corrector,
    reverse_diffusion_step,
)
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    linear,
)
from retro_diffusion.times import uniform

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.4, f64(1, 3))


def points(n=6, seed=1):
    return torch.randn(n, 2, generator=seeded(seed), dtype=torch.float64)


# ---- Formulas of the paper ---------------------------------------------------------------------


def test_on_a_variance_exploding_path_reverse_diffusion_is_algorithm_2():
    for schedule, (t, s) in ((GeometricVE(), f64(0.6, 0.5)), (SigmaSchedule(), f64(3.0, 2.0))):
        x, oracle = points(), mixture(schedule)
        z = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
        added = schedule.sigma(t) ** 2 - schedule.sigma(s) ** 2
        expected = x + added * oracle.score(x, t) + added.sqrt() * z
        end = reverse_diffusion_step(schedule, x, oracle(x, t), t, s, seeded(2))
        torch.testing.assert_close(end, expected, rtol=1e-10, atol=1e-10)


def test_on_a_chain_reverse_diffusion_is_algorithm_3():
    schedule, x = linear(), points()
    oracle = mixture(schedule)
    z = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    for step in (2, 500, 1000):
        t, beta = f64(step)[0], schedule.betas[step - 1]
        expected = (2 - (1 - beta).sqrt()) * x + beta * oracle.score(x, t) + beta.sqrt() * z
        end = reverse_diffusion_step(schedule, x, oracle(x, t), t, t - 1, seeded(2))
        torch.testing.assert_close(end, expected, rtol=1e-9, atol=1e-9)


def test_on_the_linear_path_euler_maruyama_is_equation_6_with_the_rates_of_equation_11():
    schedule, x, (t, s) = LinearVP(), points(), f64(0.6, 0.55)
    oracle, beta, dt = mixture(schedule), 0.1 + 19.9 * 0.6, 0.05
    z = torch.randn(6, 2, generator=seeded(2), dtype=torch.float64)
    for eta in (0.0, 0.7, 1.0):
        drift = -beta / 2 * x - (1 + eta**2) / 2 * beta * oracle.score(x, t)
        expected = x - dt * drift + eta * math.sqrt(beta * dt) * z
        end = euler_maruyama_step(schedule, x, oracle(x, t), t, s, seeded(2), eta=eta)
        torch.testing.assert_close(end, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "schedule", [LinearVP(), SubVP(), CosineVP(), GeometricVE(), SigmaSchedule()]
)
def test_with_eta_0_euler_maruyama_is_eulers_method(schedule):
    times, x = uniform(schedule, 12, schedule.t_max / 20), schedule.t_max * points()
    ours = list(euler_maruyama(mixture(schedule), x, times, eta=0.0, generator=seeded(2)))
    for a, b in zip(ours, euler(mixture(schedule), x, times), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [euler_maruyama_step, reverse_diffusion_step])
def test_the_step_to_sigma_0_adds_no_noise_and_returns_the_mean(step):
    schedule, x = SigmaSchedule(), points()
    t, s = f64(0.1, 0.0)
    prediction = mixture(schedule)(x, t)
    ends = [step(schedule, x, prediction, t, s, seeded(i)) for i in (1, 2)]
    assert torch.equal(*ends)
    g2_dt = {euler_maruyama_step: 2 * 0.1 * 0.1, reverse_diffusion_step: 0.1**2}[step]
    expected = x + g2_dt * mixture(schedule).score(x, t)
    torch.testing.assert_close(ends[0], expected, rtol=1e-9, atol=1e-9)


# ---- Predictor and corrector -------------------------------------------------------------------


@pytest.mark.parametrize("predictor", [reverse_diffusion_step, euler_maruyama_step])
def test_without_corrections_predictor_corrector_is_its_predictor(predictor):
    schedule, x, generator = LinearVP(), points(), seeded(2)
    oracle, times = mixture(schedule), uniform(schedule, 8, 1e-2)
    run = predictor_corrector(
        oracle, x, times, predictor=predictor, n_corrector_steps=0, generator=seeded(2)
    )
    for (t, s), state in zip(pairwise(times), run, strict=True):
        x = predictor(schedule, x, oracle(x, t), t, s, generator)
        torch.testing.assert_close(state.x, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "schedule", [LinearVP(), GeometricVE(), linear(), SubVP()], ids=lambda s: type(s).__name__
)
def test_a_correction_is_a_langevin_step_of_the_size_of_algorithms_4_and_5(schedule):
    # eps = 2 alpha (r |z| / |score|)^2, alpha being the squared signal scale; x + eps score +
    # sqrt(2 eps) z, with the z whose norm is taken.
    times, snr, x = uniform(schedule, 10)[3:5], 0.16, points(50)
    oracle, s = mixture(schedule), uniform(schedule, 10)[4]
    ours = predictor_corrector(oracle, x, times, n_corrector_steps=2, snr=snr, generator=seeded(2))
    generator = seeded(2)
    x = reverse_diffusion_step(schedule, x, oracle(x, times[0]), times[0], s, generator)
    for _ in range(2):
        score = oracle.score(x, s)
        z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        ratio = z.norm(dim=1).mean() / score.norm(dim=1).mean()
        size = 2 * schedule.alpha(s) ** 2 * (snr * ratio) ** 2
        x = x + size * score + (2 * size).sqrt() * z
    torch.testing.assert_close(last(ours), x, rtol=1e-9, atol=1e-9)


def test_corrections_repair_a_predictor_that_is_wrong():
    # Claim (iii) of the specification: with a damaged score (0.7 of the right one) the corrector pulls
    # the variance back, at equal NFE. The law of every step is linear in x: read off, not sampled.
    class Damaged:
        schedule = SigmaSchedule(t_max=10.0)

        def __call__(self, x_t, t, cond=None):
            prediction = Gaussian(self.schedule, f64(0.0), f64([0.25]))(x_t, t)
            return prediction._replace(eps=0.7 * prediction.eps)

    def spread(n_steps, n_corrector_steps):
        times = 10 * 0.02 ** torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
        x = 10 * torch.randn(4000, 1, generator=seeded(1), dtype=torch.float64)
        run = predictor_corrector(
            Damaged(), x, times, n_corrector_steps=n_corrector_steps, generator=seeded(2)
        )
        return float(last(run).var()) / (0.25 + 0.2**2)

    without, corrected = spread(200, 0), spread(100, 1)
    assert abs(math.log(corrected)) < 0.8 * abs(math.log(without))


def test_nothing_is_corrected_where_sigma_is_0():
    class Counting:
        schedule = LinearVP()

        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return mixture(self.schedule)(x_t, t)

    asked = []
    states = predictor_corrector(
        Counting(), points(), f64(0.6, 0.3, 0.0), n_corrector_steps=2, generator=seeded(1)
    )
    assert torch.isfinite(last(states)).all()
    assert asked == [0.6, 0.3, 0.3, 0.3]


# ---- Refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [euler_maruyama, predictor_corrector])
@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP(t_max=1.0)])
def test_a_start_without_signal_is_refused_because_the_drift_is_singular_there(sampler, schedule):
    with pytest.raises(ValueError, match=r"singular at times\[0\] = 1, where alpha = 0"):
        last(sampler(mixture(schedule), points(), uniform(schedule, 5)))
    last(sampler(mixture(schedule), points(), uniform(schedule, 5)[1:], generator=seeded(1)))


@pytest.mark.parametrize(
    ("sampler", "what"),
    [
        (partial(euler_maruyama, eta=-0.1), "eta"),
        (partial(euler_maruyama, eta=math.nan), "eta"),
        (partial(predictor_corrector, n_corrector_steps=-1), "n_corrector_steps"),
        (partial(predictor_corrector, snr=0.0), "snr"),
        (partial(predictor_corrector, snr=math.nan), "snr"),
    ],
)
def test_options_out_of_range_are_refused(sampler, what):
    with pytest.raises(ValueError, match=what):
        last(sampler(mixture(LinearVP()), points(), uniform(LinearVP(), 5)))
