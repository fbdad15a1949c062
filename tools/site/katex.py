"""Sphinx extension: formulas become HTML when the site is built, so that a page needs no script for them.

KaTeX (vendored beside this file, MIT licence) runs in an embedded JavaScript engine. A formula that it
cannot read is a warning with its place, and warnings are errors. A labelled equation also gets its mark:
whether a test verifies it, with a link to that test.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

HERE = Path(__file__).parent / "katex"
logger = logging.getLogger(__name__)


class Katex:
    """The KaTeX program, with what it has already rendered."""

    def __init__(self) -> None:
        self._engine = MiniRacer()
        self._engine.eval("var self = globalThis, window = globalThis;")
        self._engine.eval((HERE / "katex.min.js").read_text(encoding="utf-8"))
        self._done: dict[tuple[str, bool], str] = {}

    def render(self, tex: str, *, display: bool) -> str:
        """Return the HTML (and MathML, for screen readers) of a formula.

        Raises
        ------
        ValueError
            If KaTeX cannot read it.
        """
        if (tex, display) not in self._done:
            options = {"displayMode": display, "throwOnError": True, "strict": "ignore"}
            call = f"katex.renderToString({json.dumps(tex)}, {json.dumps(options)})"
            try:
                self._done[tex, display] = str(self._engine.eval(call))
            except JSEvalException as error:
                raise ValueError(str(error).splitlines()[0]) from error
        return self._done[tex, display]


@functools.cache
def _katex(process: int) -> Katex:
    """Return the program of a process: the engine does not survive a fork."""
    return Katex()


def _html(visitor: Any, node: nodes.Element, *, display: bool) -> str:
    tex = node.astext().strip()
    if display and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{gathered}}{tex}\end{{gathered}}"
    try:
        return _katex(os.getpid()).render(tex, display=display)
    except ValueError as error:
        logger.warning("%s in %r", error, tex, location=node, type="katex")
        return f"<code>{visitor.encode(tex)}</code>"


def visit_inline(visitor: Any, node: nodes.Element) -> None:
    """Write a formula of a line of text."""
    visitor.body.append(f'<span class="math">{_html(visitor, node, display=False)}</span>')
    raise nodes.SkipNode


def visit_block(visitor: Any, node: nodes.Element) -> None:
    """Write a displayed formula, with its number and its mark if it has a label."""
    visitor.body.append(visitor.starttag(node, "div", CLASS="math", tabindex="0"))
    if node["number"]:
        visitor.body.append(f'<span class="eqno">({get_node_equation_number(visitor, node)})')
        visitor.add_permalink_ref(node, "Link to this equation")
        visitor.body.append(_mark(visitor, node) + "</span>")
    visitor.body.append(_html(visitor, node, display=True) + "</div>\n")
    raise nodes.SkipNode


def _mark(visitor: Any, node: nodes.Element) -> str:
    label = node["label"]
    entry = visitor.config.equation_registry.get(label)
    if entry is None:
        if label.startswith("eq-"):
            logger.warning("the equation %s is in no registry", label, location=node, type="katex")
        return ""
    here = visitor.builder.current_docname
    target = f"{visitor.builder.get_relative_uri(here, 'equations')}#{label}-tests"
    if "tests" in entry:
        return f'<a class="verified" href="{target}" title="verified: see its tests">✓</a>'
    why = visitor.encode(entry["waiver"])
    return f'<a class="waived" href="{target}" title="not tested: {why}">○</a>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer(
        "katex", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    app.add_config_value("equation_registry", {}, "html")
    app.add_css_file("katex/katex.min.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
