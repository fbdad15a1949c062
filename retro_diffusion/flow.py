"""Exact likelihood through the probability-flow ODE (Song et al. 2021, arXiv:2011.13456, section 4.3).

The ODE ``dx/dt = v(x, t)`` moves samples of one noisy marginal to the next, so along its solutions
``d log p_t(x) / dt = -div v`` (equation 39): integrate the divergence on the way from data to noise,
where the density is known, and add. The divergence follows from that of the predicted ``x0``: with
``T = tr(d x0_hat / d x)`` and ``D`` dimensions, ``div v = alpha_dot T + sigma_dot (D - alpha T) / sigma``.
Three ways to ``T``: a formula where one exists, the exact trace, and random probes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.integrate import solve
from retro_diffusion.parameterizations import Prediction, velocity
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims

Divergence = Callable[[DenoiserLike, Tensor, Tensor, Any], tuple[Prediction, Tensor]]
"""``(denoiser, x_t, t, cond)`` to the prediction and ``T = tr(d x0_hat / d x_t)`` of shape (B,)."""


class Oracle(DenoiserLike, Protocol):
    """A denoiser that knows the divergence of its ``x0`` by a formula."""

    def divergence(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """``tr(d x0_hat / d x_t)`` of shape (B,)."""
        ...


def closed_form(
    oracle: Oracle, x_t: Tensor, t: Tensor, cond: Any = None
) -> tuple[Prediction, Tensor]:
    """Divergence of an oracle, shape (B,), by its formula (`oracles.GaussianMixture.divergence`)."""
    return oracle(x_t, t, cond), oracle.divergence(x_t, t, cond)


def exact_trace(
    denoiser: DenoiserLike, x_t: Tensor, t: Tensor, cond: Any = None
) -> tuple[Prediction, Tensor]:
    """Divergence, shape (B,), by D backward passes, one for each dimension of the data."""
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        prediction = denoiser(x, t, cond)
        diagonal = [
            torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1)[:, i]
            for i, column in enumerate(prediction.x0.flatten(1).unbind(1))
        ]
    return _detached(prediction), torch.stack(diagonal, 1).sum(1)


def hutchinson(probes: Tensor) -> Divergence:
    """Divergence by ``T = E[e^T J e]``, an unbiased estimate from one backward pass for each probe.

    The probes are given, so that they are the same at every step of a solve, as they must be: fresh
    ones would make the ODE's right-hand side noise, which no step size resolves.

    Parameters
    ----------
    probes
        Shape (n, B, *D), mean 0 and covariance I: see `rademacher`.

    Returns
    -------
    Divergence
        For batches of shape (B, *D).
    """

    def divergence(
        denoiser: DenoiserLike, x_t: Tensor, t: Tensor, cond: Any = None
    ) -> tuple[Prediction, Tensor]:
        if probes.shape[1:] != x_t.shape:
            raise ValueError(
                f"probes must have shape (n, {', '.join(map(str, x_t.shape))}), "
                f"not {tuple(probes.shape)}"
            )
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = denoiser(x, t, cond)
            traces = [
                (torch.autograd.grad(prediction.x0, x, e, retain_graph=True)[0] * e)
                .flatten(1)
                .sum(1)
                for e in probes.to(x)
            ]
        return _detached(prediction), torch.stack(traces).mean(0)

    return divergence


def rademacher(x: Tensor, n_probes: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Draw probes of independent signs for `hutchinson`.

    Parameters
    ----------
    x
        The batch, shape (B, *D).
    n_probes
        Probes for each sample, >= 1.
    generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor
        Shape (n_probes, B, *D), of -1 and 1.
    """
    signs = torch.randint(0, 2, (n_probes, *x.shape), generator=generator)
    return (2 * signs - 1).to(x)


class FlowLikelihood(NamedTuple):
    """What the ODE says of a batch.

    ``log_prob`` in nats, shape (B,); ``latent``, the point in noise that each sample came from, shape
    (B, *D); ``nfe``, the number of function evaluations.
    """

    log_prob: Tensor
    latent: Tensor
    nfe: int


@torch.no_grad()
def log_likelihood(
    denoiser: DenoiserLike,
    x: Tensor,
    cond: Any = None,
    *,
    start: float = 1e-5,
    divergence: Divergence = exact_trace,
    prior: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
) -> FlowLikelihood:
    """Log-density of samples under the law that the probability-flow ODE generates.

    Parameters
    ----------
    denoiser
        Any denoiser; differentiable for `exact_trace` and `hutchinson`.
    x
        Samples at time ``start``, shape (B, *D). Data, less the noise of that time.
    cond
        Passed to the denoiser.
    start
        Where to start, with ``sigma(start) > 0``: 1e-5 in the paper.
    divergence
        `exact_trace`, `hutchinson` with its probes, or `closed_form`.
    prior
        Log-density of the noise end, (B, *D) to (B,). None is ``N(0, (alpha^2 + sigma^2) I)``, where
        sampling starts: its distance from the true marginal is part of the model's likelihood.
    rtol, atol, method
        As for `integrate.solve`.

    Returns
    -------
    FlowLikelihood
        Log-density, latent and cost.

    Raises
    ------
    ValueError
        If ``start`` is outside the schedule or has no noise, or a tolerance is too small.
    FloatingPointError
        If the velocity or its divergence is not finite.
    RuntimeError
        If the solver gives up.
    """
    schedule = denoiser.schedule
    begin, end = (torch.tensor(t, dtype=torch.float64) for t in (start, schedule.t_max))
    schedule.check_times(begin)
    if schedule.sigma(begin) == 0:
        raise ValueError(f"start must have sigma > 0, unlike {start:g}: e.g. 1e-5")

    def slope(t: Tensor, state: Tensor) -> Tensor:
        prediction, trace = divergence(denoiser, _points(state, x), t, cond)
        change = velocity_divergence(schedule, trace, t, x[0].numel())
        return torch.cat([velocity(schedule, prediction, t).flatten(), change.to(state)])

    state = torch.cat([x.flatten(), x.new_zeros(len(x))])
    state, nfe = solve(slope, state, begin, end, rtol=rtol, atol=atol, method=method)
    latent = _points(state, x)
    log_prior = _log_standard(schedule, latent, end) if prior is None else prior(latent)
    return FlowLikelihood(log_prior + state[x.numel() :], latent, nfe)


def velocity_divergence(schedule: NoiseSchedule, trace: Tensor, t: Tensor, n_dims: int) -> Tensor:
    """Divergence of the ODE's velocity from ``T = tr(d x0_hat / d x)``.

    Parameters
    ----------
    schedule
        The path.
    trace
        ``T``, shape (B,).
    t
        Shape (), where ``sigma(t) > 0``.
    n_dims
        Number of dimensions of a sample.

    Returns
    -------
    Tensor
        Shape (B,).
    """
    of_eps = (n_dims - match_dims(schedule.alpha(t), trace) * trace) / match_dims(
        schedule.sigma(t), trace
    )
    return (
        match_dims(schedule.alpha_dot(t), trace) * trace
        + match_dims(schedule.sigma_dot(t), trace) * of_eps
    )


def dequantize(
    x0: Tensor, half_width: float = 1 / 255, generator: torch.Generator | None = None
) -> Tensor:
    """Spread each value of gridded data uniformly over its bin, to make a density of it.

    Parameters
    ----------
    x0
        Data on a grid, any shape.
    half_width
        Half the distance between two values: 1/255 for 8-bit images in [-1, 1], 1/16 for
        scikit-learn's digits.
    generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor
        The shape of ``x0``.
    """
    u = torch.rand(x0.shape, generator=generator, dtype=x0.dtype).to(x0)
    return x0 + half_width * (2 * u - 1)


def discrete_bits_per_dim(log_density: Tensor, n_dims: int, half_width: float = 1 / 255) -> Tensor:
    """Bits per dimension of gridded data, from the density of its dequantised values.

    A bin's probability is at least ``exp(E[log p(x + u)])`` times its volume (Jensen; Theis et al. 2016,
    arXiv:1511.01844), so this is an upper bound:
    ``-(log p + D log(2 half_width)) / (D log 2)``. Without the volume it would be a density's entropy,
    which has no lower bound.

    Parameters
    ----------
    log_density
        In nats, at points made by `dequantize`, any shape.
    n_dims
        Number of dimensions ``D`` of a sample.
    half_width
        As for `dequantize`.

    Returns
    -------
    Tensor
        The shape of ``log_density``.
    """
    return -(log_density / n_dims + math.log(2 * half_width)) / math.log(2)


def _points(state: Tensor, x: Tensor) -> Tensor:
    return state[: x.numel()].reshape(x.shape)


def _detached(prediction: Prediction) -> Prediction:
    return Prediction(prediction.x0.detach(), prediction.eps.detach())


def _log_standard(schedule: NoiseSchedule, x: Tensor, end: Tensor) -> Tensor:
    """Log-density of ``N(0, (alpha^2 + sigma^2) I)`` at the noise end; (B, *D) to (B,)."""
    variance = float(schedule.alpha(end) ** 2 + schedule.sigma(end) ** 2)
    per_dim = -0.5 * (x**2 / variance + math.log(2 * math.pi * variance))
    return per_dim.flatten(1).sum(1)
