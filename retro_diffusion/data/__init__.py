"""Data: planar toy laws, the 8x8 digits, torchvision's small image sets, and mini-batches of them."""

from retro_diffusion.data.batches import Batches, fresh, minibatches, with_random_flip
from retro_diffusion.data.digits import digits
from retro_diffusion.data.images import Images, check_image_range, split
from retro_diffusion.data.torchvision_sets import DATASETS, load
from retro_diffusion.data.toy import (
    TOY,
    MixtureParameters,
    checkerboard,
    eight_gaussians,
    eight_gaussians_parameters,
    moons,
    sample_mixture,
    swiss_roll,
    toy_law,
    two_gaussians,
    two_gaussians_parameters,
)

__all__ = [
    "DATASETS",
    "TOY",
    "Batches",
    "Images",
    "MixtureParameters",
    "check_image_range",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "eight_gaussians_parameters",
    "fresh",
    "load",
    "minibatches",
    "moons",
    "sample_mixture",
    "split",
    "swiss_roll",
    "toy_law",
    "two_gaussians",
    "two_gaussians_parameters",
    "with_random_flip",
]
