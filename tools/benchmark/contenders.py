"""What the benchmark compares: the protocol of a contender, and this library as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from retro_diffusion import data, devices, losses, samplers, schedules, times, training
from retro_diffusion.data import Images
from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.networks import UNet
from retro_diffusion.parameterizations import predict_v

CPU = torch.device("cpu")

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Contender(Protocol):
    """A library with a network: what it takes to time it, whatever its own interface is."""

    @property
    def network(self) -> nn.Module:
        """The network that is trained and sampled with."""
        ...

    @property
    def shape(self) -> Shape:
        """Of the images."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """``torch.float32``, or ``torch.bfloat16`` under autocast."""
        ...

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        """Run the bare network on images (B, C, H, W) at times ``u`` in [0, 1), shape (B,)."""
        ...

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        """Return a function that takes one whole training step on a random batch of the images."""
        ...

    def sample(self, n: int, n_steps: int) -> Tensor:
        """Draw images (n, C, H, W) in [-1, 1] with DDIM, from the averaged weights if there are any."""
        ...


class Ours:
    """The library itself: v-prediction on the cosine chain, `training.train`, DDIM.

    Parameters
    ----------
    network
        A U-Net; one with classes is trained with the labels and sampled with those of the data.
    shape
        Of the images.
    dtype
        ``torch.bfloat16`` for autocast in training and in sampling.
    lr, lr_schedule
        As for `training.train`.
    seed
        Determines training and samples.
    """

    def __init__(
        self,
        network: UNet,
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        lr: float = 1e-3,
        lr_schedule: training.LRSchedule | None = None,
        seed: int = 0,
    ) -> None:
        self.network, self.shape, self.dtype, self.seed = network, shape, dtype, seed
        self.lr, self.lr_schedule = lr, lr_schedule
        self.schedule = schedules.cosine(1000)
        self.denoiser = Denoiser(network, self.schedule, predict_v)
        self.average: nn.Module = self.denoiser
        self.labels = torch.zeros(1, dtype=torch.int64)

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        """Run the bare network; shapes as in `Contender`."""
        with devices.autocast(CPU, self.dtype):
            output: Tensor = self.network(x, u)
            return output

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        """Return one step of the library's own loop."""
        self.labels = images.y
        labels = images.y if self.network.n_classes else None
        states = training.train(
            self.denoiser,
            data.minibatches(images.x, labels, batch_size=batch_size),
            n_steps=10**9,
            loss=losses.simple_loss(),
            lr=self.lr,
            lr_schedule=self.lr_schedule,
            dtype=self.dtype,
            seed=self.seed,
            progress=False,
        )

        def step() -> None:
            self.average = next(states).ema

        return step

    def sample(self, n: int, n_steps: int) -> Tensor:
        """Draw with DDIM on the trailing grid, ``x0`` clipped, classes as frequent as in the data."""
        assert isinstance(self.average, Denoiser)  # train() copies the denoiser it is given
        generator = torch.Generator().manual_seed(self.seed)
        cond = None
        if self.network.n_classes:
            cond = self.labels[torch.randint(len(self.labels), (n,), generator=generator)]
        start = samplers.starting_noise(self.schedule, (n, *self.shape), generator=generator)
        grid = times.trailing(self.schedule, n_steps)
        self.average.eval()
        with devices.autocast(CPU, self.dtype):
            x = samplers.last(samplers.ddim(Clipped(self.average), start, grid, cond))
        return x.clamp(-1, 1)


def parameters(network: nn.Module) -> int:
    """Count the scalars that are trained."""
    return training.count_parameters(network)


def flops(contender: Contender) -> tuple[float, float]:
    """Count floating-point operations per image, a multiplication and an addition being two.

    Convolutions and matrix products alone, as `torch.utils.flop_counter` counts them.

    Parameters
    ----------
    contender
        Whose network to count.

    Returns
    -------
    tuple of float
        Those of one evaluation, and of one evaluation with its gradient.
    """
    x, u = torch.zeros(1, *contender.shape), torch.full((1,), 0.5)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        contender.call(x, u)
    with FlopCounterMode(display=False) as both:
        contender.call(x, u).float().sum().backward()
    contender.network.zero_grad(set_to_none=True)
    return float(forward.get_total_flops()), float(both.get_total_flops())
