"""Ancestral sampling and DDIM on data whose answer is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.oracles import Gaussian, GaussianMixture
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import learned_variance, lower_variance, upper_variance
from retro_diffusion.samplers import (
    State,
    ancestral,
    ddim,
    ddim_inversion,
    ddim_step,
    last,
    starting_noise,
)
from retro_diffusion.schedules import (
    CosineVP,
    GeometricVE,
    LinearVP,
    RectifiedFlow,
    SigmaSchedule,
    cosine,
    linear,
)
from retro_diffusion.times import leading, trailing, uniform

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(schedule, s2=0.25, mean=0.0):
    return Gaussian(schedule, f64(mean), f64([s2]))


SAMPLERS = {
    "ddim": ddim,
    "ddim eta=1": lambda *a, **k: ddim(*a, eta=1.0, **k),
    "ancestral": ancestral,
    "ancestral upper": lambda *a, **k: ancestral(*a, variance=upper_variance, **k),
}


# ---- Exact recursions --------------------------------------------------------------------------


def affine_law(schedule, s2, times, step_of_pair):
    """Variance after a sampler that maps (x0_hat, eps_hat) linearly and adds noise of known variance.

    For a centred Gaussian the pair is (alpha s2 / v, sigma / v) x.
    """
    variance = 1.0
    for t, s in pairwise(times):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        v = alpha**2 * s2 + sigma**2
        of_x0, of_eps, noise = step_of_pair(t, s)
        variance = (of_x0 * alpha * s2 / v + of_eps * sigma / v) ** 2 * variance + noise
    return variance


def ddim_law(schedule, eta):
    def step_of_pair(t, s):
        now, before = float(schedule.alpha(t)) ** 2, float(schedule.alpha(s)) ** 2
        tau2 = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
        return math.sqrt(before), math.sqrt(max(0.0, 1 - before - tau2)), tau2

    return step_of_pair


@pytest.mark.parametrize(
    ("n_steps", "eta", "distance"),
    [
        (20, 0.0, 0.0686),
        (20, 1.0, 0.1085),
        (50, 0.0, 0.0286),
        (50, 1.0, 0.0559),
        (1000, 0.0, 0.0015),
        (1000, 1.0, 0.0039),
    ],
)
def test_distance_to_the_data_after_few_steps(n_steps, eta, distance):
    # W2 between two centred Gaussians is the difference of their standard deviations.
    schedule = linear()
    grid = trailing(schedule, n_steps)
    variance = affine_law(schedule, 0.25, grid, ddim_law(schedule, eta))
    assert abs(math.sqrt(variance) - 0.5) == pytest.approx(distance, abs=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n_steps", [2, 10, 37])
def test_ddim_follows_its_variance_recursion(eta, n_steps):
    schedule, n = linear(), 40_000
    grid = trailing(schedule, n_steps)
    law = affine_law(schedule, 0.25, grid, ddim_law(schedule, eta))
    x = torch.randn(n, 1, generator=seeded(1), dtype=torch.float64)
    end = last(ddim(gaussian(schedule), x, grid, eta=eta, generator=seeded(2)))
    assert float(end.var()) == pytest.approx(law, rel=4 * math.sqrt(2 / n))
    if eta == 0:  # no noise: the slope is the square root, to the last digits
        torch.testing.assert_close((end / x) ** 2, torch.full_like(x, law), rtol=1e-12, atol=0)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("n_steps", [2, 10, 37])
def test_ancestral_sampling_follows_its_variance_recursion(upper, n_steps):
    schedule, n, s2 = linear(), 40_000, 0.25
    grid, law = trailing(schedule, n_steps), 1.0
    for t, s in pairwise(grid):
        now, before = float(schedule.alpha(t)) ** 2, float(schedule.alpha(s)) ** 2
        beta = (
            1 - now / before
        )  # equation 19 of Nichol and Dhariwal: the betas of the respaced chain
        of_x0 = math.sqrt(before) * beta / (1 - now)
        of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        slope = of_x_t + of_x0 * math.sqrt(now) * s2 / (now * s2 + 1 - now)
        variance = beta if upper else beta * (1 - before) / (1 - now)
        law = slope**2 * law + (variance if before < 1 else 0.0)
    x = torch.randn(n, 1, generator=seeded(1), dtype=torch.float64)
    variance = upper_variance if upper else lower_variance
    end = last(ancestral(gaussian(schedule), x, grid, variance=variance, generator=seeded(2)))
    assert float(end.var()) == pytest.approx(law, rel=4 * math.sqrt(2 / n))


def test_ddim_is_of_first_order():
    schedule = linear()
    oracle, x = gaussian(schedule, 0.25, 0.4), f64([1.3], [-0.2])
    exact = oracle.flow(x, f64(1000.0)[0], f64(0.0)[0])
    errors = [
        float((last(ddim(oracle, x, uniform(schedule, n))) - exact).abs().max())
        for n in (64, 128, 256)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.9 < slope < 1.15 for slope in slopes)


def test_on_rectified_flow_ddim_is_eulers_method():
    oracle, x = gaussian(RectifiedFlow(), 0.25, 0.4), f64([1.3], [-0.2])
    euler = x
    for t, s in pairwise(uniform(RectifiedFlow(), 10)):
        x0, eps, _ = oracle(euler, t)
        euler = euler + (s - t) * (eps - x0)
    torch.testing.assert_close(last(ddim(oracle, x, uniform(RectifiedFlow(), 10))), euler)


def test_ddim_can_be_run_backwards():
    schedule, x = linear(), f64([1.3], [-0.2])
    oracle = gaussian(schedule)
    t, s = f64(500.0, 510.0)
    up = ddim_step(schedule, oracle(x, t), t, s)
    back = ddim_step(schedule, oracle(up, s), s, t)
    torch.testing.assert_close(back, x, rtol=2e-3, atol=0)


def test_inversion_asks_where_each_step_begins_except_at_the_data():
    asked = []

    class Spy:
        schedule = linear()

        def __call__(self, x_t, t, cond=None):
            asked.append(float(t))
            return gaussian(self.schedule)(x_t, t)

    grid = trailing(linear(), 5)
    states = list(ddim_inversion(Spy(), torch.ones(2, 1), grid))
    assert asked == [200.0, 200.0, 400.0, 600.0, 800.0]
    assert [float(s.t) for s in states] == grid.flip(0)[1:].tolist()


def test_a_step_of_inversion_noises_a_pair_that_adds_up_to_the_sample():
    schedule, x, grid = linear(), f64([3.0], [-0.5]), trailing(linear(), 5)
    states = ddim_inversion(gaussian(schedule), x, grid)
    for state, (s, t) in zip(states, pairwise(grid.flip(0)), strict=True):
        torch.testing.assert_close(schedule.add_noise(*state.prediction[:2], s), x)
        torch.testing.assert_close(schedule.add_noise(*state.prediction[:2], t), state.x)
        x = state.x


def test_encoding_finds_the_latent_of_the_exact_flow_and_decoding_returns():
    schedule, oracle, x0 = linear(), gaussian(linear(), 0.25, 0.4), f64([0.9], [0.1])
    latent = oracle.flow(x0, f64(0.0)[0], f64(1000.0)[0])
    wrong, trips = [], []
    for n in (100, 200, 400):
        grid = uniform(schedule, n)
        encoded = last(ddim_inversion(oracle, x0, grid))
        wrong.append(float((encoded - latent).abs().max()))
        trips.append(float((last(ddim(oracle, encoded, grid)) - x0).abs().max()))
    for errors in (wrong, trips):  # of first order
        assert all(b == pytest.approx(a / 2, rel=0.15) for a, b in pairwise(errors))


# ---- Identities --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [linear(), CosineVP(), GeometricVE(), RectifiedFlow()])
def test_ddim_with_eta_1_is_ancestral_sampling_step_by_step(schedule):
    oracle = GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.3)
    x = starting_noise(schedule, (5, 2), generator=seeded(1), dtype=torch.float64)
    grid = uniform(schedule, 12)
    ours = ddim(oracle, x, grid, eta=1.0, generator=seeded(2))
    theirs = ancestral(oracle, x, grid, variance=lower_variance, generator=seeded(2))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)
        assert torch.equal(a.t, b.t)


def test_the_noise_of_a_step_has_variance_eta_squared_times_the_posterior_s():
    schedule, (t, s) = linear(), f64(600.0, 400.0)
    now, before = float(schedule.alpha(t)) ** 2, float(schedule.alpha(s)) ** 2
    posterior = (1 - before) / (1 - now) * (1 - now / before)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    z = torch.randn(1, 1, generator=seeded(3), dtype=torch.float64)
    for eta in (0.3, 0.5, 1.0):
        x = ddim_step(schedule, Prediction(zero, zero), t, s, eta=eta, generator=seeded(3))
        torch.testing.assert_close(x, eta * math.sqrt(posterior) * z)


@pytest.mark.parametrize(("fraction", "like"), [(0.0, lower_variance), (1.0, upper_variance)])
def test_learned_variance_reaches_both_bounds(fraction, like):
    class Learned:
        schedule = linear()

        def __call__(self, x_t, t, cond=None):
            x0, eps, _ = gaussian(self.schedule)(x_t, t)
            return Prediction(x0, eps, torch.full_like(x_t, fraction))

    x, grid = torch.randn(4, 1, generator=seeded(1), dtype=torch.float64), trailing(linear(), 20)
    learned = last(ancestral(Learned(), x, grid, variance=learned_variance, generator=seeded(2)))
    fixed = last(ancestral(gaussian(linear()), x, grid, variance=like, generator=seeded(2)))
    torch.testing.assert_close(learned, fixed)


# ---- The law of the samples --------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [cosine(), LinearVP(), SigmaSchedule()])
def test_samplers_reach_an_exact_mixture(name, schedule):
    n, oracle = 4000, GaussianMixture(schedule, f64([-1, 0], [1, 0.5]), 0.3, f64(1, 3))
    x = starting_noise(schedule, (n, 2), generator=seeded(1), dtype=torch.float64)
    if isinstance(schedule, SigmaSchedule):  # evenly spaced roots: far fewer steps at high noise
        grid = schedule.t_max * torch.linspace(1, 0, 61, dtype=torch.float64) ** 4
    else:
        grid = uniform(schedule, 60)
    samples = last(SAMPLERS[name](oracle, x, grid, generator=seeded(2)))
    right = samples @ f64(2, 0.5) > 0.125  # nearer to the second centre
    share = float(right.double().mean())
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / n) + 0.02)
    for side, centre in ((~right, f64(-1, 0)), (right, f64(1, 0.5))):
        cluster = samples[side]
        torch.testing.assert_close(cluster.mean(0), centre, rtol=0, atol=4 * 0.3 / 900**0.5 + 0.02)
        assert float(cluster.std(0).mean()) == pytest.approx(0.3, rel=4 / (2 * 1800) ** 0.5 + 0.1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_hand_cond_to_the_denoiser(name):
    labels = torch.tensor([0, 1])
    oracle = GaussianMixture(linear(), f64([-1, 0], [1, 0]), 0.05, labels=labels)
    x = starting_noise(linear(), (6, 2), generator=seeded(1), dtype=torch.float64)
    cond = torch.tensor([0, 1, 0, 1, 1, 0])
    samples = last(SAMPLERS[name](oracle, x, trailing(linear(), 50), cond, generator=seeded(2)))
    assert torch.equal(samples[:, 0] > 0, cond == 1)


# ---- Trajectories ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_adds_no_noise(name):
    oracle = gaussian(linear())
    x = torch.randn(4, 1, generator=seeded(1), dtype=torch.float64)
    states = list(SAMPLERS[name](oracle, x, trailing(linear(), 10), generator=seeded(2)))
    torch.testing.assert_close(states[-1].x, states[-1].prediction.x0)


@pytest.mark.parametrize(
    ("name", "s2"),
    [("ddim", 1e-6), ("ddim eta=1", 1e-6), ("ancestral", 1e-6), ("ancestral upper", 1.0)],
)
def test_a_grid_that_stops_early_ends_in_noise(name, s2):
    # Each sampler on the law for which its variance is right: one point, or N(0, 1) for the upper.
    oracle, x = gaussian(linear(), s2), torch.randn(4000, 1, generator=seeded(1))
    end = last(SAMPLERS[name](oracle, x, f64(1000.0, 600.0, 300.0), generator=seeded(2)))
    right = float(oracle.marginal_variances(f64(300.0)[0]).sqrt())
    assert float(end.std()) == pytest.approx(right, rel=4 / math.sqrt(8000) + 0.005)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trajectory_has_a_state_per_step_and_an_evaluation_each(name):
    calls = []

    class Counting:
        schedule = linear()

        def __call__(self, x_t, t, cond=None):
            calls.append(float(t))
            return gaussian(self.schedule)(x_t, t)

    grid = leading(linear(), 7)
    states = SAMPLERS[name](Counting(), torch.ones(2, 1), grid, generator=seeded(2))
    assert not calls  # nothing runs until asked
    first = next(states)
    assert isinstance(first, State) and len(calls) == 1
    assert [float(first.t), *(float(s.t) for s in states)] == grid[1:].tolist()
    assert calls == grid[:-1].tolist()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_keep_shape_and_dtype_and_follow_the_generator(name, shape, dtype):
    means = torch.linspace(-1, 1, 2 * math.prod(shape[1:])).reshape(2, *shape[1:])
    oracle = Clipped(GaussianMixture(linear(), means, 0.1))
    x = starting_noise(linear(), shape, generator=seeded(1), dtype=dtype)
    runs = [
        last(SAMPLERS[name](oracle, x, trailing(linear(), 5), generator=seeded(s)))
        for s in (2, 2, 3)
    ]
    assert runs[0].shape == shape and runs[0].dtype == dtype
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2]) == (name == "ddim")


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_builds_no_graph(name):
    denoiser = Denoiser(torch.nn.Identity(), linear())
    denoiser.network.forward = lambda x, c_noise, cond: x
    x = torch.ones(2, 1, requires_grad=True)
    assert not last(SAMPLERS[name](denoiser, x, trailing(linear(), 3))).requires_grad
    assert torch.is_grad_enabled()


# ---- Starts, ends, errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "variance"),
    [
        (linear(), 1.0),
        (RectifiedFlow(), 1.0),
        (SigmaSchedule(), 6401.0),
        (SigmaSchedule(t_max=1.0), 2.0),
        (GeometricVE(), 2501.0),
    ],
)
def test_starting_noise_has_the_variance_of_noised_unit_data(schedule, variance):
    x = starting_noise(schedule, (20_000, 1), generator=seeded(), dtype=torch.float64)
    assert float(x.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 20_000))
    assert starting_noise(schedule, (2, 1, 4, 4)).shape == (2, 1, 4, 4)
    assert starting_noise(schedule, (2, 1)).dtype == torch.float32


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("grid", [[0.0, 500.0, 1000.0], [1001.0, 0.0], [5.0], [5.0, math.nan]])
def test_grids_that_do_not_lead_down_are_refused(name, grid):
    with pytest.raises(ValueError, match=r"decreasing|outside"):
        last(SAMPLERS[name](gaussian(linear()), torch.ones(2, 1), f64(*grid)))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_lies_between_0_and_1(eta):
    with pytest.raises(ValueError, match="eta"):
        last(ddim(gaussian(linear()), torch.ones(2, 1), trailing(linear(), 5), eta=eta))


def test_the_last_of_no_states_is_an_error():
    with pytest.raises(ValueError, match="no states"):
        last([])
