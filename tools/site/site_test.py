"""The built site, read without a browser: links, alt texts, other hosts, formulas, marks, weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.site import audit

SITE, POST = Path("docs/site"), Path("docs/post")


@pytest.fixture(scope="module")
def pages():
    return audit.read(SITE)


def test_there_are_pages(pages):
    names = {path.stem for path in pages}
    assert {"index", "equations", "ledger", "notation", "bibliography", "03_ddpm"} <= names


def test_the_audit_finds_no_fault(pages):
    print(audit.table(list(audit.chapters(pages, SITE, POST))))
    assert audit.faults(pages, SITE, POST) == []


def test_formulas_are_rendered_and_marked(pages):
    chapters = [page for path, page in pages.items() if path.parent.name == "post"]
    assert all(page.text.count('class="katex"') > 50 for page in chapters)
    verified = sum(page.text.count('class="verified"') for page in chapters)
    waived = sum(page.text.count('class="waived"') for page in chapters)
    assert verified / (verified + waived) >= 0.8


def test_every_named_place_in_the_library_is_there(pages):
    text = pages[(SITE / "equations.html").resolve()].text
    assert text.count("in the library <a ") > 50
    assert "in the library <code" not in text  # a name that is not there stays without a link


def test_every_chapter_shows_figures(pages):
    for row in audit.chapters(pages, SITE, POST):
        assert row.figures + row.live >= 3, row.chapter
