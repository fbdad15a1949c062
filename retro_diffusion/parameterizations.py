"""What a network predicts, and how its output becomes the pair ``(x0, eps)``.

With ``x_t = alpha x0 + sigma eps``, knowing ``x_t`` and any one of x0, eps, score, v or velocity
means knowing all of them: each is a linear function of the pair. Following Karras et al. 2022
(arXiv:2206.00364, equation 7) a *parameterisation* is four numbers per noise level,

    x0_hat = c_skip x_t + c_out F(c_in x_t, c_noise),

where ``F`` is the bare network. The network's regression target is what makes this an equality,
``(x0 - c_skip x_t) / c_out``. Eps, x0, v, velocity and score
prediction differ in ``c_skip`` and ``c_out`` alone; EDM chooses all four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims


class Prediction(NamedTuple):
    """What a denoiser says about ``x_t``: ``x_t = alpha_t x0 + sigma_t eps``.

    ``variance_fraction``, where a network learns the variance of the reverse step, says where its
    logarithm lies between the lower bound (0) and the upper bound (1); only ancestral sampling and
    the variational bound read it (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 15).
    """

    x0: Tensor
    eps: Tensor
    variance_fraction: Tensor | None = None


class Preconditioning(NamedTuple):
    """The four coefficients of a parameterisation, each shaped like the times they belong to."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


Parameterization = Callable[[NoiseSchedule, Tensor], Preconditioning]


def _unscaled(schedule: NoiseSchedule, t: Tensor, c_skip: Tensor, c_out: Tensor) -> Preconditioning:
    """Coefficients of a network that reads ``x_t`` itself and the time as a fraction of t_max."""
    return Preconditioning(c_skip, c_out, torch.ones_like(t), t / schedule.t_max)


def predict_eps(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """The network predicts the noise (Ho et al. 2020, arXiv:2006.11239, equation 11).

    Undefined where ``alpha = 0``: there ``x_t`` is the noise, and knowing it says nothing of x0.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return _unscaled(schedule, t, 1 / alpha, -sigma / alpha)


def predict_x0(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """The network predicts the clean data (Ho et al. 2020, section 3.2)."""
    one = torch.ones_like(t)
    return _unscaled(schedule, t, 0 * one, one)


def predict_v(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """The network predicts ``v = alpha eps - sigma x0`` (Salimans and Ho 2022, arXiv:2202.00512)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    power = alpha**2 + sigma**2
    return _unscaled(schedule, t, alpha / power, -sigma / power)


def predict_velocity(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """The network predicts ``dx_t/dt = alpha_dot x0 + sigma_dot eps`` (arXiv:2210.02747).

    For rectified flow this is ``eps - x0``.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_dot, sigma_dot = schedule.alpha_dot(t), schedule.sigma_dot(t)
    determinant = alpha * sigma_dot - sigma * alpha_dot
    return _unscaled(schedule, t, sigma_dot / determinant, -sigma / determinant)


def predict_score(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
    """The network predicts the score, ``-eps / sigma`` (Song and Ermon 2019, arXiv:1907.05600)."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return _unscaled(schedule, t, 1 / alpha, sigma**2 / alpha)


def precondition_edm(sigma_data: float = 0.5) -> Parameterization:
    """EDM's preconditioning: network inputs and targets have unit variance at every noise level.

    Karras et al. 2022 (arXiv:2206.00364), table 1, written for any alpha by taking the path in
    their frame: ``x_t / alpha`` with noise ``sigma / alpha``.

    Parameters
    ----------
    sigma_data
        Standard deviation of the data, > 0.

    Returns
    -------
    Parameterization
        To pass to a denoiser.

    Raises
    ------
    ValueError
        If ``sigma_data`` is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, not {sigma_data}")

    def coefficients(schedule: NoiseSchedule, t: Tensor) -> Preconditioning:
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t) / alpha
        power = sigma**2 + sigma_data**2
        return Preconditioning(
            sigma_data**2 / (power * alpha),
            sigma * sigma_data / power.sqrt(),
            1 / (alpha * power.sqrt()),
            sigma.log() / 4,
        )

    return coefficients


def target(
    schedule: NoiseSchedule, parameterization: Parameterization, x0: Tensor, eps: Tensor, t: Tensor
) -> Tensor:
    """What the bare network has to output: ``(x0 - c_skip x_t) / c_out``.

    Written as a combination of ``x0`` and ``eps``, whose coefficients are exact in float64; the
    formula above would subtract two nearly equal float32 tensors at low noise.

    Parameters
    ----------
    schedule, parameterization
        The path and the prediction type.
    x0, eps
        Data and noise, shape ``(B, *D)``.
    t
        Shape ``()`` or ``(B,)``, where ``sigma(t) > 0``.

    Returns
    -------
    Tensor
        Shape ``(B, *D)``.
    """
    c = parameterization(schedule, t)
    of_x0 = (1 - c.c_skip * schedule.alpha(t)) / c.c_out
    of_eps = -c.c_skip * schedule.sigma(t) / c.c_out
    return match_dims(of_x0, x0) * x0 + match_dims(of_eps, x0) * eps


def from_output(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Tensor,
    output: Tensor,
    t: Tensor,
) -> Prediction:
    """Turn a bare network's output into the pair ``(x0, eps)``.

    Parameters
    ----------
    schedule, parameterization
        The path and the prediction type.
    x_t, output
        Noisy data and network output, shape ``(B, *D)``.
    t
        Shape ``()`` or ``(B,)``, where ``sigma(t) > 0``.

    Returns
    -------
    Prediction
        With ``x_t == alpha_t x0 + sigma_t eps``.
    """
    c = parameterization(schedule, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0 = match_dims(c.c_skip, x_t) * x_t + match_dims(c.c_out, x_t) * output
    eps = (
        match_dims((1 - alpha * c.c_skip) / sigma, x_t) * x_t
        - match_dims(alpha * c.c_out / sigma, x_t) * output
    )
    return Prediction(x0, eps)


def from_x0(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor) -> Prediction:
    """Complete the pair from ``x0``: ``eps = (x_t - alpha x0) / sigma``; tensors of shape (B, *D)."""
    alpha, sigma = match_dims(schedule.alpha(t), x_t), match_dims(schedule.sigma(t), x_t)
    return Prediction(x0, (x_t - alpha * x0) / sigma)


def from_eps(schedule: NoiseSchedule, x_t: Tensor, eps: Tensor, t: Tensor) -> Prediction:
    """Complete the pair from ``eps``: ``x0 = (x_t - sigma eps) / alpha``; tensors of shape (B, *D)."""
    alpha, sigma = match_dims(schedule.alpha(t), x_t), match_dims(schedule.sigma(t), x_t)
    return Prediction((x_t - sigma * eps) / alpha, eps)


def score(schedule: NoiseSchedule, prediction: Prediction, t: Tensor) -> Tensor:
    """Score of the marginal of ``x_t``, ``-eps / sigma`` (Tweedie's formula); shape (B, *D)."""
    return -prediction.eps / match_dims(schedule.sigma(t), prediction.eps)


def v(schedule: NoiseSchedule, prediction: Prediction, t: Tensor) -> Tensor:
    """``alpha eps - sigma x0`` (Salimans and Ho 2022, arXiv:2202.00512); shape (B, *D)."""
    x0, eps, _ = prediction
    return match_dims(schedule.alpha(t), x0) * eps - match_dims(schedule.sigma(t), x0) * x0


def velocity(schedule: NoiseSchedule, prediction: Prediction, t: Tensor) -> Tensor:
    """Right-hand side ``alpha_dot x0 + sigma_dot eps`` of the probability-flow ODE; shape (B, *D).

    Song et al. 2021 (arXiv:2011.13456), equation 13, in terms of the pair.
    """
    x0, eps, _ = prediction
    return match_dims(schedule.alpha_dot(t), x0) * x0 + match_dims(schedule.sigma_dot(t), x0) * eps
