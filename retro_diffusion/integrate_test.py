"""The door to SciPy's solvers: shapes, dtypes, directions, tolerances and failures."""

from __future__ import annotations

import math

import pytest
import torch

from retro_diffusion.integrate import solve

torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def times(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("method", ["RK45", "DOP853", "RK23"])
@pytest.mark.parametrize("ends", [(0.0, 1.5), (1.5, 0.0)])
def test_a_rotation_is_solved_in_both_directions_of_time(method, ends):
    turn = f64([0, -1], [1, 0])
    y = f64([1, 0], [0.5, 2])
    end, _ = solve(lambda t, y: y @ turn.T, y, *times(*ends), rtol=1e-8, atol=1e-8, method=method)
    angle = ends[1] - ends[0]
    exact = torch.linalg.matrix_exp(angle * turn)
    torch.testing.assert_close(end, y @ exact.T, rtol=0, atol=1e-6)


def test_methods_of_higher_order_need_fewer_calls_for_the_same_accuracy():
    ends, tolerances = times(0.0, 5.0), {"rtol": 1e-9, "atol": 1e-9}
    calls = [
        solve(lambda t, y: -y * t.cos(), f64([1.0]), *ends, **tolerances, method=method)[1]
        for method in ("DOP853", "RK45", "RK23")
    ]
    assert calls[0] < calls[1] < calls[2]


def test_the_slope_sees_the_time():
    end, _ = solve(lambda t, y: 2 * t + 0 * y, f64([1.0]), *times(1.0, 3.0))
    torch.testing.assert_close(end, f64([9.0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept_and_times_are_float64_scalars(shape, dtype):
    def slope(t, y):
        assert t.shape == () and t.dtype == torch.float64
        assert y.shape == shape and y.dtype == dtype
        return -y

    y = torch.ones(shape, dtype=dtype)
    end, _ = solve(slope, y, *times(0.0, 1.0))
    assert end.shape == shape and end.dtype == dtype
    torch.testing.assert_close(end, y * math.exp(-1), rtol=1e-4, atol=1e-4)
    assert torch.equal(y, torch.ones(shape, dtype=dtype))


def test_the_number_of_calls_is_counted_and_grows_with_accuracy():
    def slope(t, y):
        nonlocal calls
        calls += 1
        return -y * t.cos()

    found = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        calls = 0
        end, nfe = solve(slope, f64([1.0]), *times(0.0, 5.0), rtol=tolerance, atol=tolerance)
        assert nfe == calls
        found.append((nfe, abs(float(end) - math.exp(-math.sin(5.0)))))
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] > found[1][1] > found[2][1] and found[2][1] < 1e-7


@pytest.mark.parametrize(
    "options",
    [{"rtol": 0.0}, {"atol": 0.0}, {"rtol": -1e-3}, {"rtol": math.nan}, {"atol": math.nan}],
)
def test_tolerances_must_be_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        solve(lambda t, y: -y, f64([1.0]), *times(0.0, 1.0), **options)


def test_float32_is_refused_a_tolerance_below_its_rounding():
    y = torch.ones(2)
    with pytest.raises(ValueError, match="at least 1e-6 .*float32"):
        solve(lambda t, y: -y, y, *times(0.0, 1.0), rtol=9e-7)
    solve(lambda t, y: -y, y, *times(0.0, 1.0), rtol=1e-6, atol=1e-9)
    solve(lambda t, y: -y, y.double(), *times(0.0, 1.0), rtol=9e-7)


def test_a_solution_that_blows_up_is_an_error_that_names_the_times():
    with pytest.raises(RuntimeError, match="gave up between t = 0 and 2"):
        solve(lambda t, y: y**2, f64([1.0]), *times(0.0, 2.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("when", [0.0, 0.5])
def test_a_slope_that_is_not_finite_is_an_error_that_names_its_time_and_not_an_endless_search(
    value, when
):
    def slope(t, y):
        return y * (value if t >= when else 1.0)

    with pytest.raises(FloatingPointError, match=r"slope is not finite at t = (0$|0\.[5-9])"):
        solve(slope, f64([1.0]), *times(0.0, 1.0), rtol=1e-3, atol=1e-3)
