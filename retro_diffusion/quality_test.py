"""The whole way through the house: data, training, sampling, evaluation against the floor."""

import torch

from retro_diffusion import data, evaluation, losses, samplers, schedules, times, training
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.networks import MLP
from retro_diffusion.parameterizations import predict_v

N_STEPS = 1500
BAND = 1.4
"""Energy distance of the samples over that of real points; fixed before the first run."""


def trained(seed: int, n_steps: int) -> Denoiser:
    torch.manual_seed(seed)
    states = training.train(
        Denoiser(MLP(2), schedules.CosineVP(), predict_v),
        data.fresh(data.swiss_roll, 256),
        n_steps=n_steps,
        loss=losses.simple_loss(times.draw_stratified),
        lr=3e-3,
        lr_schedule=training.warmup_cosine(50, n_steps),
        ema_decay=0.99,
        seed=seed,
        progress=False,
    )
    ema = training.finish(states).ema
    assert isinstance(ema, Denoiser)
    return ema


def energy(denoiser: Denoiser, seed: int, parts: int = 10) -> evaluation.Measurement:
    """Energy distance of parts of 2,000 samples (50 DDIM steps) to 4,000 points of the law."""
    generator = torch.Generator().manual_seed(seed)
    n = 2000 * parts
    noise = samplers.starting_noise(denoiser.schedule, (n, 2), generator=generator)
    x = samplers.last(samplers.ddim(denoiser, noise, times.uniform(denoiser.schedule, 50)))
    reference, held_out = data.swiss_roll(4000, generator), data.swiss_roll(n, generator)
    return evaluation.measure(
        evaluation.energy_distance,
        x,
        reference,
        held_out=held_out,
        n_splits=parts,
        generator=generator,
    )


def test_a_small_network_draws_the_swiss_roll() -> None:
    # Three seeds, 20 parts each: 1.10, 1.22 and 1.26, after 12 CPU-seconds of training.
    measured = energy(trained(seed=0, n_steps=N_STEPS), seed=10)
    print(measured)
    assert measured.ratio <= BAND


def test_too_short_a_training_is_noticed() -> None:
    measured = energy(trained(seed=0, n_steps=N_STEPS // 10), seed=10, parts=4)
    print(measured)
    assert measured.ratio > BAND
