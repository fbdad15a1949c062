"""Who competes, with which networks and recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from denoising_diffusion_pytorch import Unet
from diffusers import UNet2DModel

from retro_diffusion import data, training
from retro_diffusion.networks import UNet
from tools.benchmark.contenders import Contender, Ours, Shape
from tools.benchmark.peers import (
    DenoisingDiffusionPytorch,
    Diffusers,
    SmallDiffusion,
    diffusers_unet,
    small_unet,
)
from tools.benchmark.quality import Judge, Recipe
from tools.benchmark.report import BF16, OURS
from tools.benchmark.speed import Family

DDP, DIFFUSERS, SMALL = "denoising-diffusion-pytorch", "diffusers", "smalldiffusion"


def matched(shape: Shape) -> dict[str, Family]:
    """Give every library the same configuration: width 32, multipliers 1 and 2, two blocks per level.

    What differs then is the libraries' own: diffusers and smalldiffusion have one block more per
    level of the decoder and always attend between encoder and decoder, denoising-diffusion-pytorch
    attends at every level, linearly at all but the last. Its fused attention is on, as in its
    introduction, but for bfloat16, where it is the slower choice on a CPU.

    Parameters
    ----------
    shape
        Of the images; height and width even.

    Returns
    -------
    dict
        Two families: all attend in the blocks of the second level, or no block attends.
    """
    channels, height, _ = shape

    def unet(patch: int = 1, attention: tuple[bool, bool] | None = None) -> UNet:
        return UNet(channels, 32, (1, 2), blocks=2, attention=attention, patch=patch)

    def ddp(fused: bool) -> Unet:
        return Unet(dim=32, dim_mults=(1, 2), channels=channels, flash_attn=fused)

    def others(attend: bool) -> dict[str, Contender]:
        def unet2d() -> UNet2DModel:
            return diffusers_unet(shape, (32, 64), attention=(False, attend))

        resolutions = (height // 2,) if attend else ()
        return {
            DDP: DenoisingDiffusionPytorch(ddp(True), shape),
            DDP + BF16: DenoisingDiffusionPytorch(ddp(False), shape, dtype=torch.bfloat16),
            DIFFUSERS: Diffusers(unet2d(), shape),
            DIFFUSERS + BF16: Diffusers(unet2d(), shape, dtype=torch.bfloat16),
            SMALL: SmallDiffusion(small_unet(shape, 32, (1, 2), attention=resolutions), shape),
        }

    attending = (False, True)
    return {
        "attention in the second level": {
            OURS: Ours(unet(attention=attending), shape),
            OURS + BF16: Ours(unet(attention=attending), shape, dtype=torch.bfloat16),
            **others(True),
        },
        "no attention in the blocks": {
            OURS: Ours(unet(), shape),
            OURS + BF16: Ours(unet(), shape, dtype=torch.bfloat16),
            f"{OURS}, patch 2": Ours(unet(patch=2), shape),
            f"{OURS}, patch 2{BF16}": Ours(unet(patch=2), shape, dtype=torch.bfloat16),
            **others(False),
        },
    }


def recipes(name: str, seed: int) -> dict[str, Recipe]:
    """Give every library its own recipe, and two of the peers ours as well.

    Ours is that of notebook 05, with labels and without. Theirs are those of their introductions and
    examples, less the levels of the network for which the images are too small; smalldiffusion's
    batch of 1024 is cut to ours. "Our recipe" is a peer with a network like ours and our batch size
    and learning rate.

    Parameters
    ----------
    name
        "digits" (8 x 8) or "mnist" (28 x 28).
    seed
        Of weights, batches and samples.

    Returns
    -------
    dict
        By name; the first is ours.
    """
    torch.manual_seed(seed)
    digits = name == "digits"
    shape = (1, 8, 8) if digits else (1, 28, 28)
    levels = 4 if digits else 3  # that halving leaves at least one pixel, and whole ones
    width, n_steps = (16, 1000) if digits else (32, 1400)
    warmup = n_steps // 10

    def ours(n_classes: int) -> Recipe:
        network = UNet(width=width, patch=1 if digits else 2, n_classes=n_classes)
        schedule = training.warmup_cosine(warmup, n_steps)
        return Recipe(Ours(network, shape, lr=3e-3, lr_schedule=schedule, seed=seed), 128)

    ddp = Unet(dim=64, dim_mults=(1, 2, 4, 8)[:levels], channels=1, flash_attn=True)
    ddp_like_ours = Unet(dim=width, dim_mults=(1, 2), channels=1, flash_attn=True)
    attention = [level == levels - 2 for level in range(levels)]
    unet = diffusers_unet(shape, (128, 128, 256, 256)[:levels], attention=attention)
    like_ours = diffusers_unet(shape, (width, 2 * width), attention=(False, False), blocks=1)
    small = small_unet(shape, 64, (1, 1, 2), attention=(shape[1] // 2,))
    return {
        OURS: ours(10),
        f"{OURS}, without labels": ours(0),
        DDP: Recipe(DenoisingDiffusionPytorch(ddp, shape), 64),
        f"{DDP}, our recipe": Recipe(DenoisingDiffusionPytorch(ddp_like_ours, shape, lr=3e-3), 128),
        DIFFUSERS: Recipe(Diffusers(unet, shape), 16),
        f"{DIFFUSERS}, our recipe": Recipe(
            Diffusers(like_ours, shape, lr=3e-3, n_warmup=warmup, n_steps=n_steps), 128
        ),
        SMALL: Recipe(SmallDiffusion(small, shape, lr=7e-4), 128),
    }


def judges(mnist: Path | None) -> dict[str, Callable[[], Judge]]:
    """Make the judges of part d.

    Parameters
    ----------
    mnist
        Folder of MNIST's files, of which the 10,000 images of the test half are used; or None.

    Returns
    -------
    dict
        By the data set's name.
    """
    made = {"digits": lambda: Judge(data.digits(), (997, 400, 400))}
    if mnist is not None:
        images = data.load("mnist", root=mnist, train=False)
        made["mnist"] = lambda: Judge(images, (8000, 1000, 1000))
    return made
