"""Every sampler on every path it supports, on data whose law is known, at a stated cost.

What a sampler returns is compared with fresh draws of the exact law by the energy distance, and that
with its floor: the same distance between two sets of fresh draws. Starts come from the exact marginal,
so that the sampler alone is graded. The same criterion refuses samplers that are wrong.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch

from retro_diffusion.data.digits import digits
from retro_diffusion.evaluation import energy_distance, frechet_distance, pca_features
from retro_diffusion.learned_schedule import LearnedVP
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import from_x0
from retro_diffusion.samplers import (
    adaptive,
    ancestral,
    annealed_langevin,
    ddim,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    edm_stochastic,
    euler,
    euler_maruyama,
    euler_maruyama_step,
    heun,
    last,
    predictor_corrector,
    released_langevin_step,
    unipc,
)
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    SubVP,
    cosine,
    linear,
    rescale_zero_terminal_snr,
    scaled_linear,
)
from retro_diffusion.times import at_levels, geometric, karras, trailing

torch.set_num_threads(1)

N = 1000
LIMIT = 2.5  # times the floor

SCHEDULES = {
    "LinearVP": LinearVP(),
    "SubVP": SubVP(),
    "CosineVP": CosineVP(),
    "CosineVP to alpha = 0": CosineVP(t_max=1.0),
    "GeometricVE": GeometricVE(),
    "SigmaSchedule": SigmaSchedule(),
    "RectifiedFlow": RectifiedFlow(),
    "linear": linear(),
    "cosine": cosine(),
    "scaled_linear": scaled_linear(),
    "linear to alpha = 0": rescale_zero_terminal_snr(linear()),
    "LearnedVP": LearnedVP(),
}
WITHOUT_SIGNAL = {"CosineVP to alpha = 0", "RectifiedFlow", "linear to alpha = 0"}
EVERY = frozenset(SCHEDULES)
# alpha_dot is infinite where a chain ends at alpha = 0: the square root of a line
DIFFERENTIABLE = EVERY - {"linear to alpha = 0"}


class Case(NamedTuple):
    """A sampler, the steps of its grid, its paths, and where it starts.

    ``from_no_signal``: the paths on which it starts at alpha = 0, where they have that; elsewhere at the
    noise level ``high``, or what the path reaches.
    """

    sampler: Callable
    n_steps: int
    paths: frozenset = EVERY
    from_no_signal: frozenset = frozenset()
    high: float = 50.0


CASES = {
    "ddim": Case(ddim, 40, EVERY, EVERY),
    "ddim eta=0.5": Case(partial(ddim, eta=0.5), 60, EVERY, EVERY),
    "ddim eta=1": Case(partial(ddim, eta=1.0), 100, EVERY, EVERY),
    "ancestral": Case(ancestral, 100, EVERY, EVERY),
    "euler": Case(euler, 60, EVERY - {"GeometricVE"}, DIFFERENTIABLE),
    "euler slowly": Case(euler, 400, frozenset({"GeometricVE"})),
    "heun": Case(heun, 20, EVERY, DIFFERENTIABLE),
    "adaptive": Case(partial(adaptive, rtol=1e-3, atol=1e-3), 2, EVERY, DIFFERENTIABLE),
    "dpm_solver_pp_2s": Case(dpm_solver_pp_2s, 12),
    "dpm_solver_pp_2m": Case(dpm_solver_pp_2m, 20, EVERY, EVERY),
    "dpm_solver_pp_3m": Case(dpm_solver_pp_3m, 20),
    "unipc": Case(unipc, 15),
    "unipc order=3": Case(partial(unipc, order=3), 15),
    "euler_maruyama": Case(euler_maruyama, 60),
    "predictor_corrector": Case(partial(predictor_corrector, snr=0.1), 50),
    "predictor_corrector euler": Case(
        partial(predictor_corrector, predictor=euler_maruyama_step, snr=0.1),
        60,
        frozenset({"LinearVP", "GeometricVE", "linear"}),
    ),
    "annealed_langevin": Case(partial(annealed_langevin, n_steps=40, step_size=3e-4), 14, high=3.0),
    "annealed_langevin released": Case(
        partial(annealed_langevin, n_steps=40, step_size=1.5e-4, step=released_langevin_step),
        14,
        frozenset({"SigmaSchedule"}),
        high=3.0,
    ),
    "edm_stochastic": Case(partial(edm_stochastic, churn=10.0), 25, frozenset({"SigmaSchedule"})),
}
RANDOM = ("eta=", "ancestral", "euler_maruyama", "predictor", "langevin", "edm")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(schedule):
    return Gaussian(schedule, f64(0.4, -0.3), f64([0.25, 0.1], [0.1, 0.5]))


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.3, f64(1, 3))


ORACLES = {"gaussian": gaussian, "mixture": mixture}


def grid(case, name, n_steps):
    """Noise levels from ``case.high`` to 0.03, by one factor; and the ends of the path."""
    schedule = SCHEDULES[name]
    with torch.no_grad():
        start, end = f64(schedule.t_max), f64(schedule.t_min)
        high = min(case.high, 0.999 * float(schedule.sigma(start) / schedule.alpha(start)))
        times = at_levels(schedule, geometric(n_steps, 0.03, high))
        start = start[: name in WITHOUT_SIGNAL and name in case.from_no_signal]
        end = end[: float(schedule.sigma(end)) == 0 and case != CASES["adaptive"]]
        return torch.cat([start, times, end])


def draw(oracle, n, t, seed):
    """Draws of the exact marginal."""
    with torch.no_grad():
        z = torch.randn(n, 2, generator=seeded(seed + 50), dtype=torch.float64)
        alpha, sigma = oracle.schedule.alpha(t), oracle.schedule.sigma(t)
        return alpha * oracle.sample(n, seeded(seed)) + sigma * z


@functools.cache
def floor(oracle_name):
    """Mean energy distance of two sets of N draws of the data."""
    oracle = ORACLES[oracle_name](SigmaSchedule())
    sets = [oracle.sample(N, seeded(seed)) for seed in range(100, 110)]
    pairs = zip(sets[::2], sets[1::2], strict=True)
    return sum(energy_distance(a, b) for a, b in pairs) / 5


def ratio(oracle_name, denoiser, name, times, sampler=None, seed=1):
    """Energy distance of the samples to the exact law, in units of the floor; and the samples."""
    oracle = ORACLES[oracle_name](denoiser.schedule)
    options = {"generator": seeded(seed + 1)} if any(part in name for part in RANDOM) else {}
    x = draw(oracle, N, times[0], seed)
    end = last((sampler or CASES[name].sampler)(denoiser, x, times, **options))
    reference = draw(oracle, N, times[-1], seed + 2)
    return energy_distance(end, reference) / floor(oracle_name), end


MATRIX = [
    (name, schedule_name)
    for name, case in CASES.items()
    for schedule_name in SCHEDULES
    if schedule_name in case.paths
]


@pytest.mark.parametrize(("name", "schedule_name"), MATRIX)
def test_samples_follow_the_exact_law(name, schedule_name):
    case = CASES[name]
    times = grid(case, schedule_name, case.n_steps)
    for oracle_name, make in ORACLES.items():
        found, end = ratio(oracle_name, make(SCHEDULES[schedule_name]), name, times)
        assert found < LIMIT
    share = float((end @ f64(2, 0.5) > 0.125).double().mean())  # nearer to the second centre
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / N) + 0.02)


def test_the_floor_is_reached_by_fresh_draws():
    for oracle_name, make in ORACLES.items():
        oracle = make(SigmaSchedule())
        found = energy_distance(oracle.sample(N, seeded(7)), oracle.sample(N, seeded(8)))
        assert 0.2 < found / floor(oracle_name) < 2.5


@pytest.mark.parametrize("sampler", [euler, heun, adaptive])
def test_a_chain_that_ends_at_alpha_0_has_no_velocity_there(sampler):
    # As the tabulated path is interpolated: use ddim, ancestral or 2M from there, or start below it.
    schedule = SCHEDULES["linear to alpha = 0"]
    with pytest.raises(
        FloatingPointError, match="not finite (after the step to t = 900|at t = 1000)"
    ):
        last(sampler(mixture(schedule), torch.ones(3, 2), f64(1000, 900, 500)))


# ---- Negative controls: the criterion refuses what is wrong --------------------------------------


class Wrong:
    """A denoiser whose x0 is scaled; eps follows."""

    def __init__(self, denoiser, scale):
        self.denoiser, self.schedule, self.scale = denoiser, denoiser.schedule, scale

    def __call__(self, x_t, t, cond=None):
        return from_x0(self.schedule, x_t, self.scale * self.denoiser(x_t, t).x0, t)


@pytest.mark.parametrize("scale", [-1.0, 0.9])
@pytest.mark.parametrize(
    "name", ["ddim", "heun", "ancestral", "dpm_solver_pp_2m", "edm_stochastic"]
)
def test_a_denoiser_with_the_wrong_sign_or_a_tenth_too_little_signal_is_refused(name, scale):
    schedule = SCHEDULES["SigmaSchedule"]
    times = grid(CASES[name], "SigmaSchedule", CASES[name].n_steps)
    for oracle_name, make in ORACLES.items():
        assert ratio(oracle_name, Wrong(make(schedule), scale), name, times)[0] > LIMIT


@pytest.mark.parametrize(
    ("name", "n_steps"), [("ddim", 5), ("ddim eta=1", 10), ("euler_maruyama", 10), ("heun", 4)]
)
def test_too_few_steps_are_refused(name, n_steps):
    times = grid(CASES[name], "LinearVP", n_steps)
    worst = max(ratio(o, make(LinearVP()), name, times)[0] for o, make in ORACLES.items())
    assert worst > LIMIT


def test_langevin_s_two_conventions_mixed_up_are_refused():
    # Noise of the released step with the drift of the paper's: twice the temperature.
    def mixed(x, score, size, generator):
        return released_langevin_step(x, score / 2, size, generator)

    case = CASES["annealed_langevin"]
    sampler = partial(case.sampler, step=mixed)
    times = grid(case, "SigmaSchedule", case.n_steps)
    found, _ = ratio("mixture", mixture(SigmaSchedule()), "annealed_langevin", times, sampler)
    assert found > LIMIT


# ---- Digits: image-like geometry, exact score ----------------------------------------------------


@functools.cache
def digits_data():
    x = digits().x.double()
    return x, pca_features(x, 20)


DIGITS = {
    "ddim": (ddim, linear(), 20),
    "ddim eta=1": (partial(ddim, eta=1.0), linear(), 50),
    "heun": (heun, SigmaSchedule(), 12),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m, SigmaSchedule(), 15),
    "unipc": (unipc, SigmaSchedule(), 12),
}


def digits_frechet(name, n_steps, n=500):
    sampler, schedule, _ = DIGITS[name]
    means, features = digits_data()
    oracle = GaussianMixture(schedule, means, 0.1)
    options = {"generator": seeded(2)} if "eta" in name else {}
    times = trailing(schedule, n_steps) if schedule.t_max == 1000 else karras(n_steps)
    t = times[0]
    x = schedule.alpha(t) * oracle.sample(n, seeded(1))
    x = x + schedule.sigma(t) * torch.randn(x.shape, generator=seeded(3), dtype=x.dtype)
    end = last(sampler(oracle, x, times, **options))
    exact = [features(oracle.sample(n, seeded(seed))) for seed in (4, 5)]
    return frechet_distance(features(end), exact[0]) / frechet_distance(exact[1], exact[0])


@pytest.mark.parametrize("name", DIGITS)
def test_digits_follow_the_exact_law_to_twice_the_floor(name):
    assert digits_frechet(name, DIGITS[name][2]) < 2.0


@pytest.mark.parametrize(("name", "n_steps"), [("ddim", 5), ("ddim eta=1", 8)])
def test_digits_in_too_few_steps_are_refused(name, n_steps):
    assert digits_frechet(name, n_steps) > 2.0
