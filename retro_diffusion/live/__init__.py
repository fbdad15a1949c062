"""Live figures: one JavaScript file that runs on a page of the survey post and in JupyterLab alike.

The sources are modules: `core` is mathematics that knows no page and agrees with this library,
`ui` is a small framework of plots and controls, `figures` holds one file per figure. They are put
together here into one script without dependencies, which also works from ``file://``.

    from retro_diffusion import live
    live.figure("sampler-lab", nfe=20)

JupyterLab needs `anywidget`; everything else here is text.
"""

from __future__ import annotations

import functools
import html as markup
import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# What a file needs stands before it.
CORE = ("random", "schedules", "mixture", "laws", "samplers", "distance", "digits")
UI = ("dom", "theme", "plot", "controls", "motion", "view", "mount")


def names() -> list[str]:
    """Names of the live figures, as `figure` and `html` take them."""
    found = re.findall(r'^figures\["([\w-]+)"\] = ', _program(), flags=re.MULTILINE)
    return sorted(found)


def script() -> str:
    """Return the classic script: it makes ``globalThis.Retro``, and a page's figures live.

    Without a page (in a bare JavaScript engine) ``Retro`` still holds the mathematics.
    """
    return (
        f'"use strict";\nglobalThis.Retro = (() => {{\n{_program()}\n'
        'if (typeof document !== "undefined") {\n'
        '  if (document.readyState === "loading") '
        'document.addEventListener("DOMContentLoaded", mountAll);\n'
        "  else mountAll();\n}\n"
        f"return {{ {', '.join(_exported())} }};\n}})();\n"
    )


def module() -> str:
    """Return the ES module that anywidget loads; its default export renders a figure."""
    return f"{_program()}\nexport default {{ render }};\n"


def html(name: str, **options: Any) -> str:
    """Return the element that `script` makes live.

    Parameters
    ----------
    name
        One of `names`.
    options
        Where the figure's controls stand at first, by the names of the controls.

    Returns
    -------
    str
        A ``<div>`` that says, where it stays asleep, what would wake it.

    Raises
    ------
    ValueError
        If there is no such figure.
    """
    _check(name)
    values = markup.escape(json.dumps(options), quote=True)
    return (
        f'<div class="retro-live" data-live="{name}" data-options="{values}">'
        "<p>A live figure: it needs JavaScript on a page, and in a notebook its cell must be run.</p>"
        "</div>"
    )


def figure(name: str, **options: Any) -> Any:
    """Return a live figure as a widget; the last expression of a cell shows it.

    A saved notebook keeps `html`'s element beside the widget, so that the same cell is live on a page
    of the survey post.

    Parameters
    ----------
    name, options
        As for `html`.

    Returns
    -------
    anywidget.AnyWidget
        With the traits ``name`` and ``options``.

    Raises
    ------
    ValueError
        If there is no such figure.
    """
    _check(name)
    return _widget_class()(name=name, options=options)


@functools.cache
def _widget_class() -> type:
    import anywidget  # slow to import, and needed by notebooks alone
    import traitlets

    class LiveFigure(anywidget.AnyWidget):
        """A figure of `retro_diffusion.live` in a notebook."""

        _esm = module()
        name = traitlets.Unicode().tag(sync=True)
        options = traitlets.Dict().tag(sync=True)

        def __repr__(self) -> str:
            return f"live figure {self.name}"

        def _repr_mimebundle_(self, **kwargs: Any) -> Any:
            shown = super()._repr_mimebundle_(**kwargs)
            data, metadata = shown if isinstance(shown, tuple) else (shown, {})
            return {**(data or {}), "text/html": html(self.name, **self.options)}, metadata

    return LiveFigure


def _check(name: str) -> None:
    if name not in names():
        raise ValueError(f"there is no live figure {name!r}: there are {', '.join(names())}")


@functools.cache
def _program() -> str:
    """All sources in one text; a file's exports are constants that the later files see."""
    data = (HERE / "digits.json").read_text(encoding="utf-8").strip()
    style = json.dumps((HERE / "ui" / "live.css").read_text(encoding="utf-8"))
    parts = [f"const digitsData = {data};", f"const stylesheet = {style};"]
    return "\n".join(parts + [_enclosed(path) for path in _files()])


def _files() -> list[Path]:
    core = [HERE / "core" / f"{stem}.js" for stem in CORE]
    ui = [HERE / "ui" / f"{stem}.js" for stem in UI]
    return [*core, *ui, *sorted((HERE / "figures").glob("*.js"))]


def _enclosed(path: Path) -> str:
    """A module's text as one declaration: what it keeps to itself stays in a scope of its own."""
    text = path.read_text(encoding="utf-8")
    exports = ", ".join(_exports(text))
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return f"const {{ {exports} }} = (() => {{\n{text}return {{ {exports} }};\n}})();"


def _exports(text: str) -> list[str]:
    pattern = r"^export (?:function\*?|class|const) (\w+)"
    return re.findall(pattern, text, flags=re.MULTILINE)


def _exported() -> list[str]:
    return [name for path in _files() for name in _exports(path.read_text(encoding="utf-8"))]
