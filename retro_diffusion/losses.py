"""Training losses: a weighted error of the network's prediction at random noise levels.

Every continuous-state paper trains with ``E[ w(t) norm(F_hat - F) ]`` over data, noise and times;
they differ in what ``F`` is (the parameterisation), in ``w``, in the norm and in how ``t`` is drawn.
Weights here multiply the error of *eps*, whatever the network predicts, so that one weight means one
objective (Kingma and Gao 2023, arXiv:2303.00848): an eps-error is ``SNR`` times an x0-error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import Denoiser
from retro_diffusion.likelihood import Decoder, gaussian_decoder, gaussian_kl
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import (
    StepVariance,
    learned_variance,
    posterior_mean,
    reverse_step,
    upper_variance,
)
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims, randn_like
from retro_diffusion.times import DrawTimes, draw_steps

Norm = Callable[[Tensor], Tensor]
Weight = Callable[[NoiseSchedule, Tensor], Tensor]
Batch = tuple[Tensor, Any]
BatchLoss = Callable[[Denoiser, Batch, torch.Generator | None], Tensor]


def l2(residual: Tensor) -> Tensor:
    """Squared error of each element; any shape."""
    return residual**2


def l1(residual: Tensor) -> Tensor:
    """Absolute error of each element; any shape."""
    return residual.abs()


def huber(delta: float = 1.0) -> Norm:
    """Squared up to ``delta``, absolute beyond: ``r^2/2`` or ``delta (|r| - delta/2)``.

    Parameters
    ----------
    delta
        Where the parabola meets the lines, > 0.

    Returns
    -------
    Norm
        Maps residuals to errors of the same shape.

    Raises
    ------
    ValueError
        If ``delta`` is not positive.
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, not {delta}")

    def norm(residual: Tensor) -> Tensor:
        size = residual.abs()
        return torch.where(size < delta, 0.5 * residual**2, delta * (size - 0.5 * delta))

    return norm


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    cond: Any = None,
    *,
    weight: Weight | None = None,
    norm: Norm = l2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise the data to times ``t`` and score the prediction; averaged over dimensions and batch.

    With ``weight=None``, eps-prediction and the l2 norm this is DDPM's L_simple (Ho et al. 2020,
    arXiv:2006.11239, equation 14).

    Parameters
    ----------
    denoiser
        The model to train.
    x0
        Clean data, shape (B, *D).
    t
        Times, shape (B,), float64.
    cond
        Passed to the network.
    weight
        ``w(schedule, t)`` of shape (B,), a weight on the *eps*-error; None leaves the error of
        the network's own target unweighted.
    norm
        Elementwise error of a residual: `l2`, `l1` or `huber`.
    generator
        Source of the noise.

    Returns
    -------
    Tensor
        Shape (), differentiable.

    Raises
    ------
    ValueError
        If shapes disagree, or a time is outside the schedule or has no noise.
    """
    eps = randn_like(x0, generator)
    x_t = denoiser.schedule.add_noise(x0, eps, t)
    output, _ = denoiser.network_output(x_t, t, cond)
    residual = output - denoiser.target(x0, eps, t)
    if weight is None:
        return norm(residual).mean()
    error = norm(match_dims(eps_error_scale(denoiser, t), residual) * residual).flatten(1).mean(1)
    return (match_dims(weight(denoiser.schedule, t), error) * error).mean()


def eps_error_scale(denoiser: Denoiser, t: Tensor) -> Tensor:
    """Factor that turns an error of the network's output into the error of eps: ``alpha c_out / sigma``.

    Parameters
    ----------
    denoiser
        Gives the schedule and the parameterisation.
    t
        Shape () or (B,), where ``sigma(t) > 0``.

    Returns
    -------
    Tensor
        The shape of ``t``.
    """
    c_out = denoiser.parameterization(denoiser.schedule, t).c_out
    return denoiser.schedule.alpha(t) * c_out / denoiser.schedule.sigma(t)


def simple_loss(
    draw_times: DrawTimes = draw_steps, *, weight: Weight | None = None, norm: Norm = l2
) -> BatchLoss:
    """Make the loss that `training.train` calls: draw times, then `denoising_loss`.

    Parameters
    ----------
    draw_times
        How times are drawn: `times.draw_steps` for a chain, `times.draw_uniform` or
        `times.draw_stratified` for a continuous schedule.
    weight, norm
        As for `denoising_loss`.

    Returns
    -------
    BatchLoss
        ``loss(denoiser, (x0, cond), generator)``, a tensor of shape ().
    """

    def loss(denoiser: Denoiser, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        x0, cond = batch
        t = draw_times(denoiser.schedule, len(x0), generator)
        return denoising_loss(denoiser, x0, t, cond, weight=weight, norm=norm, generator=generator)

    return loss


def bound_terms(
    schedule: NoiseSchedule,
    prediction: Prediction,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    *,
    variance: StepVariance,
    decoder: Decoder,
) -> Tensor:
    """Term of the variational bound at each sample's own step: ``L_{t-1}``, or ``L_0`` at ``t = 1``.

    Ho et al. 2020 (arXiv:2006.11239), equation 5; differentiable, for training.

    Parameters
    ----------
    schedule
        A chain.
    prediction
        The denoiser's answer at ``t``.
    x0, x_t
        Data and noisy data, shape (B, *D).
    t
        Steps, shape (B,), integers from 1 in float64.
    variance
        Variance of the reverse step. At ``t = 1``, where the lower bound is 0, that of step 2
        stands in for it.
    decoder
        ``log p(x0 | x_1)``, as for `likelihood.variational_bound`.

    Returns
    -------
    Tensor
        Shape (B,), nats per dimension. Times ``T`` and averaged over ``t``: the bound less its
        prior term.
    """
    first = t <= 1
    second = torch.full_like(t, 2.0)
    step = reverse_step(schedule, t, t - 1)
    lower = torch.where(first, reverse_step(schedule, second, second - 1).lower, step.lower)
    step = step._replace(lower=lower)
    mean_q, mean_p = posterior_mean(step, x_t, x0), posterior_mean(step, x_t, prediction.x0)
    variance_p = match_dims(variance(step, prediction), x0)
    kl = gaussian_kl(mean_q, match_dims(lower, x0), mean_p, variance_p)
    likelihood = decoder(x0, mean_p, variance_p)
    return torch.where(match_dims(first, x0) > 0, -likelihood, kl).flatten(1).mean(1)


def bound_loss(
    *, variance: StepVariance = upper_variance, decoder: Decoder = gaussian_decoder
) -> BatchLoss:
    """Make DDPM's other objective: the variational bound itself, one random step per sample.

    Parameters
    ----------
    variance, decoder
        As for `bound_terms`.

    Returns
    -------
    BatchLoss
        An unbiased estimate of ``sum_t L_{t-1} + L_0`` in nats per dimension, shape ().
    """

    def loss(denoiser: Denoiser, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        x0, cond = batch
        schedule = denoiser.schedule
        t = draw_steps(schedule, len(x0), generator)
        x_t = schedule.add_noise(x0, randn_like(x0, generator), t)
        prediction = denoiser(x_t, t, cond)
        terms = bound_terms(schedule, prediction, x0, x_t, t, variance=variance, decoder=decoder)
        return schedule.t_max * terms.mean()

    return loss


def hybrid_loss(*, scale: float = 0.001, decoder: Decoder = gaussian_decoder) -> BatchLoss:
    """Make L_simple plus ``scale`` times the bound, whose gradient trains the variance alone.

    Nichol and Dhariwal 2021 (arXiv:2102.09672), equation 16. The bound is in bits per dimension:
    their ``scale`` of 0.001 means something only in that unit.

    Parameters
    ----------
    scale
        Their lambda, > 0.
    decoder
        As for `bound_terms`.

    Returns
    -------
    BatchLoss
        For a denoiser built with ``learned_variance=True``; shape ().
    """

    def loss(denoiser: Denoiser, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        x0, cond = batch
        schedule = denoiser.schedule
        t = draw_steps(schedule, len(x0), generator)
        eps = randn_like(x0, generator)
        x_t = schedule.add_noise(x0, eps, t)
        prediction = denoiser(x_t, t, cond)
        frozen_mean = prediction._replace(x0=prediction.x0.detach())
        terms = bound_terms(
            schedule, frozen_mean, x0, x_t, t, variance=learned_variance, decoder=decoder
        )
        bits = schedule.t_max * terms.mean() / math.log(2)
        return l2(prediction.eps - eps).mean() + scale * bits

    return loss


def elbo_steps(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight of ``L_{t-1}`` in DDPM's bound with the lower variance (Ho et al. 2020, equation 12).

    ``1/2 (SNR_{t-1} / SNR_t - 1)`` is ``beta^2 / (2 sigma^2 alpha (1 - alphas_cumprod))`` with
    ``sigma^2`` the posterior variance; the sum over ``t`` is in nats. At ``t = 1``, where that
    variance is 0, it has the value of the decoder term with variance ``beta_1``,
    ``1 / (2 (1 - beta_1))``.

    Parameters
    ----------
    schedule
        A chain.
    t
        Steps, shape (B,), integers in float64.

    Returns
    -------
    Tensor
        Shape (B,).
    """
    first = t <= 1
    previous = torch.where(first, t, t - 1)
    inner = 0.5 * torch.expm1(schedule.logsnr(previous) - schedule.logsnr(t))
    return torch.where(first, 0.5 / schedule.alpha(t) ** 2, inner)


def elbo_steps_upper(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight of ``L_{t-1}`` in DDPM's bound with the upper variance ``beta_t``.

    ``beta^2 / (2 beta alpha_t (1 - alphas_cumprod))`` (Ho et al. 2020, equation 12), in nats.

    Parameters
    ----------
    schedule
        A chain.
    t
        Steps, shape (B,), integers in float64.

    Returns
    -------
    Tensor
        Shape (B,).
    """
    kept = (schedule.alpha(t) / schedule.alpha(t - 1)) ** 2
    return 0.5 * (1 - kept) / (kept * schedule.sigma(t) ** 2)


def elbo(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight of the bound in continuous time, ``-1/2 d logsnr / dt``, for uniformly drawn t.

    Kingma et al. 2021 (arXiv:2107.00630), equation 17. Multiply by ``t_max - t_min`` for nats.

    Parameters
    ----------
    schedule
        A continuous path.
    t
        Shape (B,).

    Returns
    -------
    Tensor
        Shape (B,).
    """
    alpha_part = schedule.alpha_dot(t) / schedule.alpha(t)
    return schedule.sigma_dot(t) / schedule.sigma(t) - alpha_part


def simple(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight 1 on the eps-error, whatever the network predicts: L_simple (Ho et al. 2020, equation 14).

    For a network that predicts the score this is NCSN's ``lambda(sigma) = sigma^2`` (Song and Ermon
    2019, arXiv:1907.05600, equation 6), but for their factor of 1/2. The shape of ``t``.
    """
    return torch.ones_like(t)


def weighted_bound(weight: Callable[[Tensor], Tensor]) -> Weight:
    """Make a weight on the eps-error from a weight ``w(logsnr)`` on the bound, for uniformly drawn t.

    ``w(logsnr) (-1/2 d logsnr / dt)``: written so, the expected loss no longer depends on the
    schedule between its ends (Kingma and Gao 2023, arXiv:2303.00848). ``w = 1`` is
    `elbo`.

    Parameters
    ----------
    weight
        Of the log signal-to-noise ratio, elementwise.

    Returns
    -------
    Weight
        ``w(schedule, t)`` of the shape of ``t``, for a continuous path.
    """

    def of_time(schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return weight(schedule.logsnr(t)) * elbo(schedule, t)

    return of_time


def sech(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """The bound with weight ``sech(logsnr / 2)``: what L_simple is on the cosine schedule, on any.

    Kingma and Gao 2023 (arXiv:2303.00848) find that weight in Nichol and Dhariwal 2021
    (arXiv:2102.09672). On `CosineVP` it is pi times `simple`. The shape of ``t``.
    """
    return weighted_bound(lambda logsnr: 1 / torch.cosh(logsnr / 2))(schedule, t)


def truncated_snr(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight ``max(SNR, 1) / SNR`` on the eps-error: the larger of the errors of x0 and of eps.

    Salimans and Ho 2022 (arXiv:2202.00512), section 4. The shape of ``t``.
    """
    return torch.exp(-schedule.logsnr(t)).clamp(min=1)


def snr_plus_one(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight ``(SNR + 1) / SNR`` on the eps-error; on a variance-preserving path, the error of v.

    Salimans and Ho 2022 (arXiv:2202.00512), section 4. The shape of ``t``.
    """
    return 1 + torch.exp(-schedule.logsnr(t))


def edm(sigma_data: float = 0.5) -> Weight:
    """EDM's weight: the network's own target, of unit variance, has weight 1 at every noise level.

    ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2`` on the x0-error (Karras et al. 2022,
    arXiv:2206.00364, table 1), ``sigma^2 + sigma_data^2`` over ``sigma_data^2`` on the eps-error, with
    ``sigma`` in their frame: ``sigma / alpha``.

    Parameters
    ----------
    sigma_data
        Standard deviation of the data, > 0.

    Returns
    -------
    Weight
        ``w(schedule, t)`` of the shape of ``t``; to draw times with, `times.draw_lognormal`.

    Raises
    ------
    ValueError
        If ``sigma_data`` is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, not {sigma_data}")

    def weight(schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return 1 + torch.exp(-schedule.logsnr(t)) / sigma_data**2

    return weight


def min_snr(gamma: float = 5.0) -> Weight:
    """Weight ``min(SNR, gamma) / SNR`` on the eps-error (Hang et al. 2023, arXiv:2303.09556).

    Parameters
    ----------
    gamma
        Bound of the weight on the x0-error, > 0.

    Returns
    -------
    Weight
        ``w(schedule, t)`` of the shape of ``t``.
    """

    def weight(schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return (gamma * torch.exp(-schedule.logsnr(t))).clamp(max=1.0)

    return weight


def x0_error(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Weight ``1 / SNR`` on the eps-error: the plain error of x0; the shape of ``t``."""
    return torch.exp(-schedule.logsnr(t))
