"""Batches of any shape, counted, cut and moved."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from retro_diffusion import nested


class Pair(NamedTuple):
    x0: Tensor
    cond: Any


def batch() -> Pair:
    x0 = torch.arange(12.0).reshape(6, 2)
    return Pair(x0, {"label": [torch.arange(6)], "scale": torch.tensor(3.0), "name": "digits"})


def test_parts_put_together_are_the_batch() -> None:
    whole = batch()
    parts = [nested.part(whole, k, 3) for k in range(3)]
    assert all(isinstance(part, Pair) for part in parts)
    assert torch.equal(torch.cat([part.x0 for part in parts]), whole.x0)
    assert torch.equal(torch.cat([part.cond["label"][0] for part in parts]), torch.arange(6))
    assert all(part.cond["scale"] == 3 and part.cond["name"] == "digits" for part in parts)


def test_one_part_is_the_batch_itself() -> None:
    whole = batch()
    assert nested.part(whole, 0, 1) is whole


def test_tensors_of_another_length_belong_to_every_part() -> None:
    table = torch.zeros(5, 2)
    assert nested.part((torch.zeros(4, 2), table), 1, 2)[1] is table


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 cannot be cut into 4 equal parts"):
        nested.part(batch(), 0, 4)


def test_length() -> None:
    assert nested.length(batch()) == 6
    assert nested.length({"scale": torch.tensor(1.0), "x": [torch.zeros(3)]}) == 3
    assert nested.length((None, "nothing")) == 1


def test_to_device_keeps_the_nest() -> None:
    moved = nested.to_device(batch(), torch.device("meta"))
    assert isinstance(moved, Pair)
    assert moved.x0.device.type == moved.cond["label"][0].device.type == "meta"
    assert moved.cond["name"] == "digits"
