"""The variational bound of a diffusion chain, term by term, in nats.

``-log p(x0) <= L_T + sum_t L_{t-1} + L_0`` (Sohl-Dickstein et al. 2015, arXiv:1503.03585; Ho et al.
2020, arXiv:2006.11239, equation 5). Sums run over data dimensions: this is a likelihood, not a
training loss. `bits_per_dim` converts, once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.reverse import (
    ReverseStep,
    StepVariance,
    posterior_mean,
    reverse_step,
    upper_variance,
)
from retro_diffusion.tensors import match_dims, randn_like
from retro_diffusion.times import check_grid

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]


def gaussian_kl(mean_q: Tensor, variance_q: Tensor, mean_p: Tensor, variance_p: Tensor) -> Tensor:
    """``KL(N(mean_q, variance_q) || N(mean_p, variance_p))`` of each element, in nats.

    Parameters
    ----------
    mean_q, variance_q, mean_p, variance_p
        Broadcastable tensors; variances > 0.

    Returns
    -------
    Tensor
        The broadcast shape, >= 0.
    """
    ratio = variance_q / variance_p
    return 0.5 * ((mean_q - mean_p) ** 2 / variance_p + ratio - 1 - ratio.log())


def gaussian_decoder(x0: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log-density of ``x0`` under ``N(mean, variance)``, each element in nats; shape (B, *D)."""
    return -0.5 * ((x0 - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))


def discretized_decoder(half_width: float = 1 / 255) -> Decoder:
    """Log-probability of the *bin* around each value of ``x0``, for data on a grid in [-1, 1].

    Ho et al. 2020, equation 13: the bins at -1 and 1 are open. Exact normal distribution function
    (released code approximates it by a tanh).

    Parameters
    ----------
    half_width
        Half the distance between two values: 1/255 for 8-bit images, 1/16 for scikit-learn's
        digits with their 17 grey levels.

    Returns
    -------
    Decoder
        ``log_prob(x0, mean, variance)`` of shape (B, *D), in nats.
    """

    def log_prob(x0: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        std = variance.sqrt()
        above, below = (x0 + half_width - mean) / std, (x0 - half_width - mean) / std
        # Mirror bins right of the mean to its left, where differences of the distribution function
        # keep their digits; then log(Phi(b) - Phi(a)) = log Phi(b) + log(1 - Phi(a) / Phi(b)).
        mirrored = x0 > mean
        upper = torch.where(mirrored, -below, above)
        lower = torch.where(mirrored, -above, below)
        open_above = torch.where(mirrored, x0 <= -1 + half_width / 2, x0 >= 1 - half_width / 2)
        open_below = torch.where(mirrored, x0 >= 1 - half_width / 2, x0 <= -1 + half_width / 2)
        log_upper = torch.where(open_above, torch.zeros_like(upper), torch.special.log_ndtr(upper))
        gap = torch.special.log_ndtr(lower) - log_upper
        return torch.where(open_below, log_upper, log_upper + torch.log(-torch.expm1(gap)))

    return log_prob


class VariationalBound(NamedTuple):
    """The terms of the bound for each sample, in nats.

    ``prior`` is L_T of shape (B,); ``transitions`` are the L_{t-1} of shape (B, S - 1), in the
    order of the grid, noise first; ``decoder`` is L_0 of shape (B,).
    """

    prior: Tensor
    transitions: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """Upper bound of ``-log p(x0)``, shape (B,)."""
        return self.prior + self.transitions.sum(1) + self.decoder


@torch.no_grad()
def variational_bound(
    denoiser: DenoiserLike,
    x0: Tensor,
    times: Tensor,
    cond: Any = None,
    *,
    variance: StepVariance = upper_variance,
    decoder: Decoder = gaussian_decoder,
    generator: torch.Generator | None = None,
) -> VariationalBound:
    """Estimate the bound of each sample with one draw of ``x_t`` for every step.

    Parameters
    ----------
    denoiser
        The model.
    x0
        Data, shape (B, *D).
    times
        Grid from noise to ``sigma = 0``, shape (S + 1,), at least two steps.
    cond
        Passed to the denoiser.
    variance
        Variance of the reverse steps. Where the lower bound of the last step is 0, that of the
        step before stands in for it, as in DDPM's released code.
    decoder
        ``log p(x0 | x_1)``, element by element: `gaussian_decoder` for continuous data,
        `discretized_decoder` for data on a grid.
    generator
        Source of the noise.

    Returns
    -------
    VariationalBound
        In nats, summed over dimensions.

    Raises
    ------
    ValueError
        If the grid has fewer than two steps or does not end at ``sigma = 0``.
    """
    schedule = denoiser.schedule
    times = check_grid(schedule, times)
    if len(times) < 3 or schedule.sigma(times[-1]) > 0:
        raise ValueError("the bound needs at least two steps and a grid that ends where sigma = 0")
    terms = []
    for t, s in pairwise(times[:-1]):
        step = reverse_step(schedule, t, s)
        terms.append(_transition(denoiser, x0, step, cond, variance, generator))
    first = reverse_step(schedule, times[-2], times[-1])._replace(lower=step.lower)
    return VariationalBound(
        prior=_prior(denoiser, x0, times[0]),
        transitions=torch.stack(terms, dim=1),
        decoder=-_reconstruction(denoiser, x0, first, cond, variance, decoder, generator),
    )


def _prior(denoiser: DenoiserLike, x0: Tensor, end: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x0) || N(0, (alpha_T^2 + sigma_T^2) I))."""
    alpha, sigma = (
        match_dims(denoiser.schedule.alpha(end), x0),
        match_dims(denoiser.schedule.sigma(end), x0),
    )
    return (
        gaussian_kl(alpha * x0, sigma**2, torch.zeros_like(x0), alpha**2 + sigma**2)
        .flatten(1)
        .sum(1)
    )


def _transition(
    denoiser: DenoiserLike,
    x0: Tensor,
    step: ReverseStep,
    cond: Any,
    variance: StepVariance,
    generator: torch.Generator | None,
) -> Tensor:
    """L_{t-1} = KL(q(x_s | x_t, x0) || p(x_s | x_t)) at one drawn x_t."""
    x_t = denoiser.schedule.add_noise(x0, randn_like(x0, generator), step.t)
    prediction = denoiser(x_t, step.t, cond)
    mean_q, mean_p = posterior_mean(step, x_t, x0), posterior_mean(step, x_t, prediction.x0)
    variance_p = match_dims(variance(step, prediction), x0)
    return gaussian_kl(mean_q, match_dims(step.lower, x0), mean_p, variance_p).flatten(1).sum(1)


def _reconstruction(
    denoiser: DenoiserLike,
    x0: Tensor,
    step: ReverseStep,
    cond: Any,
    variance: StepVariance,
    decoder: Decoder,
    generator: torch.Generator | None,
) -> Tensor:
    """-L_0 = log p(x0 | x_1) at one drawn x_1."""
    x_t = denoiser.schedule.add_noise(x0, randn_like(x0, generator), step.t)
    prediction = denoiser(x_t, step.t, cond)
    mean = posterior_mean(step, x_t, prediction.x0)
    return decoder(x0, mean, match_dims(variance(step, prediction), x0)).flatten(1).sum(1)


def bits_per_dim(nats: Tensor, n_dims: int) -> Tensor:
    """Convert nats per sample to bits per dimension: ``nats / (n_dims log 2)``; any shape."""
    return nats / (n_dims * math.log(2))
