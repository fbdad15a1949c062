"""A denoiser: a network, a noise schedule and a parameterisation, called as one function."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from retro_diffusion import parameterizations
from retro_diffusion.parameterizations import Parameterization, Prediction, predict_eps
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims


class DenoiserLike(Protocol):
    """Whatever a sampler can run: a trained denoiser, an exact oracle, a guided or clipped one."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The path the denoiser knows."""
        ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict the pair for ``x_t`` of shape (B, *D) at ``t`` of shape () or (B,)."""
        ...


class Denoiser(nn.Module):
    """``x0_hat = c_skip x_t + c_out network(c_in x_t, c_noise, cond)``, and the eps that goes with it.

    Parameters
    ----------
    network
        Called as ``network(x, c_noise, cond)`` with ``x`` of shape (B, *D), ``c_noise`` of shape
        (B,); returns (B, *D), or twice as many channels (dimension 1) if ``learned_variance``.
    schedule
        The path from data to noise.
    parameterization
        What the network predicts (`parameterizations.predict_eps` and its neighbours).
    learned_variance
        The second half of the network's channels is the `Prediction.variance_fraction`.

    Raises
    ------
    ValueError
        If the parameterisation is undefined at the noise end of the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization = predict_eps,
        *,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        end = torch.tensor(schedule.t_max, dtype=torch.float64)
        if not all(bool(c.isfinite()) for c in parameterization(schedule, end)):
            name = getattr(parameterization, "__name__", "this parameterisation")
            raise ValueError(
                f"{name} is undefined at t = {schedule.t_max:g} of {type(schedule).__name__}, where "
                f"alpha = {float(schedule.alpha(end)):g}: predict x0, v or velocity instead"
            )
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.learned_variance = learned_variance

    def forward(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict data and noise.

        Parameters
        ----------
        x_t
            Noisy data, shape (B, *D).
        t
            Shape () or (B,), in ``(t_min, t_max]`` with ``sigma(t) > 0``.
        cond
            Whatever the network reads (labels, text, ...), or None.

        Returns
        -------
        Prediction
            ``x0`` and ``eps`` of shape (B, *D), with ``x_t = alpha_t x0 + sigma_t eps``.

        Raises
        ------
        ValueError
            If a time is outside the schedule or has no noise, or the network's output does not
            have the shape of ``x_t``.
        """
        output, fraction = self.network_output(x_t, t, cond)
        x0, eps, _ = parameterizations.from_output(
            self.schedule, self.parameterization, x_t, output, t
        )
        return Prediction(x0, eps, fraction)

    def network_output(
        self, x_t: Tensor, t: Tensor, cond: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the bare network ``F``.

        Parameters
        ----------
        x_t, t, cond
            As for `forward`.

        Returns
        -------
        tuple
            Its output of shape (B, *D), and the variance fraction of that shape or None.

        Raises
        ------
        ValueError
            As for `forward`.
        """
        self.schedule.check_times(t, batch=len(x_t))
        if bool((self.schedule.sigma(t) == 0).any()):
            raise ValueError(f"nothing to denoise at t = {float(t.min()):g}, where sigma = 0")
        c = self.parameterization(self.schedule, t)
        c_noise = c.c_noise.to(device=x_t.device, dtype=x_t.dtype).expand(len(x_t))
        output = self.network(match_dims(c.c_in, x_t) * x_t, c_noise, cond).to(x_t.dtype)
        fraction = None
        if self.learned_variance:
            output, fraction = output.tensor_split(2, dim=1)
        if output.shape != x_t.shape or (fraction is not None and fraction.shape != x_t.shape):
            raise ValueError(
                f"the network predicts shape {tuple(output.shape)} for x_t of shape {tuple(x_t.shape)} "
                f"(learned_variance={self.learned_variance}: "
                f"it must return {1 + self.learned_variance} x the channels of x_t)"
            )
        return output, fraction

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What `network_output` should be for the given pair; shapes as in `parameterizations.target`."""
        return parameterizations.target(self.schedule, self.parameterization, x0, eps, t)


class Clipped:
    """A denoiser whose ``x0`` never leaves the data range; ``eps`` follows from the clipped ``x0``.

    DDPM's released code clips so at every sampling step, although its algorithm 2 does not say so.

    Parameters
    ----------
    denoiser
        Any denoiser.
    low, high
        Range of the data.
    """

    def __init__(self, denoiser: DenoiserLike, low: float = -1.0, high: float = 1.0) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.low = low
        self.high = high

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict, clip ``x0``, and give the ``eps`` that is consistent with it; shapes (B, *D)."""
        prediction = self.denoiser(x_t, t, cond)
        x0 = prediction.x0.clamp(self.low, self.high)
        return parameterizations.from_x0(self.schedule, x_t, x0, t)._replace(
            variance_fraction=prediction.variance_fraction
        )


class OnSchedule:
    """A denoiser moved to another path: every sampler of that path can run it, without training.

    A path is a noise level ``sigma / alpha`` and a scale (Karras et al. 2022, arXiv:2206.00364, equation
    1 and appendix B): ``x_t`` of the new path, rescaled, is an ``x_t`` of the old one at the time of
    equal log-SNR, and the pair it holds is the same.

    Parameters
    ----------
    denoiser
        Any denoiser.
    schedule
        The new path.
    """

    def __init__(self, denoiser: DenoiserLike, schedule: NoiseSchedule) -> None:
        self.denoiser = denoiser
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict the pair for ``x_t`` of shape (B, *D) at time ``t`` of the new path.

        Raises
        ------
        ValueError
            If the denoiser's own path does not reach this noise level.
        """
        own = self.denoiser.schedule
        logsnr = self.schedule.logsnr(t)
        time = own.time_at(logsnr)
        if not torch.allclose(own.logsnr(time), logsnr.double(), rtol=1e-6, atol=1e-6):
            raise ValueError(
                f"t from {float(t.min()):g} to {float(t.max()):g} of {type(self.schedule).__name__} has "
                f"log-SNR from {float(logsnr.max()):g} to {float(logsnr.min()):g}, which is outside "
                f"the denoiser's {type(own).__name__}"
            )
        power = self.schedule.alpha(t) ** 2 + self.schedule.sigma(t) ** 2
        own_power = own.alpha(time) ** 2 + own.sigma(time) ** 2
        return self.denoiser(match_dims((own_power / power).sqrt(), x_t) * x_t, time, cond)
