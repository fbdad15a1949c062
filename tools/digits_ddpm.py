"""DDPM on the digits of scikit-learn, trained within a minute, for figures and measurements."""

from __future__ import annotations

import torch

from retro_diffusion import data, losses, training
from retro_diffusion.data import Images
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.networks import UNet
from retro_diffusion.parameterizations import Parameterization
from retro_diffusion.schedules import NoiseSchedule


def trained(
    images: Images,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    *,
    n_steps: int,
    n_warmup: int,
) -> Denoiser:
    """Train with DDPM's simple loss on labelled digits, as notebook 05 does.

    Parameters
    ----------
    images
        Of 8 x 8 pixels, in ten classes.
    schedule, parameterization
        Of the denoiser.
    n_steps, n_warmup
        Optimiser steps, and how many of them the learning rate rises.

    Returns
    -------
    Denoiser
        The moving average of the weights. The same arguments give the same one.
    """
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(width=16, n_classes=10), schedule, parameterization)
    states = training.train(
        denoiser,
        data.minibatches(*images, batch_size=128),
        n_steps=n_steps,
        loss=losses.simple_loss(),
        lr=3e-3,
        lr_schedule=training.warmup_cosine(n_warmup, n_steps),
    )
    ema = training.finish(states).ema
    assert isinstance(ema, Denoiser)  # a copy of the denoiser that was trained
    return ema
