"""Layers: values where they are known, and the properties the networks rely on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from retro_diffusion.networks import layers


def test_sinusoidal_embedding_values() -> None:
    embedding = layers.sinusoidal_embedding(torch.tensor([0.0, 2.0]), 4, max_period=100.0)
    expected = [[1, 1, 0, 0], [math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2)]]
    torch.testing.assert_close(embedding, torch.tensor(expected))


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.int64, torch.float32), (torch.float64, torch.float64)],
)
def test_embeddings_are_at_least_float32(given: torch.dtype, expected: torch.dtype) -> None:
    position = torch.ones(2, dtype=given)
    assert layers.sinusoidal_embedding(position, 4).dtype == expected
    assert layers.fourier_features(position).dtype == expected


def test_sinusoidal_embedding_tells_a_thousand_steps_apart() -> None:
    embedding = layers.sinusoidal_embedding(torch.arange(1000.0), 16)
    assert torch.nn.functional.pdist(embedding).min() > 0.1


def test_fourier_features_values() -> None:
    features = layers.fourier_features(torch.tensor([1.0]), 2)
    torch.testing.assert_close(features, torch.tensor([[1.0, 0, -1, 1, 0]]), atol=1e-6, rtol=0)


def test_embedding_errors() -> None:
    with pytest.raises(ValueError, match="even, positive dimension, got 3"):
        layers.sinusoidal_embedding(torch.zeros(1), 3)
    with pytest.raises(ValueError, match=r"one position per example, \(B,\), got \(\)"):
        layers.sinusoidal_embedding(torch.tensor(0.0), 4)
    with pytest.raises(ValueError, match="one position per example"):
        layers.fourier_features(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="at least one frequency"):
        layers.fourier_features(torch.zeros(2), 0)


def test_class_embedding_none_is_the_null_class() -> None:
    embedding = layers.ClassEmbedding(3, 5)
    null = embedding(None, 2)
    assert torch.equal(null, embedding(torch.tensor([3, 3]), 2))
    assert torch.equal(null, embedding(torch.tensor(3), 2))
    assert not torch.equal(null, embedding(torch.tensor([3, 1]), 2))


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (torch.tensor([0, 4]), "label 4 is outside 0 ... 3"),
        (torch.tensor([-1, 9]), "label -1 is outside 0 ... 3"),
        (torch.tensor([0, 1, 2]), r"expected 2 labels, got shape \(3,\)"),
        (torch.tensor([[0, 1]]), r"expected 2 labels, got shape \(1, 2\)"),
        (torch.tensor([0.0, 1.0]), "tensor of integers, got torch.float32"),
        (torch.tensor([True, False]), "tensor of integers, got torch.bool"),
        ([0, 1], "tensor of integers, got list"),
    ],
)
def test_class_embedding_errors(cond: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers.ClassEmbedding(3, 5)(cond, 2)


def test_class_embedding_without_classes() -> None:
    embedding = layers.ClassEmbedding(0, 5)
    assert embedding(None, 2) is None
    assert not list(embedding.parameters())
    with pytest.raises(ValueError, match="this network has no classes"):
        embedding(torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="zero classes or more"):
        layers.ClassEmbedding(-1, 5)


def test_residual_block_starts_as_its_skip() -> None:
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    block = layers.ResidualBlock(8, 8, 6)
    assert torch.equal(block(x, embedding), x)
    block = layers.ResidualBlock(8, 12, 6)
    assert torch.equal(block(x, embedding), block.skip(x))


def test_residual_block_modulation_and_dropout_matter() -> None:
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    block = layers.ResidualBlock(8, 8, 6, dropout=0.5)
    nn.init.normal_(block.conv2.weight)
    assert not torch.allclose(block(x, embedding), block(x, embedding))
    block.eval()
    assert torch.equal(block(x, embedding), block(x, embedding))
    assert not torch.allclose(block(x, embedding), block(x, -embedding))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attend_is_the_formula(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 6)
    formula = torch.softmax(q @ k.mT / 2, dim=-1) @ v
    tolerance = {"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {}
    given = (x.to(dtype) for x in (q, k, v))
    torch.testing.assert_close(layers.attend(*given).float(), formula, **tolerance)


def test_attend_has_all_derivatives_without_the_fused_kernel() -> None:
    qkv = [torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(layers.attend, qkv, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(layers.attend, qkv)


def test_self_attention_splits_channels_among_heads() -> None:
    torch.manual_seed(0)
    attention = layers.SelfAttention(8, n_heads=2)
    nn.init.normal_(attention.output.weight)
    x = torch.randn(3, 8, 2, 3)
    q, k, v = attention.qkv(attention.norm(x).flatten(2).mT).chunk(3, dim=2)
    heads = [layers.attend(q[..., i], k[..., i], v[..., i]) for i in (slice(4), slice(4, 8))]
    expected = x + attention.output(torch.cat(heads, dim=2)).mT.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_self_attention_commutes_with_moving_pixels() -> None:
    attention = layers.SelfAttention(8)
    nn.init.normal_(attention.output.weight)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(attention(x.flip(2)), attention(x).flip(2))


def test_self_attention_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="8 channels do not divide among 3 heads"):
        layers.SelfAttention(8, n_heads=3)


def test_resampling_shapes() -> None:
    x = torch.randn(1, 4, 6, 8)
    assert layers.downsample(4)(x).shape == (1, 4, 3, 4)
    assert layers.upsample(4)(x).shape == (1, 4, 12, 16)
