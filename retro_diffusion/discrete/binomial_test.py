"""Binomial diffusion against brute force over all strings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from retro_diffusion.discrete.binomial import (
    BinomialChain,
    FiniteStrings,
    all_strings,
    bernoulli_entropy,
    bernoulli_kl,
    draw_bits,
    erasing_betas,
    reverse_chain,
    transition_kl,
)

torch.set_num_threads(1)

HEARTBEAT = torch.eye(5).repeat(1, 4)
SMALL = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
WEIGHTS = torch.tensor([3.0, 1, 2])


def step(t):
    return torch.tensor(t)


def small(n_timesteps=6, rate=0.3):
    return FiniteStrings(BinomialChain(erasing_betas(n_timesteps), rate), SMALL, WEIGHTS)


def string_prob(strings, rates):
    """Probability of every one of (S, L) strings under every one of (B, L) rates; (B, S)."""
    rates = rates[:, None]
    return (strings * rates + (1 - strings) * (1 - rates)).prod(2)


def test_erasing_betas_take_the_same_share_of_the_signal_at_every_step():
    chain = BinomialChain(erasing_betas(8))
    torch.testing.assert_close(chain.kept(torch.arange(9)), 1 - torch.arange(9).double() / 8)


def test_the_marginal_is_the_kernel_applied_again_and_again():
    chain = BinomialChain(torch.tensor([0.1, 0.3, 0.2, 0.7]), rate=0.2)
    x = rates = torch.tensor([[0.0, 1.0]]).double()
    for t in range(1, 5):
        rates = chain.kernel(rates, step(t))  # the kernel is affine in x
        torch.testing.assert_close(chain.marginal(x, step(t)), rates)


def test_the_equilibrium_stays_and_its_steps_can_be_reversed():
    chain = BinomialChain(torch.tensor([0.25]), rate=0.2)
    bits = torch.tensor([[0.0, 1.0]]).double()
    p = chain.kernel(bits, step(1))[0]
    assert float(0.8 * p[0] + 0.2 * p[1]) == pytest.approx(0.2)
    assert float(0.8 * p[0]) == pytest.approx(float(0.2 * (1 - p[1])))  # detailed balance


@pytest.mark.parametrize("t", [1, 2, 4, 6])
def test_the_posterior_is_bayes_rule(t):
    chain = small().chain
    for now in (0.0, 1.0):
        for start in (0.0, 1.0):
            x_t, x0 = torch.full((1, 1), now).double(), torch.full((1, 1), start).double()
            joint = []
            for before in (0.0, 1.0):
                b = torch.full((1, 1), before).double()
                p_before = string_prob(b, chain.marginal(x0, step(t - 1)))
                joint.append(float(p_before * string_prob(x_t, chain.kernel(b, step(t)))))
            expected = joint[1] / sum(joint)
            assert float(chain.posterior(x_t, x0, step(t))) == pytest.approx(expected, abs=1e-14)


def test_a_probable_x0_averages_the_posteriors_and_times_may_differ():
    chain = small().chain
    x_t = torch.tensor([[0.0, 1], [1, 1]]).double()
    mean = chain.posterior(x_t, torch.full_like(x_t, 0.3), torch.tensor([2, 5]))
    ends = [chain.posterior(x_t, torch.full_like(x_t, b), torch.tensor([2, 5])) for b in (1, 0)]
    torch.testing.assert_close(mean, 0.3 * ends[0] + 0.7 * ends[1])
    torch.testing.assert_close(mean[1:], chain.posterior(x_t[1:], x_t[1:] * 0 + 0.3, step(5)))


@pytest.mark.parametrize("t", [1, 3, 6])
def test_the_exact_denoiser_and_reverse_kernel_are_bayes_rule_over_all_strings(t):
    oracle = small()
    chain, strings = oracle.chain, all_strings(4)
    prior = torch.zeros(16).double()
    for string, weight in zip(SMALL, WEIGHTS / 6, strict=True):
        prior[int(sum(int(b) << (3 - i) for i, b in enumerate(string)))] = weight
    from_start = string_prob(strings, chain.marginal(strings, step(t)))  # (x_0, x_t)
    joint = prior[:, None] * from_start
    x0_rates = (joint / joint.sum(0)).T @ strings
    torch.testing.assert_close(oracle(strings, step(t)), x0_rates)
    before = prior @ string_prob(strings, chain.marginal(strings, step(t - 1)))
    backward = before[:, None] * string_prob(strings, chain.kernel(strings, step(t)))
    backward = (backward / backward.sum(0)).T  # (x_t, x_{t-1})
    torch.testing.assert_close(oracle.reverse_joint(strings, step(t)), backward)
    torch.testing.assert_close(oracle.reverse_rates(strings, step(t)), backward @ strings)


def test_one_time_or_a_time_for_each():
    oracle, x = small(), all_strings(4)[:3]
    both = oracle(x, torch.tensor([2, 4, 6]))
    for i, t in enumerate((2, 4, 6)):
        torch.testing.assert_close(both[i : i + 1], oracle(x[i : i + 1], step(t)))


def brute_force_bound(oracle):
    """``E[log p(x_0 ... x_T) - log q(x_1 ... x_T | x_0)]`` summed over every x_0, x_{t-1}, x_t."""
    chain, strings = oracle.chain, all_strings(oracle.strings.shape[1])
    w, end = oracle.log_weights.exp(), step(chain.n_timesteps)
    total = 0.0
    for t in range(1, chain.n_timesteps + 1):
        kernel = string_prob(strings, chain.kernel(strings, step(t)))  # (x_{t-1}, x_t)
        rates = chain.kernel(strings, step(1)) if t == 1 else oracle.reverse_rates(strings, step(t))
        model = string_prob(strings, rates).T  # (x_{t-1}, x_t)
        start = w @ string_prob(strings, chain.marginal(oracle.strings, step(t - 1)))
        total += float((start[:, None] * kernel * (model.log() - kernel.log())).sum())
    last = w @ string_prob(strings, chain.marginal(oracle.strings, end))
    at_rest = torch.full((1, strings.shape[1]), chain.rate).double()
    return total + float(last @ string_prob(strings, at_rest)[0].log())


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("betas", [erasing_betas(6), torch.tensor([0.05, 0.2, 0.4])])
def test_the_bound_is_that_of_all_trajectories(betas, rate):
    oracle = FiniteStrings(BinomialChain(betas, rate), SMALL, WEIGHTS)
    assert float(oracle.bound().total) == pytest.approx(brute_force_bound(oracle), abs=1e-12)


def test_the_bound_agrees_with_its_sampled_terms():
    oracle = FiniteStrings(BinomialChain(erasing_betas(10), 0.2), HEARTBEAT)
    generator = torch.Generator().manual_seed(0)
    x0 = oracle.sample(20_000, generator)
    for t in (2, 5, 9):
        x_t = oracle.chain.add_noise(x0, step(t), generator)
        terms = transition_kl(oracle.chain, x0, x_t, oracle(x_t, step(t)), step(t))
        error = abs(terms.mean() - oracle.bound().transitions[t - 2])
        assert error < 4 * terms.std() / math.sqrt(len(terms))


def test_the_bound_never_exceeds_the_entropy_of_the_first_noised_strings_and_tends_to_it():
    gaps = []
    for n_timesteps in (5, 20, 80):
        oracle = FiniteStrings(BinomialChain(erasing_betas(n_timesteps), 0.2), HEARTBEAT)
        assert float(oracle.entropy(0)) == pytest.approx(math.log(5))
        gaps.append(float(-oracle.entropy(1) - oracle.bound().total))
    assert gaps[-1] > 0
    # What independent bits miss falls like 1 / T.
    assert all(3.5 < a / b < 6 for a, b in pairwise(gaps))


def test_entropies_by_number_of_ones_are_those_by_string():
    oracle = small()
    for t in (1, 4, 6):
        rates = oracle.chain.marginal(oracle.strings, step(t))
        p = oracle.log_weights.exp() @ string_prob(all_strings(4), rates)
        assert float(oracle.entropy(t)) == pytest.approx(float(-(p * p.log()).sum()))


def test_sampling_with_the_exact_denoiser_gives_the_data_back():
    oracle = FiniteStrings(BinomialChain(erasing_betas(300), 0.2), HEARTBEAT)
    generator = torch.Generator().manual_seed(1)
    x = draw_bits(torch.full((400, 20), 0.2), generator)
    path = list(reverse_chain(oracle.chain, oracle, x, generator))
    assert [t for t, _ in path] == list(range(299, -1, -1))
    match = (path[-1][1][:, None] == HEARTBEAT).all(2)
    assert 0.9 < match.any(1).double().mean() < 1
    assert match.double().mean(0).min() > 0.12


def test_bernoulli_entropy_and_divergence():
    p = torch.tensor([0.0, 0.25, 1.0]).double()
    q = torch.full_like(p, 0.5)
    torch.testing.assert_close(bernoulli_kl(p, q), math.log(2) - bernoulli_entropy(p))
    assert bernoulli_entropy(p).tolist()[::2] == [0, 0]


def test_what_cannot_be_is_refused():
    chain = BinomialChain(erasing_betas(4))
    with pytest.raises(ValueError, match="at least one step"):
        erasing_betas(0)
    with pytest.raises(ValueError, match="betas"):
        BinomialChain(torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="rate"):
        BinomialChain(erasing_betas(4), rate=1.0)
    with pytest.raises(ValueError, match="whole numbers"):
        chain.kernel(SMALL, step(0))
    with pytest.raises(ValueError, match="whole numbers"):
        chain.kept(torch.tensor(1.5))
    with pytest.raises(ValueError, match="zeros and ones"):
        FiniteStrings(chain, SMALL * 2)
    with pytest.raises(ValueError, match="twice"):
        FiniteStrings(chain, SMALL[[0, 0]])
    with pytest.raises(ValueError, match="positive"):
        FiniteStrings(chain, SMALL, -WEIGHTS)
    with pytest.raises(ValueError, match="x_t must have shape"):
        FiniteStrings(chain, SMALL)(torch.zeros(2, 3), step(1))
    with pytest.raises(ValueError, match="too many"):
        FiniteStrings(chain, torch.eye(20)).bound()
    with pytest.raises(ValueError, match="between 1 and 16"):
        all_strings(17)
