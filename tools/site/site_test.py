"""The built site, read without a browser: links, alt texts, other hosts, formulas, marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

SITE = Path("docs/site")
PAGES = sorted(SITE.rglob("*.html"))


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.images: list[str | None] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[k] for k in ("id", "name") if found.get(k)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.resources.append(found["src"])
        if tag == "link" and "stylesheet" in (found.get("rel") or ""):
            self.resources.append(found["href"])
        if tag == "img":
            self.images.append(found.get("alt"))


@pytest.fixture(scope="module")
def pages():
    return {path.resolve(): Page(path) for path in PAGES}


def local(page: Path, address: str) -> Iterator[tuple[Path, str]]:
    if not re.match(r"(https?:|mailto:|data:|//)", address):
        path, _, fragment = address.partition("#")
        path = unquote(path.partition("?")[0])
        yield ((page.parent / path).resolve() if path else page), unquote(fragment)


def test_there_are_pages():
    names = {path.stem for path in PAGES}
    assert {"index", "equations", "ledger", "notation", "bibliography", "03_ddpm"} <= names


def test_every_link_leads_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for address in page.links:
            for target, fragment in local(path, address):
                lost = target in pages and fragment and fragment not in pages[target].ids
                if not target.exists() or lost:
                    broken.append(f"{path.name}: {address}")
    assert not broken


def test_nothing_is_loaded_from_another_host(pages):
    for path, page in pages.items():
        for address in page.resources:
            assert not re.match(r"(https?:)?//", address), (path.name, address)
            for target, _ in local(path, address):
                assert target.exists(), (path.name, address)


def test_every_image_has_a_text(pages):
    for path, page in pages.items():
        for alt in page.images:
            assert alt is not None, path.name
            assert not re.search(r"\.(png|svg|jpe?g)$", alt), (path.name, alt)


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
