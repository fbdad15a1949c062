"""Tests of `pages`: a page holds the claims of the outputs and the paper of the header."""

from __future__ import annotations

from typing import Any

import pytest

from retro_diffusion.claims import MIME, parse_page
from tools.notebooks import documents, example, pages
from tools.notebooks.documents import Notebook, NotebookError
from tools.notebooks.example import NAME


def _rows(notebook: Notebook) -> list[dict[str, Any]]:
    output = documents.code_cells(notebook)[3]["outputs"][0]
    rows: list[dict[str, Any]] = output["data"][MIME]["claims"]
    return rows


def test_the_page_is_that_of_header_record_and_outputs() -> None:
    text = pages.page_text(example.stored(), NAME)
    assert text is not None
    page = parse_page(text, f"{NAME}.json")
    assert page == pages.page(example.stored(), NAME)
    assert (page.notebook, page.paper, page.arxiv) == (
        NAME,
        "Ho, Jain and Abbeel 2020",
        "2006.11239",
    )
    assert (page.profile, page.library, page.year) == ("full", "0.1.0", 2020)
    assert [claim.key for claim in page.claims] == ["small-sum"]


def test_the_page_survives_the_notebook_s_file() -> None:
    stored = documents.parse(documents.dumps(example.stored()), NAME)
    assert pages.page(stored, NAME) == pages.page(example.stored(), NAME)


def test_no_claims_are_no_page() -> None:
    notebook = example.stored()
    documents.code_cells(notebook)[3]["outputs"] = []
    assert pages.page(notebook, NAME) is None and pages.page_text(notebook, NAME) is None


def test_the_claims_of_two_cells_come_in_order_and_share_their_keys() -> None:
    notebook = example.stored()
    cells = documents.code_cells(notebook)
    other = {MIME: {"claims": [example.CLAIM | {"key": "earlier"}], "library": "0.1.0"}}
    cells[2]["outputs"] = [{"data": other, "metadata": {}, "output_type": "display_data"}]
    page = pages.page(notebook, NAME)
    assert page is not None and [c.key for c in page.claims] == ["earlier", "small-sum"]
    other[MIME]["claims"][0]["key"] = "small-sum"  # type: ignore[index]
    with pytest.raises(NotebookError, match="99_example.ipynb has the key 'small-sum' twice"):
        pages.page(notebook, NAME)


def test_a_row_without_a_field_is_named() -> None:
    notebook = example.stored()
    del _rows(notebook)[0]["control"]
    with pytest.raises(NotebookError, match=r"99_example.ipynb, claim 1 .*'control'"):
        pages.page(notebook, NAME)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"paper": "Ho, Jain and Abbeel"}, "is to end in the year"),
        ({"paper": 2020}, "is to end in the year"),
        ({"paper": "Ho 2020", "arxiv": 2006.11239}, "arxiv is to be quoted"),
        ({"paper": "Ho 2020", "arxiv": "arXiv:2006.11239"}, "arxiv is to be quoted"),
        ({"arxiv": "2006.11239"}, "has an arxiv number and no paper"),
    ],
)
def test_a_malformed_header_is_refused(header: dict[str, Any], message: str) -> None:
    notebook = example.stored()
    notebook["metadata"]["retro"] = header
    with pytest.raises(NotebookError, match=message):
        pages.page(notebook, NAME)


def test_a_guide_is_of_no_paper() -> None:
    notebook = example.stored()
    notebook["metadata"]["retro"] = {"shape": "guide"}
    page = pages.page(notebook, NAME)
    assert page is not None and (page.paper, page.arxiv, page.year) == ("", "", None)
