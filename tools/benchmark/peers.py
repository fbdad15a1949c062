"""The libraries that the benchmark measures against, each used as its own documentation says.

Data stay in memory and progress bars and logging are off, for all alike; so is `accelerate`, around
the peers' loops, which on one CPU would only add to their time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch import denoising_diffusion_pytorch as ddp
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from ema_pytorch import EMA
from smalldiffusion import Scaled, ScheduleLogLinear, samples
from smalldiffusion import Unet as SmallUnet
from smalldiffusion.diffusion import generate_train_sample
from torch import Tensor, nn
from torch.nn import functional

from retro_diffusion import devices
from retro_diffusion.data import Images
from tools.benchmark.contenders import CPU, Shape

ddp.tqdm = lambda steps, **_: steps  # its samplers have no option that turns the bar off


def _batch(x: Tensor, batch_size: int) -> Tensor:
    return x[torch.randint(len(x), (batch_size,))]


class DenoisingDiffusionPytorch:
    """denoising-diffusion-pytorch: `Unet`, `GaussianDiffusion` and the step of its `Trainer`.

    Parameters
    ----------
    network
        A `Unet`.
    shape
        Of the images.
    dtype
        ``torch.bfloat16`` for its mixed precision.
    lr
        Of Adam with betas (0.9, 0.99); the default is that of its introduction.
    """

    def __init__(
        self,
        network: Unet,
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        lr: float = 8e-5,
    ) -> None:
        self.network, self.shape, self.dtype, self.lr = network, shape, dtype, lr
        self.diffusion = GaussianDiffusion(network, image_size=shape[1])
        self.average = self.diffusion

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        """Run the bare network; shapes as in `Contender`."""
        with devices.autocast(CPU, self.dtype):
            output: Tensor = self.network(x, (1000 * u).long())
            return output

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        """Return the step of `Trainer.train`: loss, gradient, clipping to 1, Adam, average."""
        unit = (images.x + 1) / 2  # it takes images in [0, 1]
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr, betas=(0.9, 0.99))
        average = EMA(self.diffusion, beta=0.995, update_every=10)
        self.average = average.ema_model

        def step() -> None:
            self.diffusion.train()
            with devices.autocast(CPU, self.dtype):
                loss = self.diffusion(_batch(unit, batch_size))
            loss.item()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update()

        return step

    def sample(self, n: int, n_steps: int) -> Tensor:
        """Draw with its DDIM."""
        diffusion = self.average.eval()
        diffusion.sampling_timesteps, diffusion.is_ddim_sampling = n_steps, True
        with devices.autocast(CPU, self.dtype):
            images: Tensor = diffusion.sample(batch_size=n)
        return images.clone() * 2 - 1


class Diffusers:
    """diffusers: `UNet2DModel`, `DDPMScheduler`, and the loop of its tutorial on training.

    Parameters
    ----------
    network
        A `UNet2DModel`.
    shape
        Of the images.
    dtype
        ``torch.bfloat16`` for mixed precision.
    lr, n_warmup
        Of AdamW, and steps until that rate; the defaults are the tutorial's.
    n_steps
        Length of the cosine along which the rate then falls.
    """

    def __init__(
        self,
        network: UNet2DModel,
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        lr: float = 1e-4,
        n_warmup: int = 500,
        n_steps: int = 100_000,
    ) -> None:
        self.network, self.shape, self.dtype, self.lr = network, shape, dtype, lr
        self.n_warmup, self.n_steps = n_warmup, n_steps
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        """Run the bare network; shapes as in `Contender`."""
        with devices.autocast(CPU, self.dtype):
            output: Tensor = self.network(x, (1000 * u).long(), return_dict=False)[0]
            return output

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        """Return the tutorial's step: loss, gradient, clipping to 1, AdamW, learning rate."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr)
        rate = get_cosine_schedule_with_warmup(optimizer, self.n_warmup, self.n_steps)

        def step() -> None:
            self.network.train()
            clean = _batch(images.x, batch_size)
            noise = torch.randn(clean.shape)
            t = torch.randint(0, 1000, (batch_size,))
            noisy = self.scheduler.add_noise(clean, noise, t)
            with devices.autocast(CPU, self.dtype):
                prediction = self.network(noisy, t, return_dict=False)[0]
                loss = functional.mse_loss(prediction, noise)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            loss.detach().item()

        return step

    @torch.no_grad()
    def sample(self, n: int, n_steps: int) -> Tensor:
        """Draw with its DDIM scheduler, as its pipeline does."""
        self.network.eval()
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(n_steps)
        x = torch.randn(n, *self.shape)
        for t in scheduler.timesteps:
            with devices.autocast(CPU, self.dtype):
                output = self.network(x, t).sample
            x = scheduler.step(output.float(), t, x).prev_sample
        return x.clamp(-1, 1)


class SmallDiffusion:
    """smalldiffusion: its `Unet`, scaled, `ScheduleLogLinear`, and the body of its `training_loop`.

    Parameters
    ----------
    network
        What `small_unet` returns.
    shape
        Of the images.
    lr
        Of AdamW; the default is that of its loop.
    """

    def __init__(self, network: SmallUnet, shape: Shape, *, lr: float = 1e-3) -> None:
        self.network, self.shape, self.lr = network, shape, lr
        self.dtype = torch.float32
        self.schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        """Run the bare network; shapes as in `Contender`."""
        sigma = self.schedule[(len(self.schedule) * u).long()]
        output: Tensor = self.network(x, sigma[:, None, None, None])
        return output

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        """Return the body of its loop: loss, gradient, AdamW."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr)
        get_loss = self.network.get_loss

        def step() -> None:
            self.network.train()
            optimizer.zero_grad()
            batch = generate_train_sample(_batch(images.x, batch_size), self.schedule)
            x0, sigma, eps, cond = batch
            loss = get_loss(x0, sigma, eps, cond=cond)
            loss.backward()
            optimizer.step()

        return step

    def sample(self, n: int, n_steps: int) -> Tensor:
        """Draw with DDIM, its `samples` with ``gam=1`` and ``mu=0``."""
        *_, x = samples(self.network, self.schedule.sample_sigmas(n_steps), batchsize=n)
        drawn: Tensor = x
        return drawn.clamp(-1, 1)


def diffusers_unet(
    shape: Shape, widths: Sequence[int], *, attention: Sequence[bool], blocks: int = 2
) -> UNet2DModel:
    """Build a `UNet2DModel`; between encoder and decoder it always attends.

    Parameters
    ----------
    shape
        Of the images.
    widths
        Channels of each level.
    attention
        Whether the blocks of each level attend.
    blocks
        Residual blocks per level of the encoder; its decoder has one more.

    Returns
    -------
    UNet2DModel
        Untrained.
    """
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=blocks,
        norm_num_groups=min(32, widths[0]),
        block_out_channels=tuple(widths),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
    )


def small_unet(
    shape: Shape, width: int, multipliers: Sequence[int], *, attention: Sequence[int] = ()
) -> SmallUnet:
    """Build smalldiffusion's U-Net, its input scaled as in its examples.

    Parameters
    ----------
    shape
        Of the images.
    width, multipliers
        Channels of the first level, and of each level over it.
    attention
        Heights at which the blocks attend.

    Returns
    -------
    SmallUnet
        Untrained.
    """
    channels, height, _ = shape
    return Scaled(SmallUnet)(
        height,
        channels,
        channels,
        ch=width,
        ch_mult=tuple(multipliers),
        attn_resolutions=tuple(attention),
    )
