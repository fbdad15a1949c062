"""Networks: anything called as ``network(x, c_noise, cond)``."""

from retro_diffusion.networks.mlp import MLP
from retro_diffusion.networks.unet import UNet

__all__ = ["MLP", "UNet"]
