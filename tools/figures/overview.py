"""Draw the README's figure: a digit dissolves, a network trained for a minute walks back.

`bazel run //tools/figures:overview` writes docs/figures/overview.png in the checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from retro_diffusion import data, plotting, samplers, schedules, times
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.parameterizations import predict_v
from tools import digits_ddpm
from tools.command_line import in_checkout, positive

N_COLUMNS = 20


def main() -> None:
    """Train, draw and save."""
    parser = argparse.ArgumentParser(prog="overview", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--steps", type=positive, default=1200, help="optimiser steps (default: 1200)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/figures/overview.png"))
    arguments = parser.parse_args()
    out = in_checkout(arguments.out)
    denoiser = digits_ddpm.trained(
        data.digits(), schedules.cosine(), predict_v, n_steps=arguments.steps, n_warmup=50
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    _draw(denoiser).savefig(out, dpi=160, bbox_inches="tight", facecolor="white")
    print(f"wrote {out}")


def _draw(denoiser: Denoiser) -> Figure:
    schedule = denoiser.schedule
    generator = torch.Generator().manual_seed(7)
    digit = data.digits().x[3:4]
    eps = torch.randn(digit.shape, generator=generator)
    shown = torch.linspace(0, 900, N_COLUMNS, dtype=torch.float64).round()
    forward = torch.cat([schedule.add_noise(digit, eps, t) for t in shown])

    noise = samplers.starting_noise(schedule, (1, 1, 8, 8), generator=generator)
    walk = [noise, *_walk(denoiser, noise, torch.tensor([3]))]
    reverse = torch.cat([walk[i] for i in torch.linspace(0, len(walk) - 1, N_COLUMNS).long()])

    noise = samplers.starting_noise(schedule, (3 * N_COLUMNS, 1, 8, 8), generator=generator)
    labels = torch.arange(3 * N_COLUMNS) % 10
    drawn = _walk(denoiser, noise, labels)[-1]
    return _stack([forward, reverse, drawn])


def _walk(denoiser: Denoiser, noise: Tensor, labels: Tensor) -> list[Tensor]:
    schedule = denoiser.schedule
    assert isinstance(schedule, schedules.TabulatedSchedule)
    states = samplers.ddim(denoiser, noise, times.trailing(schedule, 50), labels)
    return [state.x for state in states]


def _stack(blocks: list[Tensor]) -> Figure:
    """One block of images below the other, each with a caption."""
    plotting.use_style()
    captions = ["forward: add noise", "reverse: predict, mix again", "samples"]
    heights = [len(block) // N_COLUMNS for block in blocks]
    figure, axes = plt.subplots(
        3, 1, figsize=(7, 2.7), height_ratios=[h + 0.25 for h in heights], layout="constrained"
    )
    for axis, block, caption in zip(axes, blocks, captions, strict=True):
        rows = block.clamp(-1, 1).squeeze(1).unflatten(0, (-1, N_COLUMNS))
        padded = torch.nn.functional.pad(rows, (0, 1, 0, 1), value=1.0)
        axis.imshow(
            padded.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray", vmin=-1, vmax=1
        )
        axis.set_title(caption, loc="left", fontsize=9)
        axis.axis("off")
    return figure


if __name__ == "__main__":
    main()
