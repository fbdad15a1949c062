"""Sphinx extension: `{live}` puts a live figure on a page.

    :::{live} sampler-lab
    :name: fig-sampler-lab
    :options: {"nfe": 20}
    What is seen, and what it means.
    :::

It is a numbered figure with a caption. The script comes along on those pages alone that need it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from retro_diffusion import live
from tools.site.figures import figure


class LiveFigure(SphinxDirective):
    """A figure of `retro_diffusion.live`, its caption being the directive's text."""

    required_arguments = 1
    option_spec: ClassVar = {"name": directives.unchanged, "options": directives.unchanged}
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the figure; an unknown name or unreadable options are errors of this place."""
        try:
            options = json.loads(self.options.get("options", "{}"))
            element = live.html(self.arguments[0], **options)
        except ValueError as error:
            raise self.error(str(error)) from error
        result = figure(self, nodes.raw("", element, format="html"))
        result["classes"].append("live")
        return [result]


def _write_script(app: Sphinx) -> None:
    static = Path(app.srcdir) / "_static"
    static.mkdir(exist_ok=True)
    (static / "live.js").write_text(live.script(), encoding="utf-8")


def _add_script(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    if "data-live=" in (context.get("body") or ""):
        app.add_js_file("live.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and its script."""
    app.add_directive("live", LiveFigure)
    app.connect("builder-inited", _write_script)
    app.connect("html-page-context", _add_script)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
