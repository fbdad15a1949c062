"""Times: grids that samplers walk down, and draws that training takes.

A *grid* of ``n_steps`` steps is a float64 vector of ``n_steps + 1`` decreasing times from
``schedule.t_max`` (noise) to ``schedule.t_min`` (data). A denoiser is evaluated at all of them but
the last, so the number of steps is the number of function evaluations (NFE) of a one-evaluation
sampler. A *draw* is a float64 vector of training times, one for each sample of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retro_diffusion.schedules import NoiseSchedule, TabulatedSchedule

DrawTimes = Callable[[NoiseSchedule, int, torch.Generator | None], Tensor]


def _check_steps(n_steps: int, at_most: float = float("inf")) -> None:
    if not 1 <= n_steps <= at_most:
        raise ValueError(f"n_steps must be between 1 and {at_most:g}, not {n_steps}")


def uniform(schedule: NoiseSchedule, n_steps: int) -> Tensor:
    """Equally spaced times.

    Parameters
    ----------
    schedule
        Gives the two ends.
    n_steps
        Number of steps, >= 1.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, decreasing from ``t_max`` to ``t_min``.
    """
    _check_steps(n_steps)
    return torch.linspace(schedule.t_max, schedule.t_min, n_steps + 1, dtype=torch.float64)


def trailing(schedule: TabulatedSchedule, n_steps: int) -> Tensor:
    """Equally spaced steps of a chain, rounded to integers, *starting at the noise end* ``T``.

    The spacing that Lin et al. 2023 (arXiv:2305.08891) recommend: the first evaluation is where
    sampling starts. (In 0-based numbering it visits ``T - 1``.)

    Parameters
    ----------
    schedule
        A chain of ``T`` steps.
    n_steps
        Number of steps, at most ``T``.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, from ``T`` to 0.
    """
    _check_steps(n_steps, schedule.n_timesteps)
    return uniform(schedule, n_steps).round()


def leading(schedule: TabulatedSchedule, n_steps: int) -> Tensor:
    """Equally spaced steps of a chain *ending at step 1*; the noise end ``T`` is never visited.

    The spacing of the DDIM release and the default of `diffusers`: sampling starts from pure noise
    at a time where training still had signal.

    Parameters
    ----------
    schedule
        A chain of ``T`` steps.
    n_steps
        Number of steps, at most ``T``.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, from ``1 + (n_steps - 1) (T // n_steps)`` to 0.
    """
    _check_steps(n_steps, schedule.n_timesteps)
    stride = schedule.n_timesteps // n_steps
    steps = torch.arange(n_steps, dtype=torch.float64) * stride + 1
    return torch.cat([steps.flip(0), steps.new_zeros(1)])


def quadratic(schedule: NoiseSchedule, n_steps: int) -> Tensor:
    """Times whose square roots are equally spaced: more steps near the data.

    Song et al. 2021 (arXiv:2010.02502), appendix D.2, use it for CIFAR-10. (Their code starts at
    ``0.8 T``; this grid starts at ``t_max``.)

    Parameters
    ----------
    schedule
        Gives the two ends.
    n_steps
        Number of steps, >= 1.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, decreasing from ``t_max`` to ``t_min``.
    """
    _check_steps(n_steps)
    root = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * root**2


def karras(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """EDM's noise levels (Karras et al. 2022, arXiv:2206.00364, equation 5), then 0.

    Parameters
    ----------
    n_steps
        Number of steps, >= 2.
    sigma_min, sigma_max
        Smallest and largest level, ``0 < sigma_min < sigma_max``.
    rho
        The larger, the more steps near ``sigma_min``.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64: times of a `SigmaSchedule`.

    Raises
    ------
    ValueError
        If ``n_steps`` is below 2 or the levels are not in order.
    """
    if n_steps < 2 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            "karras needs n_steps >= 2 and 0 < sigma_min < sigma_max, "
            f"not {n_steps}, {sigma_min}, {sigma_max}"
        )
    ramp = torch.linspace(0, 1, n_steps, dtype=torch.float64)
    levels = (
        sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))
    ) ** rho
    levels = levels.clamp(sigma_min, sigma_max)  # the ends, past which rounding may lead
    return torch.cat([levels, levels.new_zeros(1)])


def check_grid(schedule: NoiseSchedule, times: Tensor) -> Tensor:
    """Refuse a grid that a sampler cannot walk down.

    Parameters
    ----------
    schedule
        The path.
    times
        Shape ``(S + 1,)``.

    Returns
    -------
    Tensor
        The same times as float64 on the CPU.

    Raises
    ------
    ValueError
        If there are fewer than two times, they do not decrease, or one is outside the schedule.
    """
    times = torch.as_tensor(times).detach().to(device="cpu", dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(
            f"times must be a vector of at least two decreasing values (noise first), not {times!r}"
        )
    schedule.check_times(times)
    return times


def draw_uniform(
    schedule: NoiseSchedule, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw training times uniformly from ``(t_min, t_max]``; for continuous schedules.

    The data end itself is never drawn: nothing can be learnt where there is no noise.

    Parameters
    ----------
    schedule
        Gives the two ends.
    n
        Batch size.
    generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor
        Shape ``(n,)``, float64.
    """
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    return schedule.t_max - (schedule.t_max - schedule.t_min) * u


def draw_stratified(
    schedule: NoiseSchedule, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one uniform number and shift it by ``i / n`` for sample ``i``: even cover, less variance.

    Kingma et al. 2021 (arXiv:2107.00630), appendix I.1. Each time is uniform on its own.

    Parameters
    ----------
    schedule, n, generator
        As for `draw_uniform`.

    Returns
    -------
    Tensor
        Shape ``(n,)``, float64.
    """
    u = (
        torch.rand(1, generator=generator, dtype=torch.float64)
        + torch.arange(n, dtype=torch.float64) / n
    ) % 1
    return schedule.t_max - (schedule.t_max - schedule.t_min) * u


def draw_steps(schedule: NoiseSchedule, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw steps of a chain uniformly from ``{1, ..., T}`` (Ho et al. 2020, algorithm 1).

    Parameters
    ----------
    schedule
        A `TabulatedSchedule` of ``T = t_max`` steps.
    n
        Batch size.
    generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor
        Shape ``(n,)``, float64 holding integers.

    Raises
    ------
    ValueError
        If the schedule is not a chain.
    """
    if not isinstance(schedule, TabulatedSchedule):
        raise ValueError(
            f"{type(schedule).__name__} has no steps: use draw_uniform or draw_stratified"
        )
    return torch.randint(1, schedule.n_timesteps + 1, (n,), generator=generator).double()
