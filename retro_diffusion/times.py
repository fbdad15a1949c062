"""Times: grids that samplers walk down, and draws that training takes.

A *grid* of ``n_steps`` steps is a float64 vector of ``n_steps + 1`` decreasing times from
``schedule.t_max`` (noise) to ``schedule.t_min`` (data). A denoiser is evaluated at all of them but
the last, so the number of steps is the number of function evaluations (NFE) of a one-evaluation
sampler. Of the grids of a chain, `trailing` and `linspace` visit the noise end ``T`` and `leading`
does not; `leading` and `linspace` visit step 1 and `trailing` does not. A *draw* is a float64 vector
of training times, one for each sample of a batch.
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


def _check_end(schedule: NoiseSchedule, end: float | None) -> float:
    end = schedule.t_min if end is None else end
    if not schedule.t_min <= end < schedule.t_max:
        raise ValueError(
            f"end must be in [{schedule.t_min:g}, {schedule.t_max:g}) "
            f"of {type(schedule).__name__}, not {end}"
        )
    return end


def uniform(schedule: NoiseSchedule, n_steps: int, end: float | None = None) -> Tensor:
    """Equally spaced times.

    Parameters
    ----------
    schedule
        Gives the two ends.
    n_steps
        Number of steps, >= 1.
    end
        Where to stop instead of at ``t_min``. (Song et al. 2021, arXiv:2011.13456, stop at 1e-3 on
        variance-preserving paths and at 1e-5 on variance-exploding ones.)

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, decreasing from ``t_max`` to ``end``.
    """
    _check_steps(n_steps)
    end = _check_end(schedule, end)
    return torch.linspace(schedule.t_max, end, n_steps + 1, dtype=torch.float64)


def uniform_logsnr(schedule: NoiseSchedule, n_steps: int, end: float) -> Tensor:
    """Times at which the log signal-to-noise ratio is equally spaced.

    The grid of DPM-Solver (Lu et al. 2022, arXiv:2206.00927, section 3.4).

    Parameters
    ----------
    schedule
        The path; ``alpha(t_max) > 0``.
    n_steps
        Number of steps, >= 1.
    end
        The last time, above ``t_min`` if ``sigma(t_min) = 0``, where the ratio is infinite.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, decreasing from ``t_max`` to ``end``.

    Raises
    ------
    ValueError
        If the ratio is infinite at one of the ends.
    """
    _check_steps(n_steps)
    ends = torch.tensor([schedule.t_max, _check_end(schedule, end)], dtype=torch.float64)
    first, final = schedule.logsnr(ends)
    if not bool(torch.isfinite(first) & torch.isfinite(final)):
        raise ValueError(
            f"log-SNR runs from {float(first):g} to {float(final):g} on this grid: "
            "it must be finite at both ends (choose end where sigma > 0, and a path with alpha > 0)"
        )
    levels = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64) * (final - first) + first
    return torch.cat([ends[:1], schedule.time_at(levels[1:-1]), ends[1:]])


def linspace(schedule: TabulatedSchedule, n_steps: int) -> Tensor:
    """Equally spaced steps of a chain, rounded, visiting both ends ``T`` and 1; then 0.

    Nichol and Dhariwal 2021 (arXiv:2102.09672), section 4, respace so.

    Parameters
    ----------
    schedule
        A chain of ``T`` steps.
    n_steps
        Number of steps, from 2 to ``T``.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, from ``T`` to 0.

    Raises
    ------
    ValueError
        If ``n_steps`` is smaller than 2 or larger than ``T``.
    """
    if not 2 <= n_steps <= schedule.n_timesteps:
        raise ValueError(f"n_steps must be between 2 and {schedule.n_timesteps}, not {n_steps}")
    steps = torch.linspace(schedule.n_timesteps, 1, n_steps, dtype=torch.float64).round()
    return torch.cat([steps, steps.new_zeros(1)])


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


def quadratic(schedule: NoiseSchedule, n_steps: int, end: float | None = None) -> Tensor:
    """Times whose square roots are equally spaced: more steps near the data.

    Song et al. 2021 (arXiv:2010.02502), appendix D.2, use it for CIFAR-10. (Their code starts at
    ``0.8 T``; this grid starts at ``t_max``.)

    Parameters
    ----------
    schedule, n_steps, end
        As for `uniform`.

    Returns
    -------
    Tensor
        Shape ``(n_steps + 1,)``, float64, decreasing from ``t_max`` to ``end``.
    """
    _check_steps(n_steps)
    end = _check_end(schedule, end)
    root = torch.linspace(1, 0, n_steps + 1, dtype=torch.float64)
    return end + (schedule.t_max - end) * root**2


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


def geometric(n_levels: int, sigma_min: float = 0.01, sigma_max: float = 1.0) -> Tensor:
    """NCSN's noise levels, each the same factor below the one before; the largest comes first.

    Song and Ermon 2019 (arXiv:1907.05600), section 5: ten levels from 1 to 0.01 for images in [0, 1].

    Parameters
    ----------
    n_levels
        Number of levels, >= 2.
    sigma_min, sigma_max
        Smallest and largest level, ``0 < sigma_min < sigma_max``.

    Returns
    -------
    Tensor
        Shape ``(n_levels,)``, float64, decreasing: times of a `SigmaSchedule`. No 0 at the end.

    Raises
    ------
    ValueError
        If ``n_levels`` is below 2 or the levels are not in order.
    """
    if n_levels < 2 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            "geometric needs n_levels >= 2 and 0 < sigma_min < sigma_max, "
            f"not {n_levels}, {sigma_min}, {sigma_max}"
        )
    ramp = torch.linspace(0, 1, n_levels, dtype=torch.float64)
    return sigma_max * (sigma_min / sigma_max) ** ramp


def at_levels(schedule: NoiseSchedule, levels: Tensor) -> Tensor:
    """Times at which a path has the noise levels ``sigma / alpha``: one grid for every schedule.

    Karras et al. 2022 (arXiv:2206.00364), equation 1 and table 1: a path is a noise level times a scale,
    and `karras` or `geometric` levels can be walked on any of them.

    Parameters
    ----------
    schedule
        The path.
    levels
        Decreasing noise levels, shape ``(S + 1,)``, >= 0; a level of 0 is ``t_min``.

    Returns
    -------
    Tensor
        Shape ``(S + 1,)``, float64.

    Raises
    ------
    ValueError
        If a level is negative, or outside what the path reaches.
    """
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = (schedule.sigma(ends) / schedule.alpha(ends)).tolist()
    slack = 1 + 1e-9  # the ends, past which rounding may lead
    if not bool(((levels >= low / slack) & (levels <= high * slack)).all()):
        raise ValueError(
            f"levels run from {float(levels.max()):g} to {float(levels.min()):g}; sigma / alpha of "
            f"{type(schedule).__name__} from {high:g} to {low:g}"
        )
    return schedule.time_at(-2 * levels.double().log())


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


def draw_levels(levels: Tensor) -> DrawTimes:
    """Draw from a list of times, each as likely (Song and Ermon 2019, arXiv:1907.05600, equation 6).

    Parameters
    ----------
    levels
        The times, shape (L,), such as `geometric` noise levels.

    Returns
    -------
    DrawTimes
        ``draw(schedule, n, generator)``, float64 of shape ``(n,)``.

    Raises
    ------
    ValueError
        If ``levels`` is not a non-empty vector.
    """
    if levels.ndim != 1 or len(levels) == 0:
        raise ValueError(f"levels must be a non-empty vector, not of shape {tuple(levels.shape)}")

    def draw(schedule: NoiseSchedule, n: int, generator: torch.Generator | None = None) -> Tensor:
        return levels.double()[torch.randint(len(levels), (n,), generator=generator)]

    return draw


def draw_lognormal(mean: float = -1.2, std: float = 1.2) -> DrawTimes:
    """Draw noise levels whose logarithm is normal (Karras et al. 2022, arXiv:2206.00364, table 1).

    Parameters
    ----------
    mean, std
        Of ``log(sigma / alpha)``, ``std > 0``.

    Returns
    -------
    DrawTimes
        ``draw(schedule, n, generator)``, float64 of shape ``(n,)``: the times of these levels on any
        path; levels that it does not reach become its ends.

    Raises
    ------
    ValueError
        If ``std`` is not positive.
    """
    if not std > 0:
        raise ValueError(f"std must be positive, not {std}")

    def draw(schedule: NoiseSchedule, n: int, generator: torch.Generator | None = None) -> Tensor:
        level = mean + std * torch.randn(n, generator=generator, dtype=torch.float64)
        return schedule.time_at(-2 * level)

    return draw


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
