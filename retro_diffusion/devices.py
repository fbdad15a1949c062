"""Where a program computes, and how precisely it multiplies: each chosen once, as a value.

Times, schedules and the coefficients that follow from them stay in float64 on the CPU, and each is cast as
it meets a tensor of the device: no float64 goes to the device, since Apple's has none. Weights and samples
are float32; a precision says only in what type a network's products are taken.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor

from retro_diffusion.denoiser import DenoiserLike
from retro_diffusion.parameterizations import Prediction

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What a network may multiply in, by name."""


def pick(name: str = "auto") -> torch.device:
    """Turn a name into a device that this machine has.

    Of several processes that `torchrun` starts on one host, each gets a GPU of its own.

    Parameters
    ----------
    name
        "cpu", "cuda" (or "cuda:1", ...), "mps", or "auto" for the fastest of them present.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ValueError
        If the name is unknown, or the machine has no such device; the message lists what it has.
    """
    has = available()
    if name == "auto":
        name = has[0].partition(":")[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f'unknown device "{name}": choose auto, cpu, cuda or mps')
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    wanted = f"cuda:{device.index or 0}" if device.type == "cuda" else device.type
    if wanted not in has:
        raise ValueError(f'this machine has no device "{device}": it has {", ".join(has)}')
    return device


def available() -> list[str]:
    """List the devices of this machine, the fastest first.

    Returns
    -------
    list
        Names: every GPU as "cuda:0", "cuda:1", ..., then "mps" if it is there, then "cpu".
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(f"cuda:{index}" for index in range(n_gpus)), *mps, "cpu"]


def precision(name: str, device: torch.device) -> torch.dtype:
    """Turn the name of a precision into the type in which a network's products are taken.

    bfloat16 has the range of float32 and eight bits of precision: no loss needs to be scaled, and
    weights, sums and the optimiser stay in float32. It pays where the hardware multiplies it: on GPUs
    with tensor cores for it ("auto" takes it there), and on CPUs with AMX or AVX512-BF16 for networks
    of convolutions, where it is worth a try. Elsewhere it is emulated, and slower.

    Parameters
    ----------
    name
        "fp32", "bf16", or "auto".
    device
        Where it will run.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.bfloat16``, for `training.train` and `InPrecision`.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if name not in PRECISIONS:
        raise ValueError(f'unknown precision "{name}": choose auto, {" or ".join(PRECISIONS)}')
    return PRECISIONS[name]


def autocast(
    device: torch.device, dtype: torch.dtype
) -> contextlib.AbstractContextManager[Any, bool | None]:
    """Make the context in which matrix products and convolutions are taken in ``dtype``.

    Parameters
    ----------
    device
        Where the products are taken.
    dtype
        ``torch.float32``, which changes nothing, or ``torch.bfloat16``.

    Returns
    -------
    context manager
        What is computed inside keeps float32 weights, sums and normalisations.

    Raises
    ------
    ValueError
        If ``dtype`` is something else.
    """
    if dtype not in PRECISIONS.values():
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


class InPrecision:
    """A denoiser whose products are taken in another precision; every sampler runs it.

    Parameters
    ----------
    denoiser
        Any denoiser.
    dtype
        As for `autocast`.
    """

    def __init__(self, denoiser: DenoiserLike, dtype: torch.dtype) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.dtype = dtype

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Predict the pair for ``x_t`` at ``t``; shapes (B, *D), in the dtype of ``x_t``."""
        with autocast(x_t.device, self.dtype):
            return self.denoiser(x_t, t, cond)
