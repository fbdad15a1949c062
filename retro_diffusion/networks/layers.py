"""Layers shared by the networks: embeddings, residual block, attention, resampling."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def sinusoidal_embedding(position: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of a position at geometrically spaced frequencies.

    The frequencies are ``max_period ** (-k / K)`` for ``k = 0 ... K - 1``, with ``K = dim / 2``
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

    Parameters
    ----------
    position
        Shape (B,). Where to evaluate, usually a diffusion time counted in 0 ... 1000.
    dim
        Size of the embedding, even and positive.
    max_period
        Longest wavelength divided by 2 pi.

    Returns
    -------
    Tensor
        Shape (B, dim). Cosines then sines, in float32 or the wider type of ``position``.

    Raises
    ------
    ValueError
        If ``dim`` is not even and positive, or ``position`` is not one-dimensional.
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"an embedding needs an even, positive dimension, got {dim}")
    if position.ndim != 1:
        raise ValueError(f"expected one position per example, (B,), got {tuple(position.shape)}")
    dtype = torch.promote_types(position.dtype, torch.float32)
    k = torch.arange(dim // 2, device=position.device, dtype=dtype)
    omega = torch.exp(-math.log(max_period) * k / (dim // 2))
    angle = position.to(dtype)[:, None] * omega
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def fourier_features(position: Tensor, n_frequencies: int = 8) -> Tensor:
    """Position itself, and its low-frequency sines and cosines.

    Evaluates ``t``, ``cos(k pi t / 2)`` and ``sin(k pi t / 2)`` for ``k = 1 ... n_frequencies``.
    Such smooth features suit small networks on low-dimensional data; the high frequencies of
    `sinusoidal_embedding` only distract them.

    Parameters
    ----------
    position
        Shape (B,). Where to evaluate, of order one.
    n_frequencies
        How many frequencies, at least one.

    Returns
    -------
    Tensor
        Shape (B, 1 + 2 * n_frequencies). In float32 or the wider type of ``position``.

    Raises
    ------
    ValueError
        If ``n_frequencies`` is not positive, or ``position`` is not one-dimensional.
    """
    if n_frequencies < 1:
        raise ValueError(f"expected at least one frequency, got {n_frequencies}")
    if position.ndim != 1:
        raise ValueError(f"expected one position per example, (B,), got {tuple(position.shape)}")
    dtype = torch.promote_types(position.dtype, torch.float32)
    t = position.to(dtype)[:, None]
    k = torch.arange(1, n_frequencies + 1, device=position.device, dtype=dtype)
    angle = t * k * (math.pi / 2)
    return torch.cat([t, angle.cos(), angle.sin()], dim=1)


def zero_init(layer: Layer) -> Layer:
    """Set the weight and bias of a layer to zero, in place, and return it.

    A residual branch that ends in such a layer starts as the identity, and an output that does
    so starts at zero.

    Parameters
    ----------
    layer
        The layer to reset.

    Returns
    -------
    nn.Linear or nn.Conv2d
        The same layer.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least four channels in each group.

    Parameters
    ----------
    channels
        Number of channels, a multiple of four.

    Returns
    -------
    nn.GroupNorm
        Maps (B, channels, ...) to the same shape.
    """
    return nn.GroupNorm(math.gcd(32, channels // 4), channels)


class ClassEmbedding(nn.Module):
    """Learned vectors for ``n_classes`` labels and for their absence.

    The label ``n_classes`` is the null class. It stands for "no label", so that one network can
    be both conditional and unconditional, as classifier-free guidance needs.

    Parameters
    ----------
    n_classes
        Number of true classes; labels run from 0 to ``n_classes`` with the null class included.
        Zero makes a network without labels.
    dim
        Size of the embedding.
    """

    def __init__(self, n_classes: int, dim: int) -> None:
        super().__init__()
        if n_classes < 0:
            raise ValueError(f"expected zero classes or more, got n_classes={n_classes}")
        self.n_classes = n_classes
        self.table = nn.Embedding(n_classes + 1, dim) if n_classes else None

    def forward(self, cond: Tensor | None, batch_size: int) -> Tensor | None:
        """Look up the labels of a batch.

        Parameters
        ----------
        cond
            Shape (B,) or (). Labels in 0 ... ``n_classes``; None is the null class for all.
        batch_size
            The B expected of ``cond``.

        Returns
        -------
        Tensor
            Shape (B, dim), or None. None when the network has no classes.

        Raises
        ------
        ValueError
            If there are labels but no classes, or their type, shape or range is wrong. On CUDA
            the range is left to the device, since looking would stall it.
        """
        if self.table is None:
            if cond is not None:
                raise ValueError("this network has no classes: give it n_classes, or drop cond")
            return None
        if cond is None:
            cond = torch.full((batch_size,), self.n_classes, device=self.table.weight.device)
        self._check(cond, batch_size)
        return self.table(cond.expand(batch_size))

    def _check(self, cond: Tensor, batch_size: int) -> None:
        if not isinstance(cond, Tensor) or cond.is_floating_point() or cond.dtype == torch.bool:
            kind = cond.dtype if isinstance(cond, Tensor) else type(cond).__name__
            raise ValueError(f"labels must be a tensor of integers, got {kind}")
        if cond.shape not in {(), (batch_size,)}:
            raise ValueError(f"expected {batch_size} labels, got shape {tuple(cond.shape)}")
        if cond.device.type == "cuda" or batch_size == 0:
            return
        low, high = int(cond.min()), int(cond.max())
        if low < 0 or high > self.n_classes:
            wrong = low if low < 0 else high
            raise ValueError(
                f"label {wrong} is outside 0 ... {self.n_classes}, whose last is the null class"
            )


class ConditionEmbedding(nn.Module):
    """Joint embedding of noise level and class that modulates every block of a network.

    Parameters
    ----------
    n_features
        Size of the time features given to `forward`.
    dim
        Size of the result.
    n_classes
        Number of classes, see `ClassEmbedding`.
    """

    def __init__(self, n_features: int, dim: int, n_classes: int = 0) -> None:
        super().__init__()
        self.linear1 = nn.Linear(n_features, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.classes = ClassEmbedding(n_classes, dim)

    def forward(self, features: Tensor, cond: Tensor | None) -> Tensor:
        """Embed a batch of noise levels and labels.

        Parameters
        ----------
        features
            Shape (B, n_features). Features of ``c_noise``.
        cond
            Shape (B,). Class labels.

        Returns
        -------
        Tensor
            Shape (B, dim). Already passed through the SiLU that precedes each block's modulation.
        """
        features = features.to(self.linear1.weight.dtype)
        embedding = self.linear2(functional.silu(self.linear1(features)))
        label = self.classes(cond, len(features))
        return functional.silu(embedding if label is None else embedding + label)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a skip connection, modulated by an embedding.

    Computes ``skip(x) + conv(dropout(silu((1 + scale) * norm(h) + shift)))`` with
    ``h = conv(silu(norm(x)))`` and scale and shift linear in the embedding: adaptive group
    normalisation (Dhariwal and Nichol 2021, arXiv:2105.05233, section 3). The last convolution
    starts at zero.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after, multiples of four.
    embedding_dim
        Size of the embedding.
    dropout
        Probability of zeroing an activation, in [0, 1).
    """

    def __init__(
        self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x
            Shape (B, in_channels, H, W). Input.
        embedding
            Shape (B, embedding_dim). Output of `ConditionEmbedding`.

        Returns
        -------
        Tensor
            Shape (B, out_channels, H, W). Output.
        """
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(functional.silu(h)))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Average the values by how well their keys match a query: ``softmax(q k^T / sqrt(d)) v``.

    Vaswani et al. 2017 (arXiv:1706.03762), equation 1, by PyTorch's fused kernel, which never stores
    the matrix of weights. On a CPU in bfloat16 that kernel is up to five times slower than the
    formula, so there it is computed as written. The fused kernel has no forward-mode and no second
    derivatives: ask for them within ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Parameters
    ----------
    q
        Queries, shape (..., M, d).
    k
        Keys, shape (..., N, d).
    v
        Values, shape (..., N, e).

    Returns
    -------
    Tensor
        Shape (..., M, e).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return torch.softmax(q / math.sqrt(q.shape[-1]) @ k.mT, dim=-1) @ v
    return functional.scaled_dot_product_attention(q, k, v)


class SelfAttention(nn.Module):
    """Self-attention between all pixels of a feature map, around a skip connection.

    Parameters
    ----------
    channels
        Channels, a multiple of four and of ``n_heads``.
    n_heads
        Number of heads; None takes one for every 32 channels.

    Raises
    ------
    ValueError
        If the channels do not divide among the heads.
    """

    def __init__(self, channels: int, n_heads: int | None = None) -> None:
        super().__init__()
        self.n_heads = max(1, channels // 32) if n_heads is None else n_heads
        if self.n_heads < 1 or channels % self.n_heads:
            raise ValueError(f"{channels} channels do not divide among {self.n_heads} heads")
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x
            Shape (B, channels, H, W). Input.

        Returns
        -------
        Tensor
            Shape (B, channels, H, W). Input plus what each pixel gathered from the others.
        """
        pixels = self.norm(x).flatten(2).mT
        qkv = self.qkv(pixels).unflatten(2, (3, self.n_heads, -1))  # (B, H W, 3, heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        update = self.output(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + update.mT.unflatten(2, x.shape[2:])


def downsample(channels: int) -> nn.Conv2d:
    """Halve height and width with a strided convolution.

    Parameters
    ----------
    channels
        Channels, kept.

    Returns
    -------
    nn.Conv2d
        Maps (B, channels, H, W) to (B, channels, H / 2, W / 2).
    """
    return nn.Conv2d(channels, channels, 3, stride=2, padding=1)


def upsample(channels: int) -> nn.Sequential:
    """Double height and width by repeating pixels, then convolve.

    Parameters
    ----------
    channels
        Channels, kept.

    Returns
    -------
    nn.Sequential
        Maps (B, channels, H, W) to (B, channels, 2 H, 2 W).
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2.0, mode="nearest"),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
