"""Importance sampling of the bound's terms (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3).

The terms of the variational bound differ by orders of magnitude, so one drawn uniformly is a noisy
estimate of their sum. Drawn with probability ``p_t`` proportional to ``sqrt(E[L_t^2])`` and divided by
it, the estimate is still unbiased, and as steady as such an estimate can be (equation 18).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from retro_diffusion.denoiser import Denoiser
from retro_diffusion.likelihood import Decoder, gaussian_decoder
from retro_diffusion.losses import Batch, bound_terms
from retro_diffusion.reverse import StepVariance, learned_variance
from retro_diffusion.tensors import match_dims, randn_like


class LossHistory:
    """The last losses of every step of a chain, and the law of steps that follows from them.

    Uniform until every step has a full history.

    Parameters
    ----------
    n_timesteps
        Number of steps ``T`` of the chain.
    length
        Losses kept for each step: 10 in the paper.
    uniform
        Share of the draws that stays uniform, in (0, 1]: no step is ever forgotten. 0.001 in their
        code.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """

    def __init__(self, n_timesteps: int, *, length: int = 10, uniform: float = 0.001) -> None:
        if n_timesteps < 1 or length < 1 or not 0 < uniform <= 1:
            raise ValueError(
                "n_timesteps and length must be >= 1 and uniform in (0, 1], "
                f"not {n_timesteps}, {length} and {uniform}"
            )
        self.uniform = uniform
        self.losses = torch.zeros(n_timesteps, length, dtype=torch.float64)
        self.counts = torch.zeros(n_timesteps, dtype=torch.long)

    @property
    def probabilities(self) -> Tensor:
        """Probability of each step ``t = 1 ... T``; shape (T,), sums to 1."""
        n_timesteps, length = self.losses.shape
        even = torch.full((n_timesteps,), 1 / n_timesteps, dtype=torch.float64)
        if bool((self.counts < length).any()):
            return even
        size = (self.losses**2).mean(1).sqrt()
        return (1 - self.uniform) * size / size.sum() + self.uniform * even

    def draw(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw steps, with the weights ``1 / (T p_t)`` that keep a mean over them unbiased.

        Parameters
        ----------
        n
            Batch size.
        generator
            Source of randomness, on the CPU.

        Returns
        -------
        tuple
            Steps and weights, float64 of shape (n,) each.
        """
        p = self.probabilities
        index = torch.multinomial(p, n, replacement=True, generator=generator)
        return (index + 1).double(), 1 / (len(p) * p[index])

    def record(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses at steps ``t``, the oldest of a step making room; shapes (n,)."""
        losses = losses.detach().cpu().to(self.losses)
        for index, loss in zip((t.long() - 1).tolist(), losses, strict=True):
            self.losses[index, self.counts[index] % self.losses.shape[1]] = loss
            self.counts[index] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is remembered, for a checkpoint."""
        return {"losses": self.losses.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to another chain, or to a history of another length.
        """
        if state["losses"].shape != self.losses.shape:
            raise ValueError(
                f"a history of {tuple(self.losses.shape)} losses (steps, length) cannot continue one of "
                f"{tuple(state['losses'].shape)}"
            )
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


class ImportanceSampledBound:
    """The variational bound as a `training.train` loss, its steps drawn by importance: ``L_vlb``.

    Keeps a `LossHistory`, and a checkpoint keeps it, too. The history follows from the order in which one
    process sees its batches: several processes refuse this loss.

    Parameters
    ----------
    history
        Losses so far; a new one of the chain's length to begin with.
    variance, decoder
        As for `losses.bound_terms`.
    """

    def __init__(
        self,
        history: LossHistory,
        *,
        variance: StepVariance = learned_variance,
        decoder: Decoder = gaussian_decoder,
    ) -> None:
        self.history = history
        self.variance = variance
        self.decoder = decoder

    def state_dict(self) -> dict[str, Tensor]:
        """Return the history, for a checkpoint."""
        return self.history.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the history that `state_dict` returned."""
        self.history.load_state_dict(state)

    def __call__(
        self, denoiser: Denoiser, batch: Batch, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the bound without its prior term, in nats per dimension; shape ()."""
        x0, cond = batch
        schedule = denoiser.schedule
        t, weight = self.history.draw(len(x0), generator)
        x_t = schedule.add_noise(x0, randn_like(x0, generator), t)
        prediction = denoiser(x_t, t, cond)
        terms = bound_terms(
            schedule, prediction, x0, x_t, t, variance=self.variance, decoder=self.decoder
        )
        self.history.record(t, terms)
        return schedule.t_max * (match_dims(weight, terms) * terms).mean()
