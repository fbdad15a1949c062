"""One step of the reverse process, from ``t`` to an earlier ``s``: its mean and its two variances.

The forward process has a Gaussian posterior ``q(x_s | x_t, x0)``. A model that predicts ``x0`` has
a reverse kernel with the same mean and a variance of its own choice, between two bounds that Sohl-
Dickstein et al. 2015 (arXiv:1503.03585, section 2.6) found: right if the data were one point, and, on
a variance-preserving path, right if they were N(0, I). Ancestral sampling and the variational bound
both live on this step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retro_diffusion.parameterizations import Preconditioning, Prediction
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims


class ReverseStep(NamedTuple):
    """``q(x_s | x_t, x0) = N(of_x_t x_t + of_x0 x0, lower I)``; ``upper`` is the variance of q(x_t | x_s).

    Papers write ``lower`` as beta-tilde and ``upper`` as beta. All shaped like ``t``.
    """

    t: Tensor
    s: Tensor
    of_x_t: Tensor
    of_x0: Tensor
    lower: Tensor
    upper: Tensor


StepVariance = Callable[[ReverseStep, Prediction], Tensor]


def reverse_step(schedule: NoiseSchedule, t: Tensor, s: Tensor) -> ReverseStep:
    """Compute the coefficients of a reverse step of any length.

    Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7, are the case ``s = t - 1`` of a chain.
    With ``removed = 1 - SNR_t / SNR_s``, the share of the noise that the step takes away (Kingma et
    al. 2021, arXiv:2107.00630, section 3.3),

        mean  = (alpha_t / alpha_s) (sigma_s / sigma_t)^2 x_t + alpha_s removed x0,
        lower = sigma_s^2 removed,    upper = sigma_t^2 removed.

    Parameters
    ----------
    schedule
        The path.
    t, s
        Shape () or (B,), float64, with ``s < t``; ``sigma(s)`` may be 0.

    Returns
    -------
    ReverseStep
        Coefficients of the shape of ``t``.
    """
    removed = -torch.expm1(schedule.logsnr(t) - schedule.logsnr(s))
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
    sigma_t, sigma_s = schedule.sigma(t), schedule.sigma(s)
    return ReverseStep(
        t=t,
        s=s,
        of_x_t=alpha_t / alpha_s * (sigma_s / sigma_t) ** 2,
        of_x0=alpha_s * removed,
        lower=sigma_s**2 * removed,
        upper=sigma_t**2 * removed,
    )


def posterior_mean(step: ReverseStep, x_t: Tensor, x0: Tensor) -> Tensor:
    """Mean of ``q(x_s | x_t, x0)`` (Ho et al. 2020, equation 7); tensors of shape (B, *D)."""
    return match_dims(step.of_x_t, x_t) * x_t + match_dims(step.of_x0, x0) * x0


def lower_variance(step: ReverseStep, prediction: Prediction) -> Tensor:
    """Variance of ``q(x_s | x_t, x0)``: right if the data were a single point.

    Parameters
    ----------
    step
        The step.
    prediction
        The denoiser's answer at ``t`` (not read).

    Returns
    -------
    Tensor
        The shape of ``step.t``.
    """
    return step.lower


def upper_variance(step: ReverseStep, prediction: Prediction) -> Tensor:
    """Variance of ``q(x_t | x_s)``: on a variance-preserving path, right if the data were N(0, I).

    Parameters
    ----------
    step, prediction
        As for `lower_variance`.

    Returns
    -------
    Tensor
        The shape of ``step.t``.
    """
    return step.upper


def learned_variance(step: ReverseStep, prediction: Prediction) -> Tensor:
    """Geometric mean of the two bounds with the weight ``f`` that the network learnt.

    ``exp(f log upper + (1 - f) log lower)`` (Nichol and Dhariwal 2021, arXiv:2102.09672,
    equation 15; ``f`` is not confined to [0, 1]).

    Parameters
    ----------
    step
        The step.
    prediction
        Its ``variance_fraction`` of shape (B, *D) is ``f``.

    Returns
    -------
    Tensor
        Shape (B, *D).

    Raises
    ------
    ValueError
        If the denoiser does not predict a variance.
    """
    fraction = prediction.variance_fraction
    if fraction is None:
        raise ValueError("learned_variance needs a denoiser built with learned_variance=True")
    upper, lower = match_dims(step.upper.log(), fraction), match_dims(step.lower.log(), fraction)
    return torch.exp(fraction * upper + (1 - fraction) * lower)


def predict_posterior_mean(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """Parameterisation: the network predicts the mean of ``q(x_{t-1} | x_t, x0)``.

    What Sohl-Dickstein et al. 2015 predicted, and the baseline of DDPM's table 2. For chains, whose
    steps have length 1: ``mu = a x_t + b x0`` gives ``x0 = (mu - a x_t) / b``.

    Parameters
    ----------
    schedule
        A chain.
    t
        Shape () or (B,), integers from 1 in float64.

    Returns
    -------
    Preconditioning
        Coefficients of the shape of ``t``.
    """
    step = reverse_step(schedule, t, t - 1)
    return Preconditioning(
        -step.of_x_t / step.of_x0, 1 / step.of_x0, torch.ones_like(t), t / schedule.t_max
    )
