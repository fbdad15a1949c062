"""The perceptron: shapes, errors, seeds, and that it can learn."""

from __future__ import annotations

import pytest
import torch

from retro_diffusion.networks import MLP


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "out_dim"), [(1, None), (2, None), (2, 4), (5, 10)])
def test_shape_and_type(dim: int, out_dim: int | None, dtype: torch.dtype) -> None:
    network = MLP(dim, width=8, depth=2, out_dim=out_dim).to(dtype)
    y = network(torch.randn(3, dim, dtype=dtype), torch.rand(3, dtype=dtype))
    assert y.shape == (3, out_dim or dim)
    assert y.dtype == dtype


def test_one_seed_one_network() -> None:
    x, t = torch.randn(3, 2), torch.rand(3)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(MLP(2, width=8)(x, t))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_time_and_class_matter() -> None:
    torch.manual_seed(0)
    network, x, t = MLP(2, n_classes=3), torch.randn(3, 2), torch.rand(3)
    labels = torch.tensor([0, 1, 2])
    assert not torch.allclose(network(x, t, labels), network(x, t / 2, labels))
    assert not torch.allclose(network(x, t, labels), network(x, t, labels.flip(0)))
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 3)))


def test_examples_do_not_mix() -> None:
    network, x, t = MLP(2, width=16), torch.randn(4, 2), torch.rand(4)
    torch.testing.assert_close(network(x, t)[1:2], network(x[1:2], t[1:2]))


def test_errors() -> None:
    network = MLP(2, width=8)
    with pytest.raises(ValueError, match=r"expected vectors \(B, 2\), got \(3, 1\)"):
        network(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected vectors \(B, 2\), got \(3, 2, 1\)"):
        network(torch.zeros(3, 2, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected c_noise \(3,\), got \(\)"):
        network(torch.zeros(3, 2), torch.tensor(0.5))
    with pytest.raises(ValueError, match="depth must be positive, got 0"):
        MLP(2, depth=0)


def test_learns_a_function_of_place_time_and_class() -> None:
    torch.manual_seed(0)
    network = MLP(2, width=64, depth=2, n_classes=2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        x, t, y = torch.randn(256, 2), torch.rand(256), torch.randint(2, (256,))
        target = torch.sin(3 * t + y)[:, None] * x.flip(1)
        error = (network(x, t, y) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.02
