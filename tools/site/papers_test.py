import re
from pathlib import Path

import pytest

from tools.site import papers

ENTRY = """
[[paper]]
name = "A"
year = 2013
cite = "someone2014a"
idea = "say it in half a sentence"
chapter = "01_a"
section = "One: and two"
notebook = "01_2013_a"
library = "samplers.ddim"
coefficients = "$1$, $t$"
predicts = "x"
weight = "1"
sampler = "Heun"
"""
BIBLIOGRAPHY = "@article{someone2014a, title = {A}, year = {2014}, eprint = {1312.0001}}"


@pytest.fixture
def checkout(tmp_path):
    post, notebooks = tmp_path / "docs" / "post", tmp_path / "notebooks"
    post.mkdir(parents=True)
    notebooks.mkdir()
    (post / "01_a.md").write_text("# A\n\n## One: and two\n")
    (post / "01_a.bib").write_text(BIBLIOGRAPHY)
    (notebooks / "01_2013_a.ipynb").write_text("{}")
    return tmp_path


def write(checkout: Path, text: str) -> Path:
    (checkout / "docs" / "papers.toml").write_text(text)
    return checkout


def test_read(checkout):
    (paper,) = papers.read(write(checkout, ENTRY))
    assert (paper.name, paper.year, paper.section) == ("A", 2013, "One: and two")


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("year = 2013", "year = 2015", "someone2014a is of 2013 or 2014, not of 2015"),
        ("someone2014a", "nobody2014b", "no bibliography has 'nobody2014b'"),
        ('"01_a"', '"02_b"', "there is no chapter '02_b'"),
        ("One: and two", "Three", "01_a.md has no section 'Three'"),
        ("01_2013_a", "02_b", "there is no notebook '02_b'"),
        ("samplers.ddim", "samplers.dim", "the library has no 'samplers.dim'"),
        ("samplers.ddim", "sampler.ddim", "the library has no 'sampler.ddim'"),
        ('weight = "1"', "", "the field 'weight' is missing"),
        ("weight =", "wait = 1\nweight =", "unknown field 'wait'"),
    ],
)
def test_what_is_not_there_is_named(checkout, line, instead, message):
    write(checkout, ENTRY.replace(line, instead))
    with pytest.raises(ValueError, match=re.escape(f"papers.toml: A: {message}")):
        papers.read(checkout)


def test_the_years_are_in_order(checkout):
    earlier = ENTRY.replace('"A"', '"B"')
    write(checkout, ENTRY.replace("2013\n", "2014\n", 1) + earlier)
    with pytest.raises(ValueError, match="B stands after a later year"):
        papers.read(checkout)


def test_the_timeline_leads_to_chapter_notebook_and_library(checkout):
    text = papers.timeline(papers.read(write(checkout, ENTRY)))
    assert "1. [2013]{.year} **A** {cite:t}`someone2014a`: say it in half a sentence." in text
    assert "[Chapter 1](post/01_a.md#one-and-two)" in text
    assert "{doc}`Notebook <notebooks/01_2013_a>`" in text
    assert "{py:obj}`ddim <retro_diffusion.samplers.ddim>`" in text


def test_the_table_has_a_row_for_each_paper(checkout):
    head, _, row = papers.table(papers.read(write(checkout, ENTRY))).splitlines()
    assert row == "| {doc}`A <notebooks/01_2013_a>` (2013) | $1$, $t$ | x | 1 | Heun |"
    assert row.count("|") == head.count("|")
