"""Audit of the built site: what each chapter holds and weighs, and what is wrong.

    bazel run //docs:audit

The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from pybtex.database import Entry, parse_string

from tools.site import registry

LIMIT = 1_000_000
"""Bytes that a chapter may weigh with all that it loads."""

ELSEWHERE = re.compile(r"(https?:|mailto:|data:|//)")
TEXT = {".css", ".html", ".js", ".svg"}  # what a server compresses


# ---- the built pages -------------------------------------------------------


class Page(HTMLParser):
    """What a page has that others may link to, and what it links to, loads and shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.images: list[tuple[str, str | None]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag has."""
        found = dict(attrs)
        self.ids |= {name for key in ("id", "name") if (name := found.get(key))}
        address = found.get("href" if tag in ("a", "link") else "src") or ""
        if tag == "a" and address:
            self.links.append(address)
        if tag in ("script", "img", "iframe", "source") and address:
            self.resources.append(address)
        if tag == "link" and "stylesheet" in (found.get("rel") or ""):
            self.resources.append(address)
        if tag == "img":
            self.images.append((address, found.get("alt")))


Pages = Mapping[Path, Page]


def read(site: Path) -> Pages:
    """Return the pages of a built site by their paths."""
    return {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}


def place(page: Path, address: str) -> tuple[Path, str]:
    """Return the file that an address on a page means, and the place in it."""
    path, _, fragment = address.partition("#")
    path = unquote(path.partition("?")[0])
    return (page.parent / path).resolve() if path else page, unquote(fragment)


def broken_links(pages: Pages) -> list[str]:
    """Return the links within the site that lead nowhere."""
    return [
        f"{path.name} links to {address}, which is not there"
        for path, page in pages.items()
        for address in page.links
        if not ELSEWHERE.match(address) and _lost(pages, *place(path, address))
    ]


def _lost(pages: Pages, target: Path, fragment: str) -> bool:
    inside = target in pages and fragment
    return not target.exists() or bool(inside and fragment not in pages[target].ids)


def bad_resources(pages: Pages, site: Path) -> list[str]:
    """Return what pages and style sheets load from another host, or in vain."""
    loaded = [(path, address) for path, page in pages.items() for address in page.resources]
    loaded += [(path, address) for path in site.rglob("*.css") for address in _named(path)]
    return [
        f"{path.name} loads {address}"
        for path, address in loaded
        if not address.startswith("data:")
        and (ELSEWHERE.match(address) or not place(path.resolve(), address)[0].exists())
    ]


def _named(style: Path) -> list[str]:
    """Return what a style sheet loads."""
    return re.findall(r"""url\(\s*["']?([^"')]+)""", style.read_text(encoding="utf-8"))


def nameless_images(pages: Pages) -> list[str]:
    """Return the images without a text, or with a file's name for one."""
    return [
        f"{path.name} shows {address} without a text"
        for path, page in pages.items()
        for address, alt in page.images
        if alt is None or re.search(r"\.(png|svg|jpe?g)$", alt)
    ]


def weight(path: Path, page: Page) -> int:
    """Return the bytes of a page and of all that it may load, text compressed.

    All fonts count that its style sheets name; a browser loads those that it needs.
    """
    files = {path} | {place(path, address)[0] for address in page.resources}
    for style in [file for file in files if file.suffix == ".css" and file.exists()]:
        files |= {place(style, address)[0] for address in _named(style) if address[:5] != "data:"}
    return sum(_size(file) for file in files if file.exists())


@functools.cache
def _size(file: Path) -> int:
    content = file.read_bytes()
    return len(gzip.compress(content) if file.suffix in TEXT else content)


# ---- the sources -----------------------------------------------------------


def citation_faults(texts: Sequence[str], bibliography: Sequence[str]) -> list[str]:
    """Return what is wrong between chapters and bibliography.

    Parameters
    ----------
    texts
        The chapters.
    bibliography
        The contents of the BibTeX files.
    """
    cited = {
        key.strip()
        for text in texts
        for keys in re.findall(r"{cite:\w+}`([^`]+)`", text)
        for key in keys.split(",")
    }
    entries = [
        entry for text in bibliography for entry in parse_string(text, "bibtex").entries.values()
    ]
    keys = Counter(entry.key for entry in entries)
    titles = Counter(_plain_title(entry) for entry in entries)
    return [
        *(f"{key} is in the bibliography and cited nowhere" for key in sorted(set(keys) - cited)),
        *(f"{key} is cited and not in the bibliography" for key in sorted(cited - set(keys))),
        *(f"{key} is in the bibliography {n} times" for key, n in keys.items() if n > 1),
        *(
            f"the title {title!r} is in the bibliography {n} times"
            for title, n in titles.items()
            if n > 1
        ),
    ]


def _plain_title(entry: Entry) -> str:
    return (
        re.sub(r"\W+", " ", entry.fields["title"].replace("{", "").replace("}", "")).lower().strip()
    )


def words(text: str) -> int:
    """Return how many words a chapter has; a formula in a line is one, a displayed one none."""
    text = re.sub(
        r"^\$\$.*?^\$\$.*?$|^:\w+:.*?$|^[:`]{3}.*?$|^\(.*\)=$",
        "",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    return len(re.sub(r"\$[^$]+\$", "x", text).split())


# ---- together --------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """A row of the audit's table."""

    chapter: str
    words: int
    equations: int
    verified: int
    waived: int
    figures: int
    live: int
    kilobytes: int


def chapters(pages: Pages, site: Path, post: Path) -> Iterator[Chapter]:
    """Yield what each chapter holds.

    Parameters
    ----------
    pages, site
        The built site.
    post
        The folder of the chapters' sources.
    """
    equations = registry.read(post)
    for source in sorted(post.glob("*.md")):
        path = (site / "post" / f"{source.stem}.html").resolve()
        text = source.read_text(encoding="utf-8")
        here = [equation for equation in equations if equation.chapter == source.stem]
        yield Chapter(
            source.stem,
            words(text),
            len(re.findall(r"^\$\$ \(eq-", text, re.MULTILINE)),
            sum(bool(equation.tests) for equation in here),
            sum(bool(equation.waiver) for equation in here),
            text.count("{notebook-figure}"),
            text.count("{live}"),
            round(weight(path, pages[path]) / 1000),
        )


def faults(pages: Pages, site: Path, post: Path) -> list[str]:
    """Return everything that is wrong with the site, a sentence each."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(post.glob("*.md"))]
    bibliography = [path.read_text(encoding="utf-8") for path in sorted(post.glob("*.bib"))]
    return [
        *broken_links(pages),
        *bad_resources(pages, site),
        *nameless_images(pages),
        *citation_faults(texts, bibliography),
        *chapter_faults(list(chapters(pages, site, post))),
    ]


def chapter_faults(rows: Sequence[Chapter]) -> list[str]:
    """Return which chapters are too heavy, or have equations that their registry does not know."""
    heavy = [
        f"{row.chapter} weighs {row.kilobytes} kB" for row in rows if 1000 * row.kilobytes >= LIMIT
    ]
    return heavy + [
        f"{row.chapter} has {row.equations} labelled equations, and {registered} are registered"
        for row in rows
        if (registered := row.verified + row.waived) != row.equations
    ]


def table(rows: Sequence[Chapter]) -> str:
    """Return the chapters as a table for a terminal, with a line of sums."""
    names = [field.name for field in fields(Chapter)]
    cells = [[str(value) for value in astuple(row)] for row in rows]
    sums = [sum(column) for column in zip(*(astuple(row)[1:-1] for row in rows), strict=True)]
    cells.append(["together", *map(str, sums), ""])
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in [names, *cells]
    )


# ---- command line ----------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Print the audit; return the exit code."""
    parser = argparse.ArgumentParser(prog="bazel run //docs:audit --", description=__doc__)
    parser.add_argument("site", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("post", type=Path, nargs="?", default="docs/post", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    pages = read(options.site)
    wrong = faults(pages, options.site, options.post)
    print(table(list(chapters(pages, options.site, options.post))))
    print("", *wrong, "", f"{len(pages)} pages, {len(wrong) or 'no'} faults.", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
