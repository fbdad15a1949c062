"""A U-Net for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro_diffusion.networks.layers import (
    ConditionEmbedding,
    ResidualBlock,
    SelfAttention,
    downsample,
    group_norm,
    sinusoidal_embedding,
    upsample,
    zero_init,
)

_TIME_SCALE = 1000.0


class _Block(nn.Module):
    """A residual block, then attention or nothing."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float, attend: bool
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, embedding_dim, dropout)
        self.attention = SelfAttention(out_channels) if attend else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(h, embedding))


class UNet(nn.Module):
    """Encoder and decoder of residual blocks with skip connections between them.

    Each level of the encoder runs ``blocks`` residual blocks and halves the image; the decoder
    mirrors it and concatenates, to each of its blocks' input, what the encoder had at that place
    (Ho et al. 2020, arXiv:2006.11239, appendix B). The output convolution starts at zero.

    Parameters
    ----------
    channels
        Channels C of the images.
    width
        Channels of the first level, a multiple of four.
    multipliers
        Channels of each level over ``width``; its length is the number of levels.
    blocks
        Residual blocks per level in the encoder, and again in the decoder.
    attention
        Whether the blocks of each level attend; those between encoder and decoder follow the last.
        None for none, which on images of up to 14 x 14 is the better use of a CPU's time.
    n_classes
        Number of classes; the label ``n_classes`` is the null class. Zero for none.
    dropout
        Probability of zeroing an activation in a block, in [0, 1).
    patch
        Side of the squares of pixels folded into channels before the first level.
    out_channels
        Channels of the output, C by default; 2 C to predict a variance too.

    Raises
    ------
    ValueError
        If a size is impossible.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[bool] | None = None,
        n_classes: int = 0,
        dropout: float = 0.0,
        patch: int = 1,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        levels = len(multipliers)
        attend = [False] * levels if attention is None else list(attention)
        _check_sizes(channels, width, multipliers, blocks, attend, patch, out_channels)
        self.channels, self.out_channels, self.n_classes = channels, out_channels, n_classes
        self.width, self.blocks, self.patch = width, blocks, patch
        self.factor = patch * 2 ** (levels - 1)

        dim = 4 * width
        self.embed = ConditionEmbedding(width, dim, n_classes)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.encoder, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.grow = nn.ModuleList(), nn.ModuleList()
        skips, current = [], width
        for level in range(levels):
            out = width * multipliers[level]
            for _ in range(blocks):
                self.encoder.append(_Block(current, out, dim, dropout, attend[level]))
                skips.append(out)
                current = out
            self.shrink.append(downsample(out) if level < levels - 1 else nn.Identity())
        self.middle1 = _Block(current, current, dim, dropout, attend[-1])
        self.middle2 = _Block(current, current, dim, dropout, False)
        for level in reversed(range(levels)):
            out = width * multipliers[level]
            for _ in range(blocks):
                self.decoder.append(_Block(current + skips.pop(), out, dim, dropout, attend[level]))
                current = out
            self.grow.append(upsample(out) if level else nn.Identity())
        self.norm = group_norm(current)
        self.head = zero_init(nn.Conv2d(current, out_channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        x
            Shape (B, C, H, W). Noisy images, scaled to order one; H and W multiples of
            ``patch * 2 ** (len(multipliers) - 1)``.
        c_noise
            Shape (B,). Noise level, of order one: time over its maximum, or ln(sigma) / 4 for EDM.
        cond
            Shape (B,). Class labels; None is the null class.

        Returns
        -------
        Tensor
            Shape (B, out_channels, H, W). Output.

        Raises
        ------
        ValueError
            If a shape or a label is wrong.
        """
        self._check(x, c_noise)
        embedding = self.embed(sinusoidal_embedding(_TIME_SCALE * c_noise, self.width), cond)
        h = self.stem(functional.pixel_unshuffle(x, self.patch))
        skips = []
        for level, shrink in enumerate(self.shrink):
            for block in self.encoder[level * self.blocks : (level + 1) * self.blocks]:
                h = block(h, embedding)
                skips.append(h)
            h = shrink(h)
        h = self.middle2(self.middle1(h, embedding), embedding)
        for level, grow in enumerate(self.grow):
            for block in self.decoder[level * self.blocks : (level + 1) * self.blocks]:
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            h = grow(h)
        return functional.pixel_shuffle(self.head(functional.silu(self.norm(h))), self.patch)

    def _check(self, x: Tensor, c_noise: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"expected images (B, {self.channels}, H, W), got {tuple(x.shape)}")
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"height and width must be multiples of {self.factor}, got {tuple(x.shape[2:])}"
            )
        if c_noise.shape != x.shape[:1]:
            raise ValueError(f"expected c_noise ({len(x)},), got {tuple(c_noise.shape)}")


def _check_sizes(
    channels: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attend: Sequence[bool],
    patch: int,
    out_channels: int,
) -> None:
    sizes = {
        "channels": channels,
        "blocks": blocks,
        "patch": patch,
        "out_channels": out_channels,
        "the smallest multiplier": min(multipliers, default=0),
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    if width < 4 or width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {width}")
    if len(attend) != len(multipliers):
        raise ValueError(f"attention names {len(attend)} levels, multipliers {len(multipliers)}")
