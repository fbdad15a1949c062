"""The ledger's page of a notebook: the claims that its stored outputs hold.

A page mirrors its notebook, so that it can be made anew at any time: ``docs/claims/NAME.json`` has the
rows that ``claims_table`` stored in ``NAME.ipynb``, and the paper that the notebook's header names.
"""

from __future__ import annotations

import re
from typing import Any

from retro_diffusion import claims
from retro_diffusion.claims import Claim, Page
from tools.notebooks import documents
from tools.notebooks.documents import RECORD, Notebook, NotebookError


def page(notebook: Notebook, name: str) -> Page | None:
    """Return the claims that a notebook's outputs hold, or None if they hold none.

    Parameters
    ----------
    notebook
        A notebook with outputs.
    name
        Its name.

    Returns
    -------
    Page or None
        The claims of all its cells, in order.

    Raises
    ------
    NotebookError
        If a row lacks a field, a key repeats or the header's paper is malformed.
    """
    bundles = _bundles(notebook)
    if not bundles:
        return None
    paper, arxiv = _cited(notebook, name)
    return Page(
        notebook=name,
        paper=paper,
        arxiv=arxiv,
        profile=notebook["metadata"].get(RECORD, {}).get("profile", "unknown"),
        library=str(bundles[0].get("library", "unknown")),
        claims=_rows(bundles, name),
    )


def page_text(notebook: Notebook, name: str) -> str | None:
    """Return the text of a notebook's page, or None if it has none; raises as `page` does."""
    found = page(notebook, name)
    return None if found is None else claims.page_text(found)


def _bundles(notebook: Notebook) -> list[dict[str, Any]]:
    outputs = [o for cell in documents.code_cells(notebook) for o in cell["outputs"]]
    return [o["data"][claims.MIME] for o in outputs if claims.MIME in o.get("data", {})]


def _rows(bundles: list[dict[str, Any]], name: str) -> tuple[Claim, ...]:
    rows = [row for bundle in bundles for row in bundle.get("claims", [])]
    try:
        return claims.parse_rows(rows, f"{name}.ipynb")
    except ValueError as error:
        raise NotebookError(str(error)) from error


def _cited(notebook: Notebook, name: str) -> tuple[str, str]:
    """Return the paper and its arXiv number from the notebook's header, empty if it names none."""
    header = notebook["metadata"].get("retro", {})
    paper, arxiv = header.get("paper", ""), header.get("arxiv", "")
    if not isinstance(paper, str) or (paper and not re.search(r" \d{4}$", paper)):
        raise NotebookError(
            f"text/{name}.py: its header's paper is to end in the year, as in "
            f'paper: "Ho, Jain and Abbeel 2020", and is {paper!r}.'
        )
    if not isinstance(arxiv, str) or (arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}", arxiv)):
        raise NotebookError(
            f"text/{name}.py: its header's arxiv is to be quoted, as in "
            f'arxiv: "2006.11239", and is {arxiv!r}.'
        )
    if arxiv and not paper:
        raise NotebookError(f"text/{name}.py: its header has an arxiv number and no paper.")
    return paper, arxiv
