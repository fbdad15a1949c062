"""The samplers of the score, SDE and solver papers against `diffusers`, step for step.

============================  ==============================================  =========
reference                     ours                                            tolerance
============================  ==============================================  =========
DDIMInverseScheduler          ddim_step upwards                               1e-5
EulerDiscrete                 euler on SigmaSchedule                          1e-5 rel
EulerAncestralDiscrete        ddim, eta = 1, on SigmaSchedule                 1e-5 rel
HeunDiscrete                  heun on SigmaSchedule                           1e-5 rel
EDMEuler                      precondition_edm, times.karras, euler           1e-5 rel
EDMDPMSolverMultistep         dpm_solver_pp_2m on SigmaSchedule               1e-5 rel
DPMSolverMultistep, order 1   ddim                                            1e-5
DPMSolverMultistep, order 2   dpm_solver_pp_2m                                1e-5
DPMSolverMultistep, order 3   the step of 3m with half its quadratic term     2e-5
DPMSolverSinglestep           dpm_solver_pp_2s                                1e-5
UniPCMultistep, order 2, 3    unipc                                           1e-5
ScoreSdeVe, step_pred         reverse_diffusion_step on GeometricVE           1e-5 rel
ScoreSdeVe, step_correct      corrector_step                                  1e-5 rel
FlowMatchEulerDiscrete        euler on RectifiedFlow                          1e-5
============================  ==============================================  =========

With those of `reference_test` (DDPM, DDIM) and of `schedules_test` (linear, squaredcos, scaled_linear,
zero-terminal-SNR) and `times_test` (timestep spacings). They compute their tables in float32; where a
scheduler reads its noise levels from an attribute, it is given ours in float64, so that the algorithm
alone is compared. One of them is wrong: see the third-order step.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)

from retro_diffusion import parameterizations
from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.parameterizations import Prediction, from_eps, precondition_edm
from retro_diffusion.samplers import (
    corrector_step,
    ddim,
    ddim_step,
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    euler,
    heun,
    last,
    reverse_diffusion_step,
    unipc,
)
from retro_diffusion.schedules import GeometricVE, RectifiedFlow, SigmaSchedule, linear
from retro_diffusion.times import geometric, karras, trailing

torch.set_num_threads(1)

SHAPE = (4, 1, 3, 3)
CHAIN = linear()


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seed, scale=1.0):
    return scale * torch.randn(SHAPE, generator=seeded(seed), dtype=torch.float64)


def mixture(schedule):
    means = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, *SHAPE[1:])
    return GaussianMixture(schedule, means, 0.3)


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs.to(ours), rtol=tolerance, atol=tolerance)


# ---- On the path x0 + sigma eps ----------------------------------------------------------------


def walk_levels(scheduler, oracle, x, levels, model_output=None, generator=None):
    """Run their loop on our noise levels: the i-th evaluation is at the i-th of their sigmas."""
    scheduler.sigmas = levels.clone()
    options = {} if generator is None else {"generator": generator}
    for i, t in enumerate(scheduler.timesteps):
        level = scheduler.sigmas[i]
        output = (model_output or (lambda x, t: oracle(x, t).eps))(x, level)
        x = scheduler.step(output, t, x, **options).prev_sample
    return x


EDM = SigmaSchedule(t_max=200.0)


def test_euler_discrete():
    scheduler, levels = EulerDiscreteScheduler(), karras(15)
    scheduler.set_timesteps(15)
    theirs = walk_levels(scheduler, mixture(EDM), noise(1, 80.0), levels)
    close(last(euler(mixture(EDM), noise(1, 80.0), levels)), theirs)


def test_euler_ancestral_is_ddim_with_eta_1():
    scheduler, levels = EulerAncestralDiscreteScheduler(), karras(15)
    scheduler.set_timesteps(15)
    theirs = walk_levels(scheduler, mixture(EDM), noise(1, 80.0), levels, generator=seeded(2))
    ours = last(ddim(mixture(EDM), noise(1, 80.0), levels, eta=1.0, generator=seeded(2)))
    close(ours, theirs)


def test_heun_discrete():
    scheduler, levels = HeunDiscreteScheduler(), karras(15)
    scheduler.set_timesteps(15)
    twice = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
    theirs = walk_levels(scheduler, mixture(EDM), noise(1, 80.0), twice)
    close(last(heun(mixture(EDM), noise(1, 80.0), levels)), theirs)


def test_edm_euler_with_its_preconditioning():
    scheduler, levels = EDMEulerScheduler(), karras(18)
    scheduler.set_timesteps(18)
    close(levels, scheduler.sigmas, 1e-6)
    oracle, coefficients = mixture(SigmaSchedule()), precondition_edm(0.5)
    x0 = oracle(noise(1, 80.0), levels[3]).x0
    output = (x0 - coefficients(EDM, levels[3]).c_skip * noise(1, 80.0)) / coefficients(
        EDM, levels[3]
    ).c_out
    close(scheduler.precondition_outputs(noise(1, 80.0), output, levels[3]), x0)
    c_in = coefficients(EDM, levels[3]).c_in
    close(c_in * noise(1, 80.0), scheduler.precondition_inputs(noise(1, 80.0), levels[3]))
    close(coefficients(EDM, levels).c_noise[:-1], scheduler.precondition_noise(levels)[:-1])

    def raw(x, t):
        c = coefficients(EDM, t)
        return (oracle(x, t).x0 - c.c_skip * x) / c.c_out

    theirs = walk_levels(scheduler, oracle, noise(1, 80.0), levels, raw)
    close(last(euler(oracle, noise(1, 80.0), levels)), theirs)


def test_edm_dpm_solver_multistep():
    scheduler, levels = EDMDPMSolverMultistepScheduler(), karras(20)
    scheduler.set_timesteps(20)
    oracle, coefficients = mixture(SigmaSchedule()), precondition_edm(0.5)

    def raw(x, t):
        c = coefficients(EDM, t)
        return (oracle(x, t).x0 - c.c_skip * x) / c.c_out

    theirs = walk_levels(scheduler, oracle, noise(1, 80.0), levels, raw)
    close(last(dpm_solver_pp_2m(oracle, noise(1, 80.0), levels)), theirs)


def test_exponential_levels_are_geometric_ones():
    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=1.0, sigma_schedule="exponential")
    scheduler.set_timesteps(10)
    close(geometric(10, 0.01, 1.0), scheduler.sigmas[:-1], 1e-6)


# ---- On DDPM's chain ---------------------------------------------------------------------------


def levels_of(grid):
    return CHAIN.sigma(grid) / CHAIN.alpha(grid)


def walk_chain(scheduler, grid, x, levels=None):
    """Run their loop down our grid of the chain, with the exact eps."""
    oracle = mixture(CHAIN)
    scheduler.sigmas = levels_of(grid) if levels is None else levels
    for t, k in zip(grid, scheduler.timesteps, strict=False):
        x = scheduler.step(oracle(x, t).eps, k, x).prev_sample
    return x


def multistep(order, **options):
    scheduler = DPMSolverMultistepScheduler(
        solver_order=order, final_sigmas_type="zero", lower_order_final=False, **options
    )
    scheduler.set_timesteps(20)
    return scheduler


GRID = trailing(CHAIN, 20)


@pytest.mark.parametrize(("order", "ours"), [(1, ddim), (2, dpm_solver_pp_2m)])
def test_dpm_solver_multistep(order, ours):
    close(last(ours(mixture(CHAIN), noise(1), GRID)), walk_chain(multistep(order), GRID, noise(1)))


def third_order(x, grid, quadratic):
    """3M with the quadratic term times a factor, from the formulas (order 2 in its second step)."""
    oracle, history = mixture(CHAIN), []
    for t, s in pairwise(grid):
        now, x0 = float(CHAIN.logsnr(t)) / 2, oracle(x, t).x0
        h = float(CHAIN.logsnr(s)) / 2 - now
        history, mean = [(now, x0), *history][:3], x0
        if len(history) > 1 and math.isfinite(h):
            d1 = (x0 - history[1][1]) / (now - history[1][0])
            mean = x0 + h / 2 * d1
        if len(history) > 2 and math.isfinite(h):
            d1_before = (history[1][1] - history[2][1]) / (history[1][0] - history[2][0])
            d2 = (d1 - d1_before) / (now - history[2][0])
            mass = -math.expm1(-h)
            u = (h - mass) / mass
            u2 = (h**2 - 2 * h + 2 * mass) / mass
            mean = x0 + u * d1 + (quadratic * u2 + (now - history[1][0]) * u) * d2
        decay = math.exp(-h)
        x = CHAIN.sigma(s) / CHAIN.sigma(t) * x - CHAIN.alpha(s) * (decay - 1) * mean
    return x


def test_the_third_order_step_of_the_reference_has_half_of_the_quadratic_term():
    # Theirs multiplies D2 = (D1_0 - D1_1) / (r0 + r1), the coefficient of the square in Newton's form,
    # by (e^-h - 1 + h) / h^2 - 1/2, the weight of half a second derivative. The exact integral of the
    # square is twice that; `convergence_test` shows the orders, 3 with it and 2 without.
    theirs = walk_chain(multistep(3), GRID, noise(1))
    close(third_order(noise(1), GRID, 0.5), theirs, 2e-5)
    assert float((third_order(noise(1), GRID, 1.0) - theirs).abs().max()) > 1e-3


def test_dpm_solver_singlestep():
    # Their second-order step spans two steps of the grid; ours puts the point between in the middle.
    ends = trailing(CHAIN, 8)[:-1]
    middles = CHAIN.time_at((CHAIN.logsnr(ends[1:]) + CHAIN.logsnr(ends[:-1])) / 2)
    fine = torch.stack([ends[:-1], middles], 1).flatten()
    fine = torch.cat([fine, ends[-1:]])
    scheduler = DPMSolverSinglestepScheduler(solver_order=2, lower_order_final=False)
    scheduler.set_timesteps(len(fine) - 1)
    scheduler.order_list = [1, 2] * (len(ends) - 1)
    theirs = walk_chain(scheduler, fine, noise(1))
    close(last(dpm_solver_pp_2s(mixture(CHAIN), noise(1), ends)), theirs)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order):
    scheduler = UniPCMultistepScheduler(solver_order=order, lower_order_final=False)
    scheduler.set_timesteps(20)
    grid = trailing(CHAIN, 21)[:-1]
    theirs = walk_chain(scheduler, grid, noise(1))
    close(last(unipc(mixture(CHAIN), noise(1), grid, order=order)), theirs)


@pytest.mark.parametrize("i", [0, 5, 18])
def test_ddim_inverse_names_the_step_by_its_target(i):
    # `step(eps, k)` moves *to* k: the label is the noisier of the two times.
    scheduler = DDIMInverseScheduler(
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
    )
    scheduler.set_timesteps(20)
    k = int(scheduler.timesteps[i])
    s, t = f64(max(0, k + 1 - 50), k + 1)
    x, eps = noise(1), noise(2)
    ours = ddim_step(CHAIN, from_eps(CHAIN, x, eps, s), s, t)
    close(ours, scheduler.step(eps, k, x).prev_sample, 2e-5)


# ---- SDEs and flows ----------------------------------------------------------------------------


def ve():
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=1000, sigma_min=0.01, sigma_max=50.0)
    scheduler.set_timesteps(1000)
    scheduler.set_sigmas(1000, 0.01, 50.0)
    return scheduler


def test_ve_levels():
    discrete = ve().discrete_sigmas
    close(GeometricVE(0.01, 50.0).sigma(torch.linspace(0, 1, 1000).double()), discrete, 1e-5)


@pytest.mark.parametrize("i", [10, 500, 999])
def test_ve_predictor(i):
    scheduler, schedule = ve(), GeometricVE(0.01, 50.0)
    scheduler.discrete_sigmas = schedule.sigma(torch.linspace(0, 1, 1000).double())
    x, eps = noise(1, 30.0), noise(2)
    t, s = f64(i / 999, (i - 1) / 999)
    score = parameterizations.score(schedule, Prediction(x, eps), t)
    scheduler.timesteps = torch.linspace(1, 1e-5, 1000, dtype=torch.float64)
    time = torch.full((4,), (i + 0.5) / 999, dtype=torch.float64)  # they multiply by 999 and cut
    theirs = scheduler.step_pred(score, time[0], x, generator=seeded(3)).prev_sample
    ours = reverse_diffusion_step(schedule, x, Prediction(x, eps), t, s, seeded(3))
    close(ours, theirs)


def test_ve_corrector():
    x, score = noise(1, 30.0).float(), noise(2, 0.1).float()  # the scheduler draws float32 only
    scheduler = ve()
    theirs = scheduler.step_correct(score, x, generator=seeded(3)).prev_sample
    close(corrector_step(x, score, f64(scheduler.config.snr)[0], seeded(3)), theirs)


def test_flow_match_euler():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(15)
    scheduler.sigmas = torch.cat([torch.linspace(1, 0.05, 15), torch.zeros(1)]).double()
    oracle, theirs = mixture(RectifiedFlow()), noise(1)
    for t, k in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        x0, eps, _ = oracle(theirs, t)
        theirs = scheduler.step(eps - x0, k, theirs).prev_sample
    close(last(euler(oracle, noise(1), scheduler.sigmas)), theirs)
