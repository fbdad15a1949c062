"""The U-Net: shapes, sizes, errors, seeds, and that it can learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retro_diffusion.networks import UNet


def activate(network: UNet) -> UNet:
    """Undo the zero initialisation, so that the output depends on everything."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.1)
    return network


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 8)),
        ({"multipliers": (1,)}, (7, 5)),
        ({"multipliers": (1, 2, 3), "blocks": 2}, (12, 8)),
        ({"patch": 2}, (28, 28)),
        ({"channels": 3, "out_channels": 6, "attention": (True, True)}, (4, 6)),
        ({"channels": 2, "patch": 3, "multipliers": (2,), "attention": (False,)}, (6, 9)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type(options: dict[str, Any], size: tuple[int, int], dtype: torch.dtype) -> None:
    network = UNet(**({"width": 8} | options)).to(dtype)
    x = torch.randn(2, network.channels, *size, dtype=dtype)
    y = network(x, torch.rand(2, dtype=dtype))
    assert y.shape == (2, network.out_channels, *size)
    assert y.dtype == dtype


def test_output_starts_at_zero() -> None:
    assert not UNet(width=8)(torch.randn(2, 1, 8, 8), torch.rand(2)).any()


def test_one_seed_one_network() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(nn.utils.parameters_to_vector(UNet(width=8).parameters()))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_time_and_class_matter() -> None:
    torch.manual_seed(0)
    network = activate(UNet(width=8, n_classes=3))
    x, t, labels = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    assert not torch.allclose(network(x, t, labels), network(x, t - 0.01, labels))
    assert not torch.allclose(network(x, t, labels), network(x, t, labels.flip(0)))
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 3)))


def test_every_parameter_receives_a_gradient() -> None:
    torch.manual_seed(0)
    network = activate(UNet(width=8, attention=(False, True), n_classes=2, patch=2))
    network(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 1])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_examples_do_not_mix() -> None:
    network = activate(UNet(width=8))
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    torch.testing.assert_close(network(x, t)[1:2], network(x[1:2], t[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 8, 8), r"expected images \(B, 1, H, W\), got \(2, 3, 8, 8\)"),
        ((2, 64), r"expected images \(B, 1, H, W\), got \(2, 64\)"),
        ((2, 1, 8, 10), r"multiples of 4, got \(8, 10\)"),
    ],
)
def test_wrong_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(width=8, patch=2)(torch.zeros(shape), torch.zeros(2))


def test_wrong_condition() -> None:
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"expected c_noise \(2,\), got \(3,\)"):
        UNet(width=8)(x, torch.zeros(3))
    with pytest.raises(ValueError, match="label 11 is outside 0 ... 10"):
        UNet(width=8, n_classes=10)(x, torch.zeros(2), torch.tensor([0, 11]))
    with pytest.raises(ValueError, match="has no classes"):
        UNet(width=8)(x, torch.zeros(2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10}, "width must be a positive multiple of 4, got 10"),
        ({"blocks": 0}, "blocks must be positive, got 0"),
        ({"multipliers": ()}, "the smallest multiplier must be positive, got 0"),
        ({"attention": (True,)}, "attention names 1 levels, multipliers 2"),
    ],
)
def test_impossible_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learns_to_paint_a_label_at_a_time(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = UNet(width=8, attention=(False, True), n_classes=2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        x, t, y = torch.randn(32, 1, 8, 8), torch.rand(32), torch.randint(2, (32,))
        target = (t + y)[:, None, None, None] * x
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            error = (network(x, t, y) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.25
