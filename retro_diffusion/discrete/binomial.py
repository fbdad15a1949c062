"""Binomial diffusion of bit strings: every step forgets a bit with probability ``beta_t``.

Sohl-Dickstein et al. 2015 (arXiv:1503.03585), table App.1: with probability ``beta_t`` a bit is drawn
anew from ``Bernoulli(rate)``, otherwise it stays. The bits of a string are corrupted independently, so
``q(x_t | x_0)`` and ``q(x_{t-1} | x_t, x_0)`` have closed forms bit by bit. If the data are a finite set
of strings, so has ``q(x_{t-1} | x_t)``, and the variational bound can be summed instead of sampled.

Strings are floating tensors of zeros and ones, shape (B, L). Time 0 is the data and T the noise, as
everywhere; times are whole numbers. Everything is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from retro_diffusion.tensors import match_dims

BitDenoiser = Callable[[Tensor, Tensor], Tensor]
"""``denoiser(x_t, t)``: for each bit of (B, L) the probability that it was 1 at time 0."""

_MOST_STATES = 500_000


def erasing_betas(n_timesteps: int) -> Tensor:
    """Betas that erase the same share ``1 / T`` of the original signal at every step.

    ``beta_t = 1 / (T - t + 1)``, so ``kept(t) = 1 - t / T`` (Sohl-Dickstein et al. 2015, section
    2.4.1). The last beta is 1: nothing is left.

    Parameters
    ----------
    n_timesteps
        Length ``T`` of the chain, at least 1.

    Returns
    -------
    Tensor
        Shape (T,), float64.

    Raises
    ------
    ValueError
        If ``n_timesteps`` is below 1.
    """
    if n_timesteps < 1:
        raise ValueError(f"a chain needs at least one step, not {n_timesteps}")
    return 1 / torch.arange(n_timesteps, 0, -1, dtype=torch.float64)


class BinomialChain:
    """The forward process ``P(x_t = 1 | x_{t-1}) = (1 - beta_t) x_{t-1} + beta_t rate``.

    Parameters
    ----------
    betas
        Shape (T,), each in (0, 1]: the probability that a step forgets a bit.
    rate
        Probability of a 1 at equilibrium, in (0, 1).

    Raises
    ------
    ValueError
        If a beta or the rate is out of range.
    """

    def __init__(self, betas: Tensor, rate: float = 0.5) -> None:
        betas = betas.detach().to(device="cpu", dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise ValueError(f"betas must be a non-empty vector of values in (0, 1], not {betas!r}")
        if not 0 < rate < 1:
            raise ValueError(f"rate must lie strictly between 0 and 1, not {rate}")
        self.betas = betas
        self.rate = rate
        self._kept = torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, 0)])

    @property
    def n_timesteps(self) -> int:
        """Number of steps ``T`` of the chain."""
        return len(self.betas)

    def kept(self, t: Tensor) -> Tensor:
        """Probability that a bit was never forgotten up to time ``t``; the shape of ``t``, float64."""
        return self._kept[self._index(t, 0)]

    def kernel(self, x: Tensor, t: Tensor) -> Tensor:
        """``P(x_t = 1 | x_{t-1} = x)`` for times of shape () or (B,) from 1; the shape of ``x``."""
        beta = match_dims(self.betas[self._index(t, 1) - 1], x)
        return (1 - beta) * x + beta * self.rate

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """``P(x_t = 1 | x_0)`` for times of shape () or (B,); the shape of ``x0``, (B, L)."""
        kept = match_dims(self.kept(t), x0)
        return kept * x0 + (1 - kept) * self.rate

    def add_noise(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``x_t`` from ``q(x_t | x_0)``; the shape and dtype of ``x0``."""
        return draw_bits(self.marginal(x0, t), generator)

    def posterior(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """``P(x_{t-1} = 1 | x_t, x_0)``, bit by bit, by Bayes' rule.

        An ``x0`` between 0 and 1 is a probability, and the result the average over it. That is how
        a model that predicts ``x0`` makes its reverse step.

        Parameters
        ----------
        x_t
            Bits, shape (B, L).
        x0
            Bits or probabilities of a 1, shape (B, L).
        t
            Shape () or (B,), from 1.

        Returns
        -------
        Tensor
            Shape (B, L).
        """
        was_one, was_zero = (
            self._posterior_of_bit(x_t, torch.full_like(x_t, bit), t) for bit in (1.0, 0.0)
        )
        return x0 * was_one + (1 - x0) * was_zero

    def _posterior_of_bit(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        before = self.marginal(x0, t - 1)
        to_one = (self.kernel(torch.zeros_like(x_t), t), self.kernel(torch.ones_like(x_t), t))
        from_zero, from_one = (x_t * p + (1 - x_t) * (1 - p) for p in to_one)
        return before * from_one / (before * from_one + (1 - before) * from_zero)

    def _index(self, t: Tensor, first: int) -> Tensor:
        index = t.detach().cpu().long()
        if not bool(((index >= first) & (index <= self.n_timesteps) & (index == t.cpu())).all()):
            raise ValueError(
                f"times must be whole numbers from {first} to {self.n_timesteps}, not {t!r}"
            )
        return index


# ---- the bound -------------------------------------------------------------


def draw_bits(rates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent bits with probabilities ``rates`` of a 1; same shape and dtype."""
    device = rates.device if generator is None else generator.device
    uniform = torch.rand(rates.shape, generator=generator, device=device, dtype=rates.dtype)
    return (uniform.to(rates.device) < rates).to(rates.dtype)


def bernoulli_entropy(p: Tensor) -> Tensor:
    """Entropy of a bit that is 1 with probability ``p``, in nats; any shape."""
    return torch.special.entr(p) + torch.special.entr(1 - p)


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(Bernoulli(p) || Bernoulli(q))`` of each bit, in nats; broadcastable shapes."""
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))


def transition_kl(
    chain: BinomialChain, x0: Tensor, x_t: Tensor, x0_hat: Tensor, t: Tensor
) -> Tensor:
    """``KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))``: a term of the bound; differentiable.

    Parameters
    ----------
    chain
        The forward process.
    x0, x_t
        Data and noisy data, bits of shape (B, L).
    x0_hat
        The model's probabilities of a 1 at time 0, shape (B, L), strictly between 0 and 1.
    t
        Shape () or (B,), from 2.

    Returns
    -------
    Tensor
        Shape (B,), nats, summed over bits; computed in float64, as the terms are tiny differences.
    """
    x0, x_t, x0_hat = x0.double(), x_t.double(), x0_hat.double()
    return bernoulli_kl(chain.posterior(x_t, x0, t), chain.posterior(x_t, x0_hat, t)).sum(1)


def reverse_chain(
    chain: BinomialChain,
    denoiser: BitDenoiser,
    x: Tensor,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Sample: draw every ``x_{t-1}`` from the model's reverse step, the last one as the paper fixed it.

    That last step is the *forward* kernel: ``p(x_0 | x_1) = q(x_1 | x_0)``, by the equilibrium's
    detailed balance (Sohl-Dickstein et al. 2015, equation 44).

    Parameters
    ----------
    chain
        The forward process.
    denoiser
        Called as ``denoiser(x_t, t)`` with ``t`` of shape (); gives probabilities of shape (B, L).
    x
        Start, e.g. ``draw_bits`` at the equilibrium rate, shape (B, L).
    generator
        Source of randomness.

    Yields
    ------
    tuple
        The time ``t - 1`` that was reached and the bits there, ``T`` times in all.
    """
    with torch.no_grad():
        for step in range(chain.n_timesteps, 0, -1):
            t = torch.tensor(step)
            rates = chain.kernel(x, t) if step == 1 else chain.posterior(x, denoiser(x, t).to(x), t)
            x = draw_bits(rates, generator)
            yield step - 1, x


class StringBound(NamedTuple):
    """Terms of the bound, averaged exactly over data and noise, in nats; see `FiniteStrings.bound`.

    ``transitions[i]`` is the expected KL of the step from ``t = i + 2``; ``prior`` is
    ``KL(q(x_T | x_0) || equilibrium)``; ``last_step`` is ``-E[log p(x_0 | x_1)]``.
    """

    transitions: Tensor
    prior: Tensor
    last_step: Tensor

    @property
    def total(self) -> Tensor:
        """The bound K itself, shape (): at most the mean log-probability of the data."""
        return -(self.transitions.sum() + self.prior + self.last_step)


class FiniteStrings:
    """Exact denoiser for data that are one of ``K`` given strings.

    By Bayes' rule ``r_k(x_t)``, the probability that string ``k`` became ``x_t``, is proportional to
    ``weight_k prod_i q(x_t^i | k^i)``, and all else is an average over ``r_k``. If two positions hold
    equal bits in every one of the ``K`` strings, swapping them changes nothing, so an expectation over
    ``x_t`` needs only the *number* of ones in each group of such positions. Strings of 20 bits with
    period 5 then have 3,125 states instead of 2^20, and expectations are exact.

    Parameters
    ----------
    chain
        The forward process.
    strings
        Zeros and ones, shape (K, L), no string twice.
    weights
        Probabilities up to a factor, shape (K,), > 0; None means equal.

    Raises
    ------
    ValueError
        If the strings are not distinct bits or the weights do not fit.
    """

    def __init__(
        self, chain: BinomialChain, strings: Tensor, weights: Tensor | None = None
    ) -> None:
        strings = strings.double()
        if strings.ndim != 2 or not bool(((strings == 0) | (strings == 1)).all()):
            raise ValueError("strings must be zeros and ones of shape (K, L)")
        if len(strings.unique(dim=0)) < len(strings):
            raise ValueError("a string is given twice; use weights")
        weights = torch.ones(len(strings)) if weights is None else weights
        if weights.shape != strings.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(f"weights must be {len(strings)} positive numbers")
        self.chain = chain
        self.strings = strings
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.groups, self._group_of, self._sizes = torch.unique(
            strings, dim=1, return_inverse=True, return_counts=True
        )  # (K, G), (L,), (G,)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` strings; shape (n, L), float64."""
        weights = self.log_weights.exp()
        return self.strings[torch.multinomial(weights, n, replacement=True, generator=generator)]

    def responsibilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``r_k(x_t)``; (B, L) to (B, K), rows sum to 1."""
        return self._log_joint(x_t, t).softmax(1)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``P(x_0 = 1 | x_t)`` for each bit; (B, L) to (B, L)."""
        return (self.responsibilities(x_t, t) @ self.strings).to(x_t)

    def reverse_rates(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``P(x_{t-1} = 1 | x_t)`` for each bit: the best reverse step whose bits are independent."""
        return self.chain.posterior(x_t, self(x_t, t), t)

    def reverse_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``q(x_{t-1} | x_t)`` of every string of ``L`` bits, bits not independent; (B, L) to (B, 2^L).

        Column ``j`` belongs to the string that spells ``j`` in binary, most significant bit first
        (`all_strings`). For short strings.
        """
        candidates = all_strings(self.strings.shape[1])
        r = self.responsibilities(x_t, t)
        joint = torch.zeros(len(x_t), len(candidates), dtype=torch.float64)
        for k, string in enumerate(self.strings):
            rates = self.chain.posterior(x_t.double(), string.expand(x_t.shape), t)[:, None]
            joint += r[:, k, None] * (candidates * rates + (1 - candidates) * (1 - rates)).prod(2)
        return joint

    def entropy(self, t: int) -> Tensor:
        """Entropy of ``q(x_t)``, strings of ``L`` bits, in nats, by enumeration; shape ()."""
        if t == 0:
            return -(self.log_weights.exp() * self.log_weights).sum()
        counts, multiplicity = self._states()
        log_prob = self._log_state(counts, torch.tensor(t)).logsumexp(1)
        return -(multiplicity * log_prob.exp() * log_prob).sum()

    def bound(self) -> StringBound:
        """Compute the variational bound of the best reverse chain with independent bits, exactly.

        Steps ``T ... 2`` are `reverse_rates`; the last one is the forward kernel, as in
        `reverse_chain`. The expectation over ``x_t`` is a sum over all its states.

        Returns
        -------
        StringBound
            In nats per string. No sampling.
        """
        end, chain = torch.tensor(self.chain.n_timesteps), self.chain
        x0, w = self.strings, self.log_weights.exp()
        prior = bernoulli_kl(chain.marginal(x0, end), torch.tensor(chain.rate).to(x0)).sum(1)
        # The last step back, P(x_0 = 1 | x_1), is the kernel of the first one, P(x_1 = 1 | x_0).
        first = chain.kernel(x0, torch.tensor(1))
        back = (chain.kernel(torch.full_like(x0, bit), torch.tensor(1)) for bit in (1.0, 0.0))
        log_back = [torch.where(x0 > 0, p.log(), torch.log1p(-p)) for p in back]
        last_step = -(first * log_back[0] + (1 - first) * log_back[1]).sum(1)
        counts, multiplicity = self._states()
        blocks = torch.arange(2, chain.n_timesteps + 1).split(max(1, 30_000 // len(counts)))
        terms = [self._expected_kl(counts, multiplicity, t) for t in blocks if len(t)]
        return StringBound(
            transitions=torch.cat(terms) if terms else prior.new_zeros(0),
            prior=(w * prior).sum(),
            last_step=(w * last_step).sum(),
        )

    def _expected_kl(self, counts: Tensor, multiplicity: Tensor, t: Tensor) -> Tensor:
        """``E[KL(q(x_{t-1} | x_t, x_0) || reverse_rates)]`` for times (N,); shape (N,).

        For every bit ``H(X_{t-1} | X_t) - H(X_{t-1} | X_t, X_0)``, the first with the whole *string*
        x_t given; the second is that bit's own affair and needs no enumeration.
        """
        log_joint = self._log_state(counts, t)
        weight = multiplicity * log_joint.logsumexp(2).exp()
        x0_hat = log_joint.softmax(2) @ self.groups  # (N, S, G)
        one, zero = (torch.full((len(t), 1), bit, dtype=torch.float64) for bit in (1.0, 0.0))
        unknown = torch.zeros_like(weight)
        for bit, number in ((one, counts), (zero, self._sizes - counts)):
            if_one, if_zero = (self.chain.posterior(bit, x0, t)[:, None] for x0 in (one, zero))
            rates = torch.lerp(if_zero, if_one, x0_hat)
            unknown += (number * bernoulli_entropy(rates)).sum(2)
        entropies = [
            bernoulli_entropy(self.chain.marginal(x0, t - 1))
            - bernoulli_entropy(self.chain.marginal(x0, t))
            + torch.lerp(
                bernoulli_entropy(self.chain.kernel(zero, t)),
                bernoulli_entropy(self.chain.kernel(one, t)),
                self.chain.marginal(x0, t - 1),
            )
            for x0 in (zero, one)
        ]
        ones = (self.log_weights.exp() @ self.strings).sum()
        known = (self.strings.shape[1] - ones) * entropies[0] + ones * entropies[1]
        return (weight * unknown).sum(1) - known[:, 0]

    def _states(self) -> tuple[Tensor, Tensor]:
        """Numbers of ones in each group, (S, G), and how many strings have them, (S,)."""
        n_states = math.prod(int(n) + 1 for n in self._sizes)
        if n_states > _MOST_STATES:
            raise ValueError(f"{n_states} states are too many to enumerate")
        each = [torch.arange(int(n) + 1, dtype=torch.float64) for n in self._sizes]
        counts = torch.cartesian_prod(*each).reshape(n_states, len(each))
        n = self._sizes.double()
        log_ways = torch.lgamma(n + 1) - torch.lgamma(counts + 1) - torch.lgamma(n - counts + 1)
        return counts, log_ways.sum(1).exp().round()

    def _log_state(self, counts: Tensor, t: Tensor) -> Tensor:
        """``log w_k q(x_t | k)`` of one string with the given numbers of ones.

        Counts (S, G) to (S, K) for one time, to (N, S, K) for times (N,); counts (N, 1, G) have a time each.
        """
        kept = self.chain.kept(t)[..., None, None]
        rates = kept * self.groups + (1 - kept) * self.chain.rate  # ([N,] K, G)
        zeros = self._sizes - counts
        return self.log_weights + counts @ rates.log().mT + zeros @ torch.log1p(-rates).mT

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``log w_k q(x_t | k)``; (B, L) to (B, K)."""
        if x_t.ndim != 2 or x_t.shape[1] != self.strings.shape[1]:
            raise ValueError(
                f"x_t must have shape (B, {self.strings.shape[1]}), not {tuple(x_t.shape)}"
            )
        counts = torch.zeros(len(x_t), len(self._sizes), dtype=torch.float64)
        counts.index_add_(1, self._group_of, x_t.double())
        if t.ndim == 0:
            return self._log_state(counts, t)
        return self._log_state(counts[:, None], t)[:, 0]


def all_strings(length: int) -> Tensor:
    """All strings of ``length`` bits, in the order of the numbers they spell; (2^length, length).

    Parameters
    ----------
    length
        From 1 to 16.

    Returns
    -------
    Tensor
        Shape (2^length, length), float64.

    Raises
    ------
    ValueError
        If there would be too many.
    """
    if not 1 <= length <= 16:
        raise ValueError(f"length must lie between 1 and 16, not {length}")
    places = 2 ** torch.arange(length - 1, -1, -1)
    return (torch.arange(2**length)[:, None] // places % 2).double()
