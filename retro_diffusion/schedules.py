"""Noise schedules: how much signal ``alpha_t`` and how much noise ``sigma_t`` a sample holds.

Every continuous-state paper corrupts data along one path, ``x_t = alpha_t x_0 + sigma_t eps`` with
``eps ~ N(0, I)``. A schedule is the two functions ``alpha`` and ``sigma`` of a time ``t`` in the
paper's own unit. Two conventions hold everywhere in this library: the data sit at ``t_min`` and
the noise at ``t_max``; and ``alphas_cumprod`` is the name of the DDPM product that papers write as
alpha-bar, so that ``alpha`` always is the factor of ``x_0``: ``alpha**2 == alphas_cumprod``.

Times are float64 tensors on the CPU, of shape ``()`` or ``(B,)``; what is computed from them is
cast to the data's dtype and device only where it meets the data (`tensors.match_dims`).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from retro_diffusion.tensors import match_dims


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # The first jvp makes PyTorch compile rules of its own, and warn about the way it does so.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        derivative: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
        return derivative


def _check_in(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high or math.isinf(value):
        raise ValueError(f"{name} must be above {low:g} and at most {high:g}, not {value}")


class NoiseSchedule(ABC):
    """The path ``x_t = alpha(t) x_0 + sigma(t) eps`` from data (``t_min``) to noise (``t_max``).

    A subclass gives `alpha` and `sigma`; the rest follows from them.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times ``t`` of shape ``()`` or ``(B,)``; same shape, in [0, 1]."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise standard deviation at times ``t`` of shape ``()`` or ``(B,)``; same shape, >= 0."""

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Time derivative of `alpha`, by forward-mode differentiation; the shape of ``t``."""
        return _derivative(self.alpha, t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Time derivative of `sigma`, by forward-mode differentiation; the shape of ``t``."""
        return _derivative(self.sigma, t)

    def logsnr(self, t: Tensor) -> Tensor:
        """Log signal-to-noise ratio ``log(alpha^2 / sigma^2)``, falling with ``t``; shape of ``t``."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Draw from ``q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I)`` with the noise given.

        Parameters
        ----------
        x0, eps
            Data and standard normal noise, shape ``(B, *D)`` each.
        t
            Shape ``()`` or ``(B,)``, in ``[t_min, t_max]``.

        Returns
        -------
        Tensor
            ``x_t``, shape ``(B, *D)``.

        Raises
        ------
        ValueError
            If ``eps`` is shaped unlike ``x0``, ``t`` is shaped unlike the batch, or a time lies
            outside the schedule.
        """
        if eps.shape != x0.shape:
            raise ValueError(
                f"eps has shape {tuple(eps.shape)}, x0 {tuple(x0.shape)}: they must agree"
            )
        self.check_times(t, batch=len(x0))
        return match_dims(self.alpha(t), x0) * x0 + match_dims(self.sigma(t), x0) * eps

    def drift(self, t: Tensor) -> Tensor:
        """Factor ``f`` of the forward SDE ``dx = f(t) x dt + g(t) dw``: ``f = alpha_dot / alpha``.

        Song et al. 2021 (arXiv:2011.13456), equation 5, for a drift linear in x. The shape of ``t``.
        """
        return self.alpha_dot(t) / self.alpha(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Factor ``g`` of the same SDE: ``g^2 = d(sigma^2)/dt - 2 f sigma^2``; the shape of ``t``.

        From the variance equation ``d(sigma^2)/dt = 2 f sigma^2 + g^2`` of a linear SDE (Karras et
        al. 2022, arXiv:2206.00364, appendix B). At ``t = 0``, where ``sigma_dot`` of a
        variance-preserving path is infinite, this is the limit.
        """
        t = t.clamp(min=self.t_min + 1e-18)
        sigma = self.sigma(t)
        return (2 * sigma * (self.sigma_dot(t) - self.drift(t) * sigma)).clamp(min=0).sqrt()

    def time_at(self, logsnr: Tensor) -> Tensor:
        """Invert `logsnr`: the time at which the path has this log signal-to-noise ratio.

        Parameters
        ----------
        logsnr
            Any shape.

        Returns
        -------
        Tensor
            The same shape, float64, by bisection to the last digit; times outside the path's range
            of log-SNR become its ends.
        """
        logsnr = logsnr.detach().to(device="cpu", dtype=torch.float64)
        early = torch.full_like(logsnr, self.t_min)
        late = torch.full_like(logsnr, self.t_max)
        for _ in range(200):  # enough to cross float64's range; most searches end at 60
            middle = (early + late) / 2
            if bool(((middle == early) | (middle == late)).all()):
                break
            cleaner = self.logsnr(middle) > logsnr
            early, late = torch.where(cleaner, middle, early), torch.where(cleaner, late, middle)
        return torch.where(self.logsnr(late) >= logsnr, late, early)

    def check_times(self, t: Tensor, batch: int | None = None) -> None:
        """Refuse times this schedule does not have.

        Parameters
        ----------
        t
            Times to check, any shape.
        batch
            If given, ``t`` must be one time or one per sample of a batch of this size.

        Raises
        ------
        ValueError
            If a time is outside ``[t_min, t_max]`` or not a number, or the shape does not fit.
        """
        if batch is not None and t.ndim and t.shape != (batch,):
            raise ValueError(
                f"t has shape {tuple(t.shape)}: give one time, or one for each of {batch} samples"
            )
        if not bool(((t >= self.t_min) & (t <= self.t_max)).all()):
            raise ValueError(
                f"t holds values from {float(t.min()):g} to {float(t.max()):g}, "
                f"outside [{self.t_min:g}, {self.t_max:g}] of {type(self).__name__}"
            )


class TabulatedSchedule(NoiseSchedule):
    """A DDPM chain of ``T`` steps given by its betas; ``t = 0`` is the data, ``t = T`` the noise.

    ``alpha(t)**2`` is the product of ``1 - beta_1 ... 1 - beta_t`` at integer ``t``. Between two
    integers its logarithm is interpolated linearly: the chain is the exact discretisation of a
    variance-preserving SDE whose rate is constant during each step, and this is that SDE. (Official
    code and `diffusers` number the steps from 0: their timestep ``k`` is our ``t = k + 1``.)

    Parameters
    ----------
    betas
        Shape ``(T,)``, each in (0, 1): the variance added by each step (Ho et al. 2020,
        arXiv:2006.11239, equation 2). The last one may be 1: then ``alpha(T) = 0``, and the chain
        ends in pure noise (`rescale_zero_terminal_snr`).

    Raises
    ------
    ValueError
        If ``betas`` is not one-dimensional, is empty, or holds a value outside (0, 1).
    """

    def __init__(self, betas: Tensor) -> None:
        betas = betas.detach().to(device="cpu", dtype=torch.float64)
        inside = (betas > 0) & (betas < 1)
        if betas.ndim != 1 or len(betas) == 0 or not bool(inside[:-1].all()):
            raise ValueError(f"betas must be a non-empty vector of values in (0, 1), not {betas!r}")
        if not (inside[-1] or betas[-1] == 1):
            raise ValueError(f"betas must end with a value in (0, 1], not {float(betas[-1]):g}")
        self.betas = betas
        self.t_max = float(len(betas))
        self._log_alphas_cumprod = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])
        self._slopes = self._log_alphas_cumprod.diff()
        self._ends_in_noise = bool(betas[-1] == 1)

    @property
    def n_timesteps(self) -> int:
        """Number of steps ``T`` of the chain."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The product that papers write alpha-bar, for ``t = 1 ... T``; shape ``(T,)``, float64."""
        return self._log_alphas_cumprod[1:].exp()

    def alpha(self, t: Tensor) -> Tensor:
        """Square root of the interpolated ``alphas_cumprod``; the shape of ``t``."""
        return torch.exp(0.5 * self._interpolate(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Square root of ``1 - alphas_cumprod``; the shape of ``t``."""
        return torch.sqrt(-torch.expm1(self._interpolate(t)))

    def _interpolate(self, t: Tensor) -> Tensor:
        t = t if t.is_floating_point() else t.double()
        table, slopes = self._log_alphas_cumprod.to(t.device), self._slopes.to(t.device)
        step = t.detach().long().clamp(0, self.n_timesteps - 1)
        inside = (t - step).to(table.dtype)
        part = inside * slopes[step]
        if self._ends_in_noise:  # alphas_cumprod goes to 0, and only its value is linear in t
            part = torch.where(slopes[step].isinf(), torch.log1p(-inside), part)
        return (table[step] + part).to(t.dtype)


def linear(
    n_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> TabulatedSchedule:
    """Betas rising linearly, as in DDPM (Ho et al. 2020, arXiv:2006.11239, section 4).

    Parameters
    ----------
    n_timesteps
        Length ``T`` of the chain. The defaults belong to ``T = 1000``; a shorter chain needs
        larger betas (see `rescaled_linear`).
    beta_start, beta_end
        First and last beta, in (0, 1).

    Returns
    -------
    TabulatedSchedule
        With the defaults, ``alphas_cumprod[-1] == 4.036e-5``.
    """
    return TabulatedSchedule(torch.linspace(beta_start, beta_end, n_timesteps, dtype=torch.float64))


def scaled_linear(
    n_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> TabulatedSchedule:
    """Betas whose *square roots* rise linearly, as in latent diffusion.

    Rombach et al. 2022 (arXiv:2112.10752): their code calls this schedule "linear".

    Parameters
    ----------
    n_timesteps
        Length ``T`` of the chain. The defaults belong to ``T = 1000``.
    beta_start, beta_end
        First and last beta, in (0, 1).

    Returns
    -------
    TabulatedSchedule
        With the defaults, ``alphas_cumprod[-1] == 4.66e-3``: signal is left in the last step.

    Raises
    ------
    ValueError
        If a beta is not in (0, 1).
    """
    if not (beta_start > 0 and beta_end > 0):
        raise ValueError(f"betas must be positive, not {beta_start} and {beta_end}")
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, n_timesteps, dtype=torch.float64)
    return TabulatedSchedule(roots**2)


def rescale_zero_terminal_snr(schedule: TabulatedSchedule) -> TabulatedSchedule:
    """Change a chain so that its last step holds no signal: ``alpha(T) = 0``.

    Lin et al. 2023 (arXiv:2305.08891), algorithm 1: alpha is shifted to end at 0 and scaled to keep
    ``alpha(1)``. With ``alpha = 0`` noise says nothing of the data, so predict v or x0.

    Parameters
    ----------
    schedule
        A chain of at least two steps.

    Returns
    -------
    TabulatedSchedule
        With the same number of steps; its last beta is 1.

    Raises
    ------
    ValueError
        If the chain has a single step.
    """
    if schedule.n_timesteps < 2:
        raise ValueError("rescale_zero_terminal_snr needs a chain of at least two steps, not one")
    alpha = schedule.alphas_cumprod.sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alphas_cumprod = torch.cat([alpha.new_ones(1), alpha**2])
    return TabulatedSchedule(1 - alphas_cumprod[1:] / alphas_cumprod[:-1])


def rescaled_linear(n_timesteps: int) -> TabulatedSchedule:
    """DDPM's linear betas for a chain of any length: both ends scaled by ``1000 / T``.

    The total noise stays about that of the 1,000-step chain (Nichol and Dhariwal 2021,
    arXiv:2102.09672, official code).

    Parameters
    ----------
    n_timesteps
        Length ``T`` of the chain, more than 20 (below, beta would reach 1).

    Returns
    -------
    TabulatedSchedule
        With ``T`` steps.

    Raises
    ------
    ValueError
        If ``n_timesteps`` is 20 or less.
    """
    if n_timesteps <= 20:
        raise ValueError(
            f"rescaled_linear needs more than 20 steps, not {n_timesteps}: beta would reach 1"
        )
    scale = 1000 / n_timesteps
    return linear(n_timesteps, scale * 1e-4, scale * 0.02)


def cosine(n_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> TabulatedSchedule:
    """Betas of a squared-cosine ``alphas_cumprod`` (Nichol and Dhariwal 2021, equation 17).

    ``alphas_cumprod(t) = f(t) / f(0)`` with ``f(t) = cos(((t/T + s) / (1 + s)) pi/2)^2``, and each
    ``beta = 1 - f(t) / f(t - 1)`` at most ``max_beta``: without the bound the last one is 1.

    Parameters
    ----------
    n_timesteps
        Length ``T`` of the chain.
    s
        Offset that keeps the first betas from vanishing.
    max_beta
        Upper bound of a beta, in (0, 1).

    Returns
    -------
    TabulatedSchedule
        With ``T`` steps.
    """
    u = torch.arange(n_timesteps + 1, dtype=torch.float64) / n_timesteps
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return TabulatedSchedule((1 - f[1:] / f[:-1]).clamp(max=max_beta))


@dataclass(frozen=True)
class LinearVP(NoiseSchedule):
    """Variance-preserving SDE with rate ``beta(t) = beta_min + t (beta_max - beta_min)``, t in [0, 1].

    The limit of DDPM's chain for infinitely many steps (Song et al. 2021, arXiv:2011.13456,
    equations 11 and 33): ``alpha = exp(-B/2)``, ``sigma^2 = 1 - exp(-B)``, ``B`` the integral of
    ``beta`` from 0 to ``t``.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not (self.beta_min >= 0 and self.beta_max >= 0 and self.beta_min + self.beta_max > 0):
            raise ValueError(
                "beta_min and beta_max must be rates >= 0, not both 0: "
                f"not {self.beta_min} and {self.beta_max}"
            )

    def integrated_beta(self, t: Tensor) -> Tensor:
        """Integral ``B(t)`` of the rate from 0 to ``t``; the shape of ``t``."""
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def alpha(self, t: Tensor) -> Tensor:
        """``exp(-B(t) / 2)``."""
        return torch.exp(-0.5 * self.integrated_beta(t))

    def sigma(self, t: Tensor) -> Tensor:
        """``sqrt(1 - exp(-B(t)))``."""
        return torch.sqrt(-torch.expm1(-self.integrated_beta(t)))


@dataclass(frozen=True)
class SubVP(LinearVP):
    """Sub-variance-preserving SDE: the signal of `LinearVP`, with less noise at every ``t < 1``.

    Song et al. 2021 (arXiv:2011.13456), equation 12 and appendix B: ``sigma = 1 - exp(-B)`` is a
    standard *deviation*, the square of `LinearVP`'s.
    """

    def sigma(self, t: Tensor) -> Tensor:
        """``1 - exp(-B(t))``."""
        return -torch.expm1(-self.integrated_beta(t))


@dataclass(frozen=True)
class CosineVP(NoiseSchedule):
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``: the cosine schedule in continuous time.

    Ends at ``t_max`` just short of 1, where ``alpha`` would be 0 and eps-prediction undefined
    (Salimans and Ho 2022, arXiv:2202.00512, section 2, has the same path to ``t = 1``).
    """

    t_max: float = 0.999

    def __post_init__(self) -> None:
        _check_in("t_max", self.t_max, 0, 1)

    def alpha(self, t: Tensor) -> Tensor:
        """``cos(pi t / 2)``, as a sine that is exactly 0 at ``t = 1``."""
        return torch.sin((1 - t) * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        """``sin(pi t / 2)``."""
        return torch.sin(t * (math.pi / 2))


@dataclass(frozen=True)
class GeometricVE(NoiseSchedule):
    """Variance-exploding path ``x_t = x_0 + sigma_min (sigma_max / sigma_min)^t eps``, t in [0, 1].

    Song et al. 2021 (arXiv:2011.13456), appendix C; the continuous limit of the noise levels of
    NCSN. At ``t = 0`` noise of ``sigma_min`` is left in the sample.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"0 < sigma_min < sigma_max must hold, not {self.sigma_min} and {self.sigma_max}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        """1: the signal is never scaled."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """``sigma_min (sigma_max / sigma_min)^t``."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t


@dataclass(frozen=True)
class SigmaSchedule(NoiseSchedule):
    """``x_t = x_0 + t eps``: time *is* the noise level (Karras et al. 2022, arXiv:2206.00364)."""

    t_max: float = 80.0

    def __post_init__(self) -> None:
        _check_in("t_max", self.t_max, 0, math.inf)

    def alpha(self, t: Tensor) -> Tensor:
        """1: the signal is never scaled."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """``t`` itself."""
        return t.clone()


@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """The straight path ``x_t = (1 - t) x_0 + t eps``, t in [0, 1].

    Liu et al. 2022 (arXiv:2209.03003) and Lipman et al. 2023 (arXiv:2210.02747) count time the
    other way, with the data at 1; the data are at 0 here, as in every schedule of this library.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """``1 - t``."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """``t`` itself."""
        return t.clone()
