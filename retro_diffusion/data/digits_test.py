"""The 8x8 digits: range, values, and the facts that the docstring states."""

import torch

from retro_diffusion.data.digits import digits


def test_shapes_range_and_documented_facts() -> None:
    x, y = digits()
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.float32
    assert y.shape == (1797,) and y.dtype == torch.int64
    assert x.min() == -1 and x.max() == 1 and len(x.unique()) == 17
    assert y.unique().tolist() == list(range(10))
    assert abs(x.std().item() - 0.75) < 0.01
    assert (x.flatten(1).std(0) == 0).sum() >= 2
