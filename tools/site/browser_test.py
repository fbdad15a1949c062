"""The built site in headless Chromium, every page from its file.

Every page is looked at wide and light, and narrow and dark; chapters and the front page in the other two
combinations as well. Without Chromium all tests are skipped, unless RETRO_REQUIRE_BROWSER is set: then
they fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from retro_diffusion import schedules
from retro_diffusion.evaluation import energy_distance
from tools.site import browser
from tools.site.browser import visit

SITE = Path("docs/site")
PAGES = sorted(SITE.rglob("*.html"))
KINDS = ("index", "post/03_ddpm", "notebooks/00_start_here", "library/samplers")
LIVE = [path for path in PAGES if "data-live=" in path.read_text(encoding="utf-8")]


def name(path: Path) -> str:
    return path.relative_to(SITE).with_suffix("").as_posix()


@pytest.fixture(scope="session")
def chromium():
    program = browser.find()
    if program is None and os.environ.get("RETRO_REQUIRE_BROWSER"):
        pytest.fail(browser.MISSING)
    if program is None:
        pytest.skip(browser.MISSING)
    with browser.launched(program) as started:
        yield started


# ---- every page ------------------------------------------------------------


TWO = (("wide", "light"), ("narrow", "dark"))
FOUR = (*TWO, ("wide", "dark"), ("narrow", "light"))


def problems(visited, look, modes=TWO):
    """Return what a look at the page finds in some modes, each with its mode."""
    found = []
    for mode in modes:
        visited.become(*mode)
        found += [f"{' '.join(mode)}: {problem}" for problem in look()]
    return found


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_is_quiet_fits_and_is_accessible(chromium, path):
    chapter = path.parent.name == "post" or name(path) == "index"
    with visit(chromium, path) as visited:
        visited.unfold()
        found = problems(visited, visited.layout)
        visited.thin()
        found += problems(visited, visited.structure)
        visited.prune()
        found += problems(visited, visited.colours, FOUR if chapter else TWO)
        found += visited.problems
    assert not found, "\n".join(found)


# ---- keyboard, motion, search ----------------------------------------------

FOCUS = """() => {
  const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  const there = box.width > 0 && box.right > 0 && box.bottom > 0 && Number(style.opacity) > 0;
  return { words: e.outerHTML.slice(0, 100), seen: outlined && there };
}"""

MOTION = """() => [...document.querySelectorAll("*")].filter((e) => {
  const style = getComputedStyle(e);
  return style.scrollBehavior === "smooth" || parseFloat(style.transitionDuration) > 0;
}).map((e) => e.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("page", KINDS)
def test_the_first_key_leads_to_the_text(chromium, page):
    with visit(chromium, SITE / f"{page}.html") as visited:
        visited.page.keyboard.press("Tab")
        assert "skip-to-content" in visited.page.evaluate(FOCUS)["words"]
        visited.page.keyboard.press("Enter")
        visited.page.keyboard.press("Tab")
        inside = "document.activeElement.closest('[role=main], main, article') !== null"
        assert visited.page.evaluate(inside), visited.page.evaluate(FOCUS)["words"]


@pytest.mark.parametrize("page", KINDS)
def test_the_focus_is_seen(chromium, page):
    with visit(chromium, SITE / f"{page}.html") as visited:
        for _ in range(60):
            visited.page.keyboard.press("Tab")
            focus = visited.page.evaluate(FOCUS)
            assert focus["seen"], focus["words"]


@pytest.mark.parametrize("page", KINDS)
def test_nothing_moves_for_a_reader_who_does_not_want_it(chromium, page):
    with visit(chromium, SITE / f"{page}.html") as visited:
        assert visited.page.evaluate("document.getAnimations().length") == 0
        assert visited.page.evaluate(MOTION) == []


def test_the_search_finds_from_a_file(chromium):
    with visit(chromium, SITE / "search.html", "q=schedule") as visited:
        visited.page.wait_for_selector("#search-results li a")
        visited.page.wait_for_timeout(500)  # excerpts, if any, are fetched after the list
        assert visited.problems == []


# ---- live figures ----------------------------------------------------------

BLANK = """(figure) => [...figure.querySelectorAll("canvas")].filter((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.every((value) => value === 0);
}).map((canvas) => canvas.ariaLabel.slice(0, 60))"""

SHOWN = """(figure) => JSON.stringify([figure.retro.state(), figure.retro.numbers(),
  [...figure.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL())])"""


@pytest.mark.parametrize("path", LIVE, ids=name)
def test_live_figures_draw_answer_keys_and_rest(chromium, path):
    with visit(chromium, path) as visited:
        for figure in visited.page.query_selector_all("[data-live]"):
            which = figure.get_attribute("data-live")
            assert figure.query_selector("canvas, svg *"), f"{which} has drawn nothing"
            assert figure.evaluate(BLANK) == [], which
            shown = figure.evaluate(SHOWN)
            visited.page.wait_for_timeout(300)
            assert figure.evaluate(SHOWN) == shown, f"{which} moves by itself"
            control = figure.query_selector("input, select")
            value = f"(figure) => figure.retro.state()['{control.get_attribute('name')}']"
            before = figure.evaluate(value)
            control.focus()
            visited.page.keyboard.press("ArrowRight")
            assert figure.evaluate(value) != before, f"{which} does not answer to a key"
        assert visited.problems == []


@pytest.mark.parametrize("path", LIVE, ids=name)
def test_the_question_of_a_figure_has_one_right_answer_which_is_measured(chromium, path):
    with visit(chromium, path) as visited:
        for figure in visited.page.query_selector_all("[data-live]"):
            verdicts = []
            for answer in figure.query_selector_all(".rl-predict button"):
                answer.click()
                verdicts.append(figure.query_selector(".rl-verdict").inner_text())
            which = figure.get_attribute("data-live")
            assert all("Measured" in verdict for verdict in verdicts), which
            assert sum(verdict.startswith("You said so.") for verdict in verdicts) == 1, which
        assert visited.problems == []


def shown(figure, number):
    """Return a number as it stands under the figure."""
    return float(figure.query_selector(f"[data-number={number}] b").inner_text().replace("−", "-"))


PATHS = {
    "linear": schedules.LinearVP(),
    "cosine": schedules.CosineVP(),
    "flow": schedules.RectifiedFlow(),
    "exploding": schedules.GeometricVE(0.01, 10.0),
}


@pytest.mark.parametrize("path", PATHS)
def test_the_numbers_under_the_forward_process_are_the_library_s(chromium, path):
    schedule = PATHS[path]
    t = torch.tensor(0.4 * schedule.t_max, dtype=torch.float64)
    with visit(chromium, SITE / "post" / "03_ddpm.html") as visited:
        figure = visited.page.query_selector('[data-live="forward-process"]')
        figure.evaluate("(figure, path) => figure.retro.set({ path, u: 0.4 })", path)
        assert shown(figure, "alpha") == pytest.approx(float(schedule.alpha(t)), abs=6e-4)
        assert shown(figure, "sigma") == pytest.approx(float(schedule.sigma(t)), abs=6e-4)
        assert shown(figure, "logsnr") == pytest.approx(float(schedule.logsnr(t)), abs=6e-3)


LABORATORY = """(figure) => {
  const { law, guidance, scale, nfe, grid, eta, a, b } = figure.retro.state();
  const last = (name) => Retro.trajectory(name, law, { nfe, grid, eta }, { guidance, scale }).at(-1).x;
  const { data, floor } = Retro.reference(law, guidance);
  return { a: [...last(a)], b: [...last(b)], data: [...data], floor };
}"""


def test_the_distances_of_the_laboratory_are_the_library_s(chromium):
    with visit(chromium, SITE / "post" / "05_ddim.html") as visited:
        figure = visited.page.query_selector('[data-live="sampler-lab"]')
        found = figure.evaluate(LABORATORY)
        points = {
            k: torch.tensor(found[k]).unflatten(0, (-1, 2)).double() for k in ("a", "b", "data")
        }
        for side in ("a", "b"):
            floors = energy_distance(points[side], points["data"]) / found["floor"]
            assert shown(figure, f"distance-{side}") == pytest.approx(floors, abs=0.06)
