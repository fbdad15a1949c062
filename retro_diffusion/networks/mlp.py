"""A residual multilayer perceptron for points in the plane and other short vectors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from retro_diffusion.networks.layers import ConditionEmbedding, fourier_features

_N_FREQUENCIES = 8


class _Block(nn.Module):
    """``h + linear(silu((1 + scale) * linear(silu(norm(h))) + shift))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        update = self.linear1(functional.silu(self.norm(h))) * (1 + scale) + shift
        return h + self.linear2(functional.silu(update))


class MLP(nn.Module):
    """Residual network on vectors, conditioned on the noise level and optionally on a class.

    The noise level enters through smooth low-frequency features, and the last layer starts at
    its usual random values: on two-dimensional data this learns, where high-frequency features
    and a zero last layer stall.

    Parameters
    ----------
    dim
        Length D of the vectors.
    width
        Hidden units.
    depth
        Residual blocks.
    n_classes
        Number of classes; the label ``n_classes`` is the null class. Zero for none.
    out_dim
        Length of the output, D by default; 2 D to predict a variance too.

    Raises
    ------
    ValueError
        If a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        n_classes: int = 0,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        out_dim = dim if out_dim is None else out_dim
        sizes = {"dim": dim, "width": width, "depth": depth, "out_dim": out_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be positive, got {size}")
        self.dim, self.out_dim, self.n_classes = dim, out_dim, n_classes
        self.embed = ConditionEmbedding(1 + 2 * _N_FREQUENCIES, width, n_classes)
        self.stem = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, out_dim)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        x
            Shape (B, D). Noisy vectors, scaled to order one.
        c_noise
            Shape (B,). Noise level, of order one: time over its maximum, or ln(sigma) / 4 for EDM.
        cond
            Shape (B,). Class labels; None is the null class.

        Returns
        -------
        Tensor
            Shape (B, out_dim). Output.

        Raises
        ------
        ValueError
            If a shape or a label is wrong.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected vectors (B, {self.dim}), got {tuple(x.shape)}")
        if c_noise.shape != x.shape[:1]:
            raise ValueError(f"expected c_noise ({len(x)},), got {tuple(c_noise.shape)}")
        embedding = self.embed(fourier_features(c_noise, _N_FREQUENCIES), cond)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(functional.silu(self.norm(h)))
