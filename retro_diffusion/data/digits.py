"""The 8x8 handwritten digits that come with scikit-learn: no download, images in seconds."""

import torch
from sklearn.datasets import load_digits

from retro_diffusion.data.images import Images, check_image_range


def digits() -> Images:
    """Load the 1,797 handwritten digits of 8 x 8 pixels.

    A pixel takes one of 17 values, 0 to 16 in the file, mapped to ``value / 8 - 1``. The standard
    deviation over all pixels is about 0.75, and a few border pixels never change, so that the pixel
    covariance is singular. From the UCI repository's "Optical Recognition of Handwritten Digits".

    Returns
    -------
    Images
        ``x`` of shape (1797, 1, 8, 8) in [-1, 1] and ``y`` in 0 ... 9, in the file's order.
    """
    file = load_digits()
    x = torch.from_numpy(file.images).float().unsqueeze(1) / 8 - 1
    return Images(check_image_range(x), torch.from_numpy(file.target).long())
