"""A noise schedule that is trained: VDM's monotone network (arXiv:2107.00630)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from retro_diffusion.schedules import NoiseSchedule


class LearnedVP(nn.Module, NoiseSchedule):
    """Variance-preserving path with ``-log SNR = gamma(t)``, a monotone network, t in [0, 1].

    ``alpha^2 = sigmoid(-gamma)``, ``sigma^2 = sigmoid(gamma)`` (Kingma et al. 2021, arXiv:2107.00630,
    section 3.2 and appendix H): ``gamma`` is a line plus a hidden layer of sigmoids, all with positive
    weights, shifted and scaled to run from ``-logsnr_max`` to ``-logsnr_min``. The ends are fixed.
    Between them the expected bound does not depend on ``gamma``, but its variance does: train these
    parameters to make the squared loss small, by an optimiser of their own. The path starts as the
    straight line.

    Parameters
    ----------
    logsnr_max, logsnr_min
        Log-SNR at ``t = 0`` and at ``t = 1``, the first the larger.
    width
        Units of the hidden layer, >= 1.

    Raises
    ------
    ValueError
        If the ends are not in order or ``width`` is below 1.
    """

    def __init__(
        self, logsnr_max: float = 10.0, logsnr_min: float = -10.0, width: int = 64
    ) -> None:
        super().__init__()
        if not math.inf > logsnr_max > logsnr_min > -math.inf or width < 1:
            raise ValueError(
                "logsnr_max must be above logsnr_min, both finite, and width at least 1, "
                f"not {logsnr_max}, {logsnr_min} and {width}"
            )
        self.logsnr_max = logsnr_max
        self.logsnr_min = logsnr_min
        centres = torch.linspace(0, 1, width, dtype=torch.float64)
        steepness = torch.full((width,), float(width), dtype=torch.float64)
        self.log_slope = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.log_steepness = nn.Parameter(steepness.log())
        self.shift = nn.Parameter(-centres * steepness)
        self.log_height = nn.Parameter(torch.full((width,), -8.0, dtype=torch.float64))

    def logsnr(self, t: Tensor) -> Tensor:
        """``-gamma(t)``; the shape of ``t``."""
        ends = self._rise(torch.tensor([0.0, 1.0], dtype=torch.float64))
        progress = (self._rise(t) - ends[0]) / (ends[1] - ends[0])
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * progress

    def alpha(self, t: Tensor) -> Tensor:
        """``sqrt(sigmoid(logsnr(t)))``."""
        return torch.sigmoid(self.logsnr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """``sqrt(sigmoid(-logsnr(t)))``."""
        return torch.sigmoid(-self.logsnr(t)).sqrt()

    def _rise(self, t: Tensor) -> Tensor:
        """An increasing function of ``t``: a line and a sum of sigmoids."""
        t = t.to(self.shift.dtype)
        hidden = torch.sigmoid(self.log_steepness.exp() * t[..., None] + self.shift)
        return self.log_slope.exp() * t + (self.log_height.exp() * hidden).sum(-1)
