"""The site in headless Chromium: what goes wrong on a page, for eyes, keyboards and screen readers.

Chromium is the machine's own; Playwright drives it, and axe-core reads the page for accessibility.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/opt/homebrew/bin/chromium",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = (
    "There is no Chromium here, so no page was looked at. Install it with `apt-get install -y chromium` "
    "(Debian, Ubuntu) or `brew install --cask google-chrome` (macOS), or name one in RETRO_CHROMIUM; "
    "then: bazel test --nocache_test_results //tools/site:browser_test"
)
SWITCHES = (
    "--no-sandbox",  # the pages are our own, and a container's root has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

Scheme = Literal["light", "dark"]
WIDTHS = {"wide": 1280, "narrow": 390}  # pixels

LEVELS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
COLOURS = ("color-contrast", "link-in-text-block")

# What makes the page, or the column of its text, scroll sideways, and displayed equations cut off by an
# ancestor that does not scroll.
_LAYOUT = """() => {
  const name = (e) => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "")
    + [...e.classList].map((c) => "." + c).join("");
  const overflow = (e) => getComputedStyle(e).overflowX;
  const above = (e) => e?.parentElement ? [e.parentElement, ...above(e.parentElement)] : [];
  const found = [];
  const columns = above(document.querySelector("h1"));
  const wide = columns.find((e) => e.scrollWidth > e.clientWidth + 1 && overflow(e) !== "visible")
    ?? columns.find((e) => e === document.documentElement && e.scrollWidth > e.clientWidth);
  if (wide) {
    const end = wide.getBoundingClientRect().left + wide.clientWidth + 1;
    const out = [...wide.querySelectorAll("*")].find((e) => e.getBoundingClientRect().right > end
      && above(e).every((a) => columns.includes(a) || overflow(a) === "visible"));
    const by = wide.scrollWidth - wide.clientWidth;
    found.push(`${name(wide)} scrolls sideways by ${by} px at ${out ? name(out) : "its own padding"}`);
  }
  for (const formula of document.querySelectorAll(".katex-display")) {
    for (const box of [formula, ...above(formula)]) {
      const cut = box.scrollWidth > box.clientWidth + 1;
      if (cut && ["auto", "scroll"].includes(overflow(box))) break;
      if (cut && overflow(box) !== "visible") {
        found.push(`equation cut off by ${name(box)}: ${formula.textContent.slice(0, 60)}`);
        break;
      }
    }
  }
  return found;
}"""

# Whether an element looks like one before: tags, classes and styles on the way up to the page, rows of
# tables told apart by turns, and its colours.
_AGAIN = """
  const looks = new WeakMap(), seen = new Set();
  const look = (e) => {
    if (!e) return "";
    const turn = e.tagName === "TR" ? e.rowIndex % 2 : "";
    const own = ["class", "style"].map((attribute) => e.getAttribute(attribute));
    if (!looks.has(e)) looks.set(e, [look(e.parentElement), e.tagName, turn, ...own].join());
    return looks.get(e);
  };
  const again = (e) => {
    const { color, backgroundColor } = getComputedStyle(e);
    const inside = e.matches(".katex-html") ? e.innerHTML.match(/color:[^;"]+/g) : "";
    const whole = [look(e), color, backgroundColor, inside].join();
    return seen.has(whole) || !seen.add(whole);
  };
"""

# The letters of formulas (hidden from screen readers) and the tokens of code are most of a page. One of each
# look stays; of the others the room or the text does.
_THIN = f"""() => {{ {_AGAIN}
  const tokens = [...document.querySelectorAll("pre span:not([id])")].filter(again);
  const formulas = [...document.querySelectorAll(".katex-html")].filter(again)
    .filter((e) => !e.querySelector("a, [tabindex], [role]")).map((e) => [e, e.getBoundingClientRect()]);
  for (const token of tokens) token.replaceWith(...token.childNodes);
  for (const [e, {{ width, height }}] of formulas) {{
    e.replaceChildren();
    e.style.cssText = `display: inline-block; width: ${{width}}px; height: ${{height}}px`;
  }}
}}"""

# For colours alone one leaf of each look is enough.
_PRUNE = f"""() => {{ {_AGAIN}
  const leaves = [...document.body.querySelectorAll("*")].filter((e) => !e.firstElementChild);
  const visible = leaves.filter((e) => e.textContent.trim() && e.checkVisibility());
  visible.filter(again).forEach((e) => e.remove());
}}"""

_AXE = """async (options) => {
  const { violations } = await axe.run(document, { preload: false, resultTypes: ["violations"], ...options });
  const why = (node) => [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
  return violations.flatMap(({ id, nodes }) =>
    nodes.map((node) => `${id} at ${node.target.join(" ")}: ${why(node)}`));
}"""


def find() -> str | None:
    """Return the path of Chromium: RETRO_CHROMIUM, or the first that is installed.

    Raises
    ------
    FileNotFoundError
        If RETRO_CHROMIUM names no program.
    """
    if named := os.environ.get("RETRO_CHROMIUM"):
        if found := shutil.which(named):
            return found
        raise FileNotFoundError(f"RETRO_CHROMIUM={named} is no program")
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def launched(program: str) -> Iterator[Browser]:
    """Start Chromium with a profile of its own, and end it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and what it did wrong so far.

    Attributes
    ----------
    page
        Playwright's page.
    problems
        One sentence each: errors and warnings of the console, uncaught errors, files that are missing,
        requests to hosts.
    """

    page: Page
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught {error}"))
        self.page.on("request", self._requested)
        self.page.on("requestfailed", lambda r: self.problems.append(f"not loaded: {r.url}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def become(self, width: str, scheme: Scheme) -> None:
        """Give the window one of `WIDTHS` and a colour scheme, without loading the page again."""
        self.page.set_viewport_size({"width": WIDTHS[width], "height": 900})
        self.page.emulate_media(color_scheme=scheme)

    def unfold(self) -> None:
        """Open everything that a reader can open."""
        self.page.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")

    def layout(self) -> list[str]:
        """Return what is too wide for the window."""
        return list(self.page.evaluate(_LAYOUT))

    def thin(self) -> None:
        """Keep one formula and one token of code of each look; the others keep their room."""
        self.page.evaluate(_THIN)

    def prune(self) -> None:
        """Keep one piece of text of each look, to ask about colours and nothing else."""
        self.page.evaluate(_PRUNE)

    def structure(self) -> list[str]:
        """Return violations of the WCAG 2.1 rules, A and AA, but for contrast."""
        contrast = {"color-contrast": {"enabled": False}}
        return self._axe({"runOnly": LEVELS, "rules": contrast})

    def colours(self) -> list[str]:
        """Return violations of the rules about colours."""
        return self._axe({"runOnly": {"type": "rule", "values": COLOURS}})

    def _axe(self, options: dict[str, Any]) -> list[str]:
        if not self.page.evaluate("'axe' in window"):
            source = importlib.resources.files("axe_playwright_python") / "axe.min.js"
            self.page.evaluate(source.read_text(encoding="utf-8"))
        return list(self.page.evaluate(_AXE, options))


@contextmanager
def visit(browser: Browser, path: Path, query: str = "") -> Iterator[Visit]:
    """Open a page from its file, wide and light, for a reader who wants little motion.

    Parameters
    ----------
    browser
        From `launched`.
    path
        An HTML file.
    query
        What follows the question mark of its address.
    """
    context = browser.new_context(reduced_motion="reduce")
    try:
        visited = Visit(context.new_page())
        visited.become("wide", "light")
        visited.page.goto(path.resolve().as_uri() + (f"?{query}" if query else ""))
        yield visited
    finally:
        context.close()
