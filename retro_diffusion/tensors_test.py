"""Coefficients meet data: shapes, dtypes, and one seed that gives one noise."""

from __future__ import annotations

import pytest
import torch

from retro_diffusion.tensors import match_dims, randn_like

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 5, 5)])
def test_a_coefficient_per_sample_multiplies_whole_samples(shape):
    coefficient = torch.arange(4, dtype=torch.float64)
    product = match_dims(coefficient, torch.ones(shape)) * torch.ones(shape)
    for i in range(4):
        assert (product[i] == i).all()


def test_a_single_coefficient_fits_any_data():
    assert match_dims(torch.tensor(2.0), torch.ones(3, 2)).shape == ()


def test_a_coefficient_shaped_like_the_data_is_left_alone():
    x = torch.randn(3, 2, 2)
    assert torch.equal(match_dims(x, x), x)


def test_coefficients_are_cast_to_the_dtype_of_the_data():
    assert match_dims(torch.ones(3, dtype=torch.float64), torch.ones(3, 2)).dtype == torch.float32
    assert match_dims(torch.ones(3), torch.ones(3, 2).double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_shape_and_dtype_of_the_data_and_follows_the_generator(dtype):
    x = torch.zeros(50, 40, dtype=dtype)
    first = randn_like(x, torch.Generator().manual_seed(1))
    again = randn_like(x, torch.Generator().manual_seed(1))
    other = randn_like(x, torch.Generator().manual_seed(2))
    assert first.shape == x.shape
    assert first.dtype == dtype
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs(float(first.mean())) < 4 / 2000**0.5
    assert abs(float(first.var()) - 1) < 4 * (2 / 2000) ** 0.5
