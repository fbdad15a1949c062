"""Sphinx extension: `{notebook-figure}` puts a stored figure of a notebook on a page.

    :::{notebook-figure} 05_2020_ddpm
    :name: fig-ddpm-walks
    :alt: Density of x_t over t
    What is seen, and what it means.
    :::

The option `alt` holds a piece of the figure's alt text that no other figure of the notebook has. The
image, its whole alt text and its width come from the notebook's outputs; a link leads to its place.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from myst_parser.slugs import github_slugify
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# ---- what a notebook has stored --------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A figure in the outputs of a notebook, as `retro_diffusion.notebook.show` left it."""

    png: bytes
    alt: str
    width: int
    """Pixels on the page."""
    title: str
    """The notebook's."""
    heading: str
    """What the figure's cell stands under."""


def stored(notebook: Path) -> list[Stored]:
    """Return the figures that a notebook has stored, in their order.

    Raises
    ------
    ValueError
        If there is no such notebook.
    """
    if not notebook.exists():
        others = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb")))
        raise ValueError(f"There is no notebook {notebook.stem}; there are: {others}.")
    return list(_stored(json.loads(notebook.read_text(encoding="utf-8"))["cells"]))


def _stored(cells: Sequence[dict[str, Any]]) -> Iterator[Stored]:
    headings: list[str] = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            headings += re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                about = output["metadata"]["image/png"]
                png = base64.b64decode(output["data"]["image/png"])
                yield Stored(png, about["alt"], about["width"], headings[0], headings[-1])


def find(notebook: Path, alt: str) -> Stored:
    """Return the one figure of a notebook whose alt text has a piece in it.

    Raises
    ------
    ValueError
        If there is no such notebook, or not exactly one such figure.
    """
    figures = stored(notebook)
    found = [figure for figure in figures if alt in figure.alt]
    if len(found) != 1:
        there = " ".join(f"“{figure.alt}”" for figure in found or figures) or "none."
        raise ValueError(
            f"{len(found) or 'None'} of the figures of {notebook.stem} have “{alt}” in their alt text, "
            f"and one must. There are: {there}"
        )
    return found[0]


# ---- on a page -------------------------------------------------------------


def figure(directive: SphinxDirective, content: nodes.Node) -> nodes.figure:
    """Return a numbered figure whose caption is the directive's text."""
    result = nodes.figure("", content)
    caption = nodes.caption()
    for paragraph in directive.parse_content_to_nodes():
        caption += paragraph.children
    result += caption
    directive.add_name(result)
    return result


class NotebookFigure(SphinxDirective):
    """A figure that a notebook has stored, its caption being the directive's text."""

    required_arguments = 1
    option_spec: ClassVar = {"name": directives.unchanged, "alt": directives.unchanged_required}
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the figure; a notebook or figure that is not there is an error of this place."""
        notebook = Path(self.env.srcdir) / "notebooks" / f"{self.arguments[0]}.ipynb"
        try:
            if missing := {"name", "alt"} - set(self.options):
                raise ValueError(
                    f"A figure needs the options name and alt; missing: {', '.join(sorted(missing))}."
                )
            shown = find(notebook, self.options["alt"])
        except ValueError as error:
            raise self.error(str(error)) from error
        self.env.note_dependency(notebook)
        result = figure(self, self._image(shown))
        result["classes"].append("notebook")
        result += nodes.legend("", nodes.paragraph("", "", *self._source(shown)))
        return [result]

    def _image(self, shown: Stored) -> nodes.image:
        path = Path("_generated", "figures", f"{self.options['name']}.png")
        target = Path(self.env.srcdir, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(shown.png)
        image = nodes.image(uri=f"/{path.as_posix()}", alt=shown.alt, width=f"{shown.width}px")
        image["classes"].append("no-scaled-link")
        return image

    def _source(self, shown: Stored) -> Iterator[nodes.Node]:
        page = f"notebooks/{self.arguments[0]}"
        yield nodes.Text("From the notebook ")
        yield self._link(page, "", shown.title)
        if "$" not in shown.heading:
            yield nodes.Text(", ")
            yield self._link(page, github_slugify(shown.heading), shown.heading)
        yield nodes.Text(".")

    def _link(self, page: str, heading: str, text: str) -> addnodes.pending_xref:
        return addnodes.pending_xref(
            "",
            nodes.inline("", text),
            refdoc=self.env.docname,
            refdomain="doc",
            reftype="myst",
            reftarget=page,
            reftargetid=heading or None,
            refexplicit=True,
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("notebook-figure", NotebookFigure)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
