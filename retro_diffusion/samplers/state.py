"""What a sampler is, what it yields, and where it starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor

from retro_diffusion.parameterizations import Prediction
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.times import check_grid

P = ParamSpec("P")


class State(NamedTuple):
    """One moment of sampling: the sample ``x`` of shape (B, *D) at time ``t``.

    ``prediction`` is the one that led here, made at the previous time.
    """

    t: Tensor
    x: Tensor
    prediction: Prediction


def sampler(steps: Callable[P, Iterator[State]]) -> Callable[P, Iterator[State]]:
    """Make a sampler of a generator function ``steps(denoiser, x, times, cond, ...)``.

    A sampler checks its arguments when it is called, computes nothing until the first state is
    asked for, keeps no graph for gradients, and stops at the first state that is not finite.

    Parameters
    ----------
    steps
        Yields a `State` after every step; gets ``times`` as float64 on the CPU.

    Returns
    -------
    Callable
        With the same parameters. Raises ``ValueError`` at the call if ``x`` or ``times`` cannot be
        a start and a grid, ``FloatingPointError`` on the way if a state is not finite.
    """
    signature, run = inspect.signature(steps), torch.no_grad()(steps)

    @functools.wraps(steps)
    def sample(*args: P.args, **kwargs: P.kwargs) -> Iterator[State]:
        call = signature.bind(*args, **kwargs)
        given = call.arguments
        given["times"] = check_grid(given["denoiser"].schedule, given["times"])
        check_start(given["x"])
        return _finite(run(*call.args, **call.kwargs))

    return sample


def check_start(x: Any) -> None:
    """Refuse what a sampler cannot start from.

    Parameters
    ----------
    x
        A floating-point tensor of shape (B, *D) without NaN or infinity.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor of shape (B, *D), not {what}")
    if not bool(x.isfinite().all()):
        raise ValueError("x holds NaN or infinity: a sampler starts from finite numbers")


def _finite(states: Iterator[State]) -> Iterator[State]:
    for state in states:
        if not bool(state.x.isfinite().all()):
            raise FloatingPointError(
                f"x is not finite after the step to t = {float(state.t):g}: "
                "the denoiser's output is not, or the steps are too large for this sampler"
            )
        yield state


def last(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end and return the sample.

    Parameters
    ----------
    states
        A sampler's states.

    Returns
    -------
    Tensor
        The last ``x``, shape (B, *D).

    Raises
    ------
    ValueError
        If there are no states.
    """
    state = None
    for state in states:  # noqa: B007
        pass
    if state is None:
        raise ValueError("there are no states: the sampler took no step")
    return state.x


def starting_noise(
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the sampler's start, ``N(0, (alpha^2 + sigma^2) I)`` at the noise end of the schedule.

    This is the variance that data of unit variance have there: 1 for every variance-preserving
    path and for rectified flow, ``1 + sigma_max^2`` for a variance-exploding one.

    Parameters
    ----------
    schedule
        The path.
    shape
        (B, *D).
    generator
        Source of randomness.
    dtype, device
        Of the result.

    Returns
    -------
    Tensor
        Shape (B, *D).
    """
    end = torch.tensor(schedule.t_max, dtype=torch.float64)
    scale = float((schedule.alpha(end) ** 2 + schedule.sigma(end) ** 2).sqrt())
    source = "cpu" if generator is None else generator.device
    return scale * torch.randn(shape, generator=generator, dtype=dtype, device=source).to(device)
