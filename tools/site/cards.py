"""Sphinx extension: a card at the links to an equation, a reference or a name of the library.

`sphinx_tippy` collects what a page offers and needs when the page is written, and writes the cards at the
end. Pages are written by several processes, so what each of them has collected goes through files here; and
a card holds what is to be read, without links of its own, under a name that is the same in every build.
The scripts (Popper and Tippy, vendored in `tippy`, MIT licence) come along where they are needed.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import sphinx_tippy
from sphinx.application import Sphinx

SCRIPTS = ("tippy/popper.min.js", "tippy/tippy-bundle.umd.min.js", "cards.js")

# What is shown: a displayed formula, a reference, a signature with the first lines about it.
_SHOWN = re.compile(r'<div class="(?:math|citation)"|<dt class="sig')
_HERE = re.compile(r'<a (?![^>]*class="headerlink")[^>]*href="#([^"]+)"')
_MARK = re.compile(r'<a [^>]*class="(?:headerlink|verified|waived)"[^>]*>.*?</a>')
_SOURCE = re.compile(r'<a [^>]*><span class="viewcode-link">.*?</span></a>', re.DOTALL)
_LINK = re.compile(r"</?a\b[^>]*>")
_PLACE = re.compile(r' (?:id|tabindex|role)="[^"]*"')
_TEX = re.compile(r"<annotation\b.*?</annotation>", re.DOTALL)


def card(html: str) -> str:
    """Return a piece of a page as a card shows it: once more, so without identities, marks and links.

    Parameters
    ----------
    html
        An equation, a reference, or a signature with its text.

    Returns
    -------
    str
        What is to be read of it.
    """
    for what in (_MARK, _SOURCE, _LINK, _PLACE, _TEX):
        html = what.sub("", html)
    return html


def _keep(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Store what was collected of a page, and leave the scripts off where nothing leads to a card."""
    if not doctree:
        return
    found = sphinx_tippy.get_tippy_data(app)["pages"][page]
    offered = {k: card(html) for k, html in found["id_to_html"].items() if _SHOWN.match(html)}
    here = {(None, target) for target in _HERE.findall(context["body"]) if target in offered}
    elsewhere = {(other, target) for other, target in found["refs_in_page"] if other and target}
    wanted = sorted(here) + sorted(elsewhere)
    if not wanted:
        scripts = context["script_files"]
        scripts[:] = [s for s in scripts if not _is_ours(str(s.filename))]
    path = _folder(app) / f"{page}.pickle"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({**found, "id_to_html": offered, "refs_in_page": wanted}))


def _is_ours(script: str) -> bool:
    name = script.removeprefix("_static/")
    return name in SCRIPTS or name.startswith("tippy/")


def _folder(app: Sphinx) -> Path:
    return Path(app.doctreedir) / "cards"


def _gather(app: Sphinx, exception: Exception | None) -> None:
    """Put together what all processes have stored."""
    pages = sphinx_tippy.get_tippy_data(app)["pages"]
    for path in sorted(_folder(app).rglob("*.pickle")):
        page = path.relative_to(_folder(app)).with_suffix("").as_posix()
        pages[page] = pickle.loads(path.read_bytes())


def setup(app: Sphinx) -> dict[str, Any]:
    """Set `sphinx_tippy` up, and stand between its two halves."""
    app.setup_extension("sphinx_tippy")
    sphinx_tippy.uuid4 = lambda: "cards"  # a file's name must not change from build to build
    app.connect("html-page-context", _keep, priority=451)
    app.connect("build-finished", _gather, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
