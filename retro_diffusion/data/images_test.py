"""Range check and stratified split."""

import pytest
import torch

from retro_diffusion.data.digits import digits
from retro_diffusion.data.images import Images, check_image_range, split


def test_three_way_split_is_disjoint_exact_and_stratified() -> None:
    images = digits()
    numbered = Images(torch.arange(1797.0).reshape(-1, 1, 1, 1), images.y)
    parts = split(numbered, [897, 500, 400], seed=3)
    assert [len(part.y) for part in parts] == [897, 500, 400]
    index = torch.cat([part.x.flatten() for part in parts])
    assert index.unique().numel() == 1797
    share = images.y.bincount() / 1797
    for part in parts:
        assert torch.equal(images.y[part.x.flatten().long()], part.y), "labels travel along"
        assert (part.y.bincount(minlength=10) - len(part.y) * share).abs().max() <= 2


def test_fractions_cover_everything_and_seeds_matter() -> None:
    images = digits()
    thirds = split(images, [1 / 3, 1 / 3, 1 / 3])
    assert [len(part.y) for part in thirds] == [599, 599, 599]
    again, other = split(images, [1 / 3, 1 / 3, 1 / 3]), split(images, [0.5], seed=1)
    assert all(torch.equal(a.x, b.x) for a, b in zip(thirds, again, strict=True))
    assert len(other) == 1 and not torch.equal(other[0].y[:599], thirds[0].y)


def test_parts_are_in_random_order() -> None:
    """Labels in a cycle would bias whoever takes every tenth image."""
    part = split(digits(), [1000])[0]
    every_tenth = part.y[::10].bincount(minlength=10)
    assert (every_tenth > 0).sum() >= 9 and every_tenth.max() < 25


@pytest.mark.parametrize("parts", [[0, 5], [1000, 1000], [0.7, 0.7], [], [-1, 5]])
def test_impossible_splits(parts: list[float]) -> None:
    with pytest.raises(ValueError, match="parts must be sizes or fractions"):
        split(digits(), parts)


def test_range_check() -> None:
    x = digits().x
    assert check_image_range(x) is x
    assert check_image_range(torch.zeros(2, 1, 4, 4)).shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"range over \[0, 1\]"):
        check_image_range((x + 1) / 2)
    with pytest.raises(ValueError, match=r"range over \[0, 255\]"):
        check_image_range((x + 1) * 127.5)
    with pytest.raises(ValueError, match="torch.uint8"):
        check_image_range(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="nan"):
        check_image_range(torch.tensor([0.0, float("nan")]))
