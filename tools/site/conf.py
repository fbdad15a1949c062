"""Sphinx configuration of the survey post; `tools.site.build` prepares the folder it runs on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from tools.site import cards

project = "Retro Diffusion"
author = "the Retro Diffusion authors"
project_copyright = "the Retro Diffusion authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinxcontrib.bibtex",
    "sphinx_design",
    "sphinx_copybutton",
    "tools.site.backlinks",
    "tools.site.cards",
    "tools.site.figures",
    "tools.site.katex",
    "tools.site.live",
]
exclude_patterns = ["_generated"]
default_role = "autolink"  # `name` in a docstring is a link where there is something to link to
numfig = True
math_numfig = True
html_math_renderer = "katex"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_update_mathjax = False

nb_execution_mode = "off"  # notebooks are stored with the outputs of their full runs
nb_ipywidgets_js: dict[str, Any] = {}
nb_merge_streams = True

autosummary_generate = False
autodoc_typehints = "none"  # numpydoc's sections say it
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

equation_registry = json.loads(Path("_generated/equations.json").read_text(encoding="utf-8"))

# Resting on a link shows what it leads to; a card holds no link, and may be rolled sideways.
tippy_js = cards.SCRIPTS
tippy_props = {"placement": "top-start", "maxWidth": 640, "interactive": True}
tippy_anchor_parent_selector = "article"
tippy_tip_selector = "div.math[id], div.citation"
tippy_enable_wikitips = False
tippy_enable_doitips = False

html_theme = "furo"
html_title = "Retro Diffusion"
html_static_path = ["_static"]

html_css_files = ["site.css", "cards.css", "timeline.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False  # its excerpts are fetched, which a page from a file may not


# What the writers leave wrong for a small screen, a keyboard or a screen reader.
REPAIRS = (
    (r"<pre>", '<pre tabindex="0">'),  # keys scroll what is wide
    (r"(?s)<table style=.*?</table>", r'<div class="table-wrapper container">\g<0></div>'),
    (r'<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    (r'role="heading"', 'role="heading" aria-level="2"'),
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),  # holds no items
    (r' role="doc-biblioentry"', ""),  # deprecated
)


def _accessible(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Mend the page's text and its tree."""
    for part in ("body", "furo_navigation_tree"):
        for wrong, right in REPAIRS:
            if text := context.get(part):
                context[part] = re.sub(wrong, right, text)


def _escape(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep the star of a shape such as (B, *D) from beginning an emphasis."""
    for i, line in enumerate(lines):
        parts = line.split("``")  # every other one is literal
        parts[::2] = [part.replace("*D", r"\*D") for part in parts[::2]]
        lines[i] = "``".join(parts)


def _skip(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple, which say nothing but their number."""
    return True if (thing.__doc__ or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Connect what a page needs after the theme has written it."""
    app.connect("html-page-context", _accessible, priority=900)
    app.connect("autodoc-process-docstring", _escape, priority=100)
    app.connect("autodoc-skip-member", _skip)
