"""The probability-flow ODE and its likelihood against `torchdiffeq`, an independent solver.

The equations are written anew here, as Song et al. 2021 (arXiv:2011.13456) print them: the drift from
``f``, ``g`` and the score (equation 13), the divergence by automatic differentiation of that drift
(equation 39). Nothing of `samplers.ode`, `flow` or `integrate` is used for the reference.
"""

from __future__ import annotations

import pytest
import torch
from torchdiffeq import odeint

from retro_diffusion.flow import closed_form, log_likelihood
from retro_diffusion.oracles import GaussianMixture
from retro_diffusion.samplers import adaptive, last
from retro_diffusion.schedules import CosineVP, GeometricVE, LinearVP, SubVP

torch.set_num_threads(1)

PATHS = [LinearVP(), SubVP(), CosineVP(), GeometricVE()]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture(schedule):
    return GaussianMixture(schedule, f64([-1.0, 0.0], [1.0, 0.5]), 0.3, f64(1, 3))


def solve(slope, state, times):
    """Their Dormand-Prince method; ``step_t`` keeps it from stepping past the last time."""
    return odeint(slope, state, times, options={"step_t": times}, **TIGHT)


def drift(oracle, t, x):
    """``f x - g^2 score / 2``, with the score as the gradient of the exact log-density."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        score = torch.autograd.grad(oracle.log_prob(x, t).sum(), x, create_graph=True)[0]
        schedule = oracle.schedule
        return schedule.drift(t) * x - schedule.diffusion(t) ** 2 * score / 2


def with_divergence(oracle, t, x):
    """The drift and its divergence."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        slope = drift(oracle, t, x)
        rows = [torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1)]
        trace = sum(row[:, i] for i, row in enumerate(rows))
        return slope.detach(), trace.detach()


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_the_flow_to_the_data_is_that_of_another_solver(schedule):
    oracle, times = mixture(schedule), f64(0.9, 0.4, 1e-2)
    generator = torch.Generator().manual_seed(1)
    x = schedule.sigma(times[0]) * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    theirs = solve(lambda t, y: drift(oracle, t, y).detach(), x, times)
    ours = [state.x for state in adaptive(oracle, x, times, method="DOP853", **TIGHT)]
    torch.testing.assert_close(torch.stack(ours), theirs[1:], rtol=1e-6, atol=1e-6)
    rough = last(adaptive(oracle, x, times, rtol=1e-2, atol=1e-2))
    assert float((rough - theirs[-1]).abs().max()) > 1e-5  # the comparison sees a solver's error


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_the_likelihood_is_that_of_another_solver(schedule):
    oracle, start = mixture(schedule), 1e-2
    x = f64([-1.0, 0.1], [0.2, 0.3], [1.0, 0.5], [2.0, -1.0])
    end = float(schedule.t_max)

    def slope(t, state):
        return with_divergence(oracle, t, state[0])

    latent, change = solve(slope, (x, torch.zeros(4, dtype=x.dtype)), f64(start, end))
    prior = torch.distributions.Normal(0.0, float(schedule.sigma(f64(end))))

    def log_prior(z):
        return prior.log_prob(z).sum(1)

    theirs = log_prior(latent[-1]) + change[-1]
    ours = log_likelihood(oracle, x, start=start, divergence=closed_form, prior=log_prior, **TIGHT)
    torch.testing.assert_close(ours.latent, latent[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.log_prob, theirs, rtol=0, atol=1e-6)
    half = log_prior(latent[-1]) + change[-1] / 2
    assert float((ours.log_prob - half).abs().min()) > 0.1  # the divergence is not a small term
