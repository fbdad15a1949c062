"""Compute the digits of the live figures: some clean ones, and walks of a network trained for a minute.

`bazel run //tools/figures:live_digits` writes retro_diffusion/live/digits.json in the checkout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro_diffusion import data, samplers, schedules, times
from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.parameterizations import predict_eps
from tools import digits_ddpm
from tools.command_line import in_checkout, positive

CLEAN = (2, 4, 8)  # one image of each of these classes
WALKS = (0, 3, 5, 9)  # what the network is asked for
N_COLUMNS = 13
SCALE = 100  # values are stored in hundredths


def main() -> None:
    """Train, walk and write."""
    parser = argparse.ArgumentParser(
        prog="live_digits", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--steps", type=positive, default=1200, help="optimiser steps")
    parser.add_argument("--out", type=Path, default=Path("retro_diffusion/live/digits.json"))
    arguments = parser.parse_args()
    out = in_checkout(arguments.out)
    denoiser = digits_ddpm.trained(
        data.digits(), schedules.linear(), predict_eps, n_steps=arguments.steps, n_warmup=50
    )
    text = json.dumps(_content(denoiser), separators=(",", ":"))
    out.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out}, {len(text) / 1e3:.0f} kB")


def _content(denoiser: Denoiser) -> dict[str, Any]:
    """Everything that the figures show; images of 64 integers, in hundredths."""
    shown = torch.linspace(denoiser.schedule.t_max, 0, N_COLUMNS, dtype=torch.float64).round()
    x, x0 = _walks(denoiser, shown)
    pixels, labels = data.digits()
    clean = torch.stack([pixels[labels == digit][0] for digit in CLEAN])
    return {
        "scale": SCALE,
        "times": [int(t) for t in shown],
        "alphas": [round(float(a), 5) for a in denoiser.schedule.alpha(shown)],
        "clean": _integers(clean),
        "walks": [
            {"label": label, "x": _integers(x[:, i]), "x0": _integers(x0[:, i])}
            for i, label in enumerate(WALKS)
        ],
    }


@torch.no_grad()
def _walks(denoiser: Denoiser, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and the guesses of their end at the times shown, (T, walks, 1, 8, 8) each.

    The guess is clipped to the range of the data, as in DDPM's code.
    """
    clipped, schedule = Clipped(denoiser), denoiser.schedule
    assert isinstance(schedule, schedules.TabulatedSchedule)
    generator, labels = torch.Generator().manual_seed(1), torch.tensor(WALKS)
    noise = samplers.starting_noise(schedule, (len(WALKS), 1, 8, 8), generator=generator)
    every = times.trailing(schedule, schedule.n_timesteps)
    states = samplers.ancestral(clipped, noise, every, labels, generator=generator)
    at = {schedule.t_max: noise} | {float(state.t): state.x for state in states}
    x = [at[float(t)] for t in shown]
    guesses = [clipped(x_t, t, labels).x0 for x_t, t in zip(x[:-1], shown[:-1], strict=True)]
    return torch.stack(x), torch.stack([*guesses, x[-1]])


def _integers(images: Tensor) -> list[list[int]]:
    return [[int(value) for value in image.flatten() * SCALE] for image in images.round(decimals=2)]


if __name__ == "__main__":
    main()
