import base64
import json

import pytest

from tools.site import figures

PNG = base64.b64encode(b"png").decode()


def shown(alt):
    return {"data": {"image/png": PNG}, "metadata": {"image/png": {"alt": alt, "width": 711}}}


@pytest.fixture
def notebook(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# A paper\n", "\n", "## The question\n"]},
        {
            "cell_type": "code",
            "source": ["# a comment"],
            "outputs": [{"data": {"text/plain": "7"}}],
        },
        {"cell_type": "markdown", "source": ["## Intuition\n", "Text, and a #3.\n"]},
        {
            "cell_type": "code",
            "source": [],
            "outputs": [shown("Left: a curve."), shown("A curve.")],
        },
    ]
    path = tmp_path / "05_a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_a_figure_is_found_by_a_piece_of_its_alt_text(notebook):
    found = figures.find(notebook, "Left: a")
    assert found == figures.Stored(b"png", "Left: a curve.", 711, "A paper", "Intuition")


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ("a line", "None of the figures of 05_a .* There are: “Left: a curve.” “A curve.”"),
        ("curve", "2 of the figures of 05_a .* There are: “Left: a curve.” “A curve.”"),
        ("", "2 of the figures"),
    ],
)
def test_a_piece_that_is_not_that_of_one_figure(notebook, piece, message):
    with pytest.raises(ValueError, match=message):
        figures.find(notebook, piece)


def test_a_notebook_that_is_not_there(notebook):
    with pytest.raises(ValueError, match=r"no notebook 06_b; there are: 05_a\."):
        figures.find(notebook.with_name("06_b.ipynb"), "curve")


def test_a_notebook_without_figures(tmp_path):
    path = tmp_path / "05_a.ipynb"
    path.write_text(json.dumps({"cells": []}))
    with pytest.raises(ValueError, match=r"There are: none\."):
        figures.find(path, "curve")
