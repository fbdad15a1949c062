"""Importance-sampled terms of the bound: unbiased, and steadier than uniform ones."""

from __future__ import annotations

import pytest
import torch

from retro_diffusion.data import fresh
from retro_diffusion.data.toy import swiss_roll
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.importance import ImportanceSampledBound, LossHistory
from retro_diffusion.losses import bound_loss
from retro_diffusion.networks import MLP
from retro_diffusion.reverse import lower_variance
from retro_diffusion.schedules import linear
from retro_diffusion.training import train

torch.set_num_threads(1)

TERMS = torch.logspace(0, -3, 50, dtype=torch.float64)
"""Terms of a bound that falls by three orders of magnitude."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(terms=TERMS, length=10):
    history = LossHistory(len(terms), length=length)
    steps = torch.arange(1, len(terms) + 1, dtype=torch.float64)
    for _ in range(length):
        history.record(steps, terms)
    return history


def test_steps_are_drawn_uniformly_until_all_have_a_full_history():
    history = LossHistory(4, length=3)
    even = torch.full((4,), 0.25, dtype=torch.float64)
    for _ in range(3):
        assert torch.equal(history.probabilities, even)
        history.record(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([9.0, 1.0, 1.0]))
    assert torch.equal(history.probabilities, even)  # step 4 has none yet
    for _ in range(3):
        assert torch.equal(history.probabilities, even)
        history.record(torch.tensor([4.0]), torch.tensor([1.0]))
    assert history.probabilities.argmax() == 0


def test_probabilities_are_equation_18_and_a_uniform_share():
    expected = 0.999 * TERMS / TERMS.sum() + 0.001 / len(TERMS)
    torch.testing.assert_close(filled().probabilities, expected)
    assert float(filled().probabilities.sum()) == pytest.approx(1)


def test_it_is_the_root_of_the_mean_square_that_counts():
    history = LossHistory(2, length=2, uniform=1e-9)
    history.record(torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0, 1.0, 1.0]))
    root = 2**0.5  # of (0 + 4) / 2; the other is 1
    assert float(history.probabilities[0]) == pytest.approx(root / (root + 1), abs=1e-6)


def test_old_losses_make_room_for_new_ones():
    history = filled(torch.ones(3, dtype=torch.float64), length=2)
    for loss in (5.0, 7.0, 9.0):
        history.record(torch.tensor([2.0]), torch.tensor([loss]))
    assert sorted(history.losses[1].tolist()) == [7.0, 9.0]


def test_weighted_draws_are_unbiased_and_steadier_than_uniform_ones():
    history, n = filled(), 20_000
    t, weight = history.draw(n, seeded())
    estimates = weight * TERMS[t.long() - 1]
    uniform = TERMS[torch.randint(len(TERMS), (n,), generator=seeded(1))]
    assert float(estimates.mean()) == pytest.approx(
        float(TERMS.mean()), abs=4 * float(estimates.std()) / n**0.5 + 1e-12
    )
    assert float(estimates.var()) < float(uniform.var()) / 100
    assert float((estimates.mean() - TERMS.mean()).abs()) < float(TERMS.mean())


def test_the_loss_is_the_bound_in_expectation():
    torch.manual_seed(0)
    chain, data = linear(20, 0.01, 0.4), torch.randn(2000, 2, generator=seeded(1))
    denoiser = Denoiser(MLP(2, width=16), chain)
    sampled = ImportanceSampledBound(LossHistory(20), variance=lower_variance)
    plain = bound_loss(variance=lower_variance)
    with torch.no_grad():
        for seed in range(10):
            sampled(denoiser, (data, None), seeded(seed))
        assert float(sampled.history.probabilities.std()) > 0
        ours = torch.stack([sampled(denoiser, (data, None), seeded(s)) for s in range(100, 140)])
        theirs = torch.stack([plain(denoiser, (data, None), seeded(s)) for s in range(200, 240)])
    error = float((ours.var() / 40 + theirs.var() / 40).sqrt())
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=4 * error)
    assert float(ours.var()) < float(theirs.var())


def test_a_history_continues_where_it_was_saved():
    saved, fresh = filled(), LossHistory(len(TERMS))
    fresh.load_state_dict(saved.state_dict())
    for history in (saved, fresh):
        history.record(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert torch.equal(fresh.probabilities, saved.probabilities)
    with pytest.raises(ValueError, match="losses .* cannot continue one of"):
        LossHistory(len(TERMS) + 1).load_state_dict(saved.state_dict())


def test_a_resumed_run_draws_as_an_uninterrupted_one(tmp_path):
    def losses_of(n_steps, **options):
        torch.manual_seed(0)
        denoiser = Denoiser(MLP(2, width=16), linear(4, 0.01, 0.4))
        loss = ImportanceSampledBound(LossHistory(4, length=2), variance=lower_variance)
        batches = fresh(swiss_roll, 16)
        states = train(denoiser, batches, n_steps=n_steps, loss=loss, progress=False, **options)
        return [state.loss for state in states]

    whole = losses_of(12)
    first = losses_of(6, checkpoint=tmp_path / "run.pt")
    assert first + losses_of(12, checkpoint=tmp_path / "run.pt") == whole


@pytest.mark.parametrize("bad", [{"n_timesteps": 0}, {"length": 0}, {"uniform": 0.0}])
def test_impossible_histories_are_refused(bad):
    with pytest.raises(ValueError, match="must be >= 1"):
        LossHistory(**({"n_timesteps": 5} | bad))
