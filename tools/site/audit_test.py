"""The audit sees what it is there to see: each fault is made once, in a site of two pages."""

from __future__ import annotations

import pytest

from tools.site import audit

HEAD = '<html><head><link rel="stylesheet" href="site.css"></head><body>'
GOOD = (
    HEAD
    + '<h1 id="top">A</h1><a href="b.html#end">b</a><img src="a.png" alt="A curve."></body></html>'
)
BIBLIOGRAPHY = "@article{ho2020, title = {Denoising {D}iffusion}, year = {2020}}"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text(HEAD + '<p id="end">the end</p></body></html>')
    (tmp_path / "site.css").write_text("p { background: url(a.png) }")
    (tmp_path / "a.png").write_bytes(b"0" * 1000)
    return tmp_path


def found(site):
    pages = audit.read(site)
    return [
        *audit.broken_links(pages),
        *audit.bad_resources(pages, site),
        *audit.nameless_images(pages),
    ]


def test_a_good_site_has_no_fault(site):
    assert found(site) == []


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("b.html#end", "b.html#middle", "a.html links to b.html#middle, which is not there"),
        ("b.html#end", "c.html", "a.html links to c.html, which is not there"),
        ('src="a.png"', 'src="c.png"', "a.html loads c.png"),
        (
            'src="a.png"',
            'src="https://example.org/a.png"',
            "a.html loads https://example.org/a.png",
        ),
        ('src="a.png"', 'src="//example.org/a.png"', "a.html loads //example.org/a.png"),
        (' alt="A curve."', "", "a.html shows a.png without a text"),
        ("A curve.", "../a.png", "a.html shows a.png without a text"),
    ],
)
def test_a_fault_of_a_page_is_found(site, good, bad, message):
    (site / "a.html").write_text(GOOD.replace(good, bad))
    assert found(site) == [message]


def test_a_font_from_another_host_is_found(site):
    (site / "site.css").write_text("p { background: url('https://example.org/font.woff2') }")
    assert found(site) == ["site.css loads https://example.org/font.woff2"]


def test_a_page_weighs_what_it_loads(site):
    pages = audit.read(site)
    path = (site / "a.html").resolve()
    heavy = audit.weight(path, pages[path])
    assert 1000 < heavy < 1000 + 400  # the image as it is, the text compressed
    (site / "a.png").unlink()
    assert audit.weight(path, pages[path]) == heavy - 1000


@pytest.mark.parametrize(
    ("text", "bibliography", "fault"),
    [
        ("{cite:t}`ho2020`", [BIBLIOGRAPHY], None),
        ("", [BIBLIOGRAPHY], "ho2020 is in the bibliography and cited nowhere"),
        (
            "{cite:p}`ho2020, song2020`",
            [BIBLIOGRAPHY],
            "song2020 is cited and not in the bibliography",
        ),
        ("{cite:t}`ho2020`", [BIBLIOGRAPHY] * 2, "ho2020 is in the bibliography 2 times"),
    ],
)
def test_faults_of_citations_are_found(text, bibliography, fault):
    faults = audit.citation_faults([text], bibliography)
    assert fault in faults if fault else faults == []


def test_one_work_under_two_keys_is_found():
    other = BIBLIOGRAPHY.replace("ho2020", "ho2021").replace("{D}", "D")
    faults = audit.citation_faults(["{cite:t}`ho2020` {cite:t}`ho2021`"], [BIBLIOGRAPHY, other])
    assert faults == ["the title 'denoising diffusion' is in the bibliography 2 times"]


def test_chapters_that_are_heavy_or_not_registered_are_found():
    row = audit.Chapter("03", 3000, 30, 28, 2, 3, 1, 400)
    assert audit.chapter_faults([row]) == []
    heavy = audit.Chapter("03", 3000, 30, 28, 2, 3, 1, 1000)
    assert audit.chapter_faults([heavy]) == ["03 weighs 1000 kB"]
    lost = audit.Chapter("03", 3000, 31, 28, 2, 3, 1, 400)
    assert audit.chapter_faults([lost]) == ["03 has 31 labelled equations, and 30 are registered"]


def test_words_are_counted_without_formulas_and_directives():
    text = "(label)=\n# A title\n\nTwo $x + y$ words.\n\n$$\na b c\n$$ (eq-a)\n"
    text += "\n:::{live} x0-hat\n:name: fig\nMore.\n:::\n"
    assert audit.words(text) == 7
