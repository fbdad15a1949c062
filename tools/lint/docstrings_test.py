import ast

import pytest

from tools.lint import docstrings


def problems(source: str) -> list[str]:
    return [
        problem
        for function in docstrings.public_functions(ast.parse(source), {"alpha": 2})
        for problem in docstrings.problems(function)
    ]


GOOD = '''
def scale(x: Tensor, factor: float) -> Tensor:
    """Scale a batch.

    Parameters
    ----------
    x
        Data, shape (B, *D).
    factor
        The factor, > 0.

    Returns
    -------
    Tensor
        Shape (B, *D).

    Raises
    ------
    ValueError
        If the factor is not positive.
    """
    if factor <= 0:
        raise ValueError("factor must be positive")
    return factor * x
'''


def test_good() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("factor: float)", "factor: float, shift: float)", '"Parameters" lacks shift'),
        ("x: Tensor, ", "", '"Parameters" has x, which is not a parameter'),
        ("    Returns\n    -------\n", "", 'there is no "Returns" or "Yields" section'),
        (
            "    ValueError\n        If the",
            "    KeyError\n        If the",
            '"Raises" lacks ValueError',
        ),
    ],
)
def test_each_problem(old: str, new: str, said: str) -> None:
    assert said in problems(GOOD.replace(old, new, 1))


def test_shape_is_owed_but_not_of_times() -> None:
    source = 'def f({}: Tensor) -> float:\n    """Do it."""'
    assert problems(source.format("x")) == ["it takes or returns a tensor and says no shape"]
    assert problems(source.format("t")) == []
    assert problems(source.format("x").replace("Do it.", "Do it to x of (B, D).")) == []


def test_many_parameters_need_a_section() -> None:
    assert problems('def f(a, b, c, d):\n    """Do it."""') == []
    assert problems('def f(a, b, c, d, e):\n    """Do it."""') == [
        '5 parameters and no "Parameters" section'
    ]


def test_private_and_overriding_may_be_brief() -> None:
    assert problems('def _f(x: Tensor):\n    """Do it."""') == []
    source = 'class A{}:\n    def alpha(self, x: Tensor):\n        """Do it."""'
    assert problems(source.format("(Base)")) == []
    assert len(problems(source.format(""))) == 1


def test_errors_of_inner_functions_are_not_the_outer_ones() -> None:
    inner = GOOD.replace("KeyError", "").replace(
        "    return factor", "    def g():\n        raise KeyError(1)\n    return factor"
    )
    assert problems(inner) == []
