"""One door to SciPy's solvers of ordinary differential equations, for tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor


def solve(
    slope: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    t: Tensor,
    s: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
) -> tuple[Tensor, int]:
    """Solve ``dy/dt = slope(t, y)`` from time ``t`` to ``s``, forwards or backwards, to a tolerance.

    Parameters
    ----------
    slope
        Called with a time of shape (), float64, and a ``y`` shaped and typed like the given one.
    y
        Start, any shape: one system of equations.
    t, s
        First and last time, shape ().
    rtol, atol
        Relative and absolute tolerance of a step, > 0. A float32 ``y`` (the slope is computed in its
        precision) needs ``rtol >= 1e-6``: below, rounding looks like error and the solver stalls.
    method
        A method of ``scipy.integrate.solve_ivp``: RK45, DOP853, RK23, ...

    Returns
    -------
    tuple
        ``y`` at time ``s``, shaped and typed like the given one, and the number of calls of
        ``slope``.

    Raises
    ------
    ValueError
        If a tolerance is too small.
    FloatingPointError
        If ``slope`` returns NaN or infinity.
    RuntimeError
        If the solver gives up.
    """
    smallest = 0.0 if y.dtype == torch.float64 else 1e-6
    if not rtol > 0 or not atol > 0 or rtol < smallest:
        raise ValueError(
            f"rtol and atol must be positive, and rtol at least 1e-6 unless y is float64; "
            f"they are {rtol} and {atol}, and y is {y.dtype}"
        )

    def as_tensor(flat: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(flat)).reshape(y.shape).to(y)

    def flat_slope(time: float, flat: np.ndarray) -> np.ndarray:
        value = slope(torch.tensor(time, dtype=torch.float64), as_tensor(flat))
        if not bool(value.isfinite().all()):  # SciPy would search for a step size for ever
            raise FloatingPointError(f"the slope is not finite at t = {time:g}")
        return np.asarray(value.double().flatten().cpu())

    start, ends = y.double().flatten().cpu().numpy(), (float(t), float(s))
    solution = solve_ivp(flat_slope, ends, start, method, t_eval=ends[1:], rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(
            f"the solver gave up between t = {ends[0]:g} and {ends[1]:g}: {solution.message}"
        )
    return as_tensor(solution.y[:, -1]), solution.nfev
