"""Mini-batches: pairing, uniformity, reproducibility, flips."""

import pytest
import torch
from torch import Generator

from retro_diffusion.data.batches import fresh, minibatches, with_random_flip
from retro_diffusion.data.toy import moons


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_rows_keep_their_condition_and_are_drawn_uniformly_with_replacement() -> None:
    x = torch.arange(10.0)[:, None]
    batches = minibatches(x, torch.arange(10) * 2, batch_size=20_000)
    drawn, cond = batches(seeded())
    assert cond is not None and torch.equal(drawn[:, 0] * 2, cond.float())
    counts = cond.bincount(minlength=20)[::2]
    assert (counts - 2000).abs().max() < 200


def test_generator_decides() -> None:
    batches = minibatches(torch.randn(50, 3, generator=seeded()), batch_size=4)
    generator = seeded(1)
    first, none = batches(generator)
    assert none is None and first.shape == (4, 3)
    assert torch.equal(first, batches(seeded(1))[0])
    assert not torch.equal(first, batches(generator)[0])


def test_fresh_draws_from_the_law() -> None:
    x, cond = fresh(moons, 32)(seeded())
    assert cond is None and torch.equal(x, moons(32, seeded()))


def test_random_flip_mirrors_half_of_the_images() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    x, _ = with_random_flip(minibatches(image, batch_size=2000))(seeded())
    is_mirrored = (x == image.flip(-1)).all((1, 2, 3))
    assert (is_mirrored | (x == image).all((1, 2, 3))).all()
    assert is_mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
    x, _ = with_random_flip(minibatches(image, batch_size=5), probability=1.0)(seeded())
    assert (x == image.flip(-1)).all()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="equal lengths, got 3 and 2"):
        minibatches(torch.zeros(3, 1), torch.zeros(2), batch_size=1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        minibatches(torch.zeros(3, 1), batch_size=0)
    with pytest.raises(ValueError, match="at least one datum"):
        minibatches(torch.zeros(0, 1), batch_size=1)
    with pytest.raises(ValueError, match="at least 1, got -1"):
        fresh(moons, -1)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 2"):
        with_random_flip(fresh(moons, 1), probability=2)
