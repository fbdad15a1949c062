"""Tests of `claims`: what a claim must say, what `check` refuses, the table and the ledger's files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from retro_diffusion import __version__
from retro_diffusion.claims import (
    MIME,
    Claim,
    Page,
    check,
    claim_from_row,
    claims_table,
    load,
    page_text,
    parse_page,
    summary,
)


def _claim(**changes: Any) -> Claim:
    values: dict[str, Any] = {
        "key": "fewer-steps",
        "statement": "A cosine schedule needs fewer steps.",
        "paper": "FID 3.2",
        "source": "Table 9",
        "experiment": "digits, 20 steps",
        "ours": "18 ± 1",
        "band": "below 20",
        "seeds": 3,
        "control": "linear: 31",
        "control_failed": True,
        "grade": "ROBUST",
        "passed": True,
    }
    return Claim(**(values | changes))


# ---- one claim -------------------------------------------------------------


@pytest.mark.parametrize("passed", [np.bool_(True), torch.tensor(1.0) > 0, 1])
def test_a_verdict_may_come_from_numpy_or_torch(passed: Any) -> None:
    claim = _claim(passed=passed, control_failed=passed)
    assert claim.passed is True and claim.control_failed is True
    json.dumps(dataclasses.asdict(claim))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("grade", "SURE", "EXACT, ROBUST or FRAGILE"),
        ("seeds", -1, "-1 seeds"),
        *(
            (("key", key, "lower-case words"))
            for key in ("", "Few Steps", "few_steps", "-few", "a--b")
        ),
        *(
            (field, " ", f"'fewer-steps' has an empty {field}")
            for field in ("statement", "paper", "source", "experiment", "ours", "band", "control")
        ),
    ],
)
def test_a_malformed_claim_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _claim(**{field: value})


def test_every_field_but_the_note_is_asked_for() -> None:
    values = dataclasses.asdict(_claim())
    for name in values:
        rest = {k: v for k, v in values.items() if k != name}
        if name == "note":
            assert Claim(**rest) == _claim()
        else:
            with pytest.raises(TypeError, match=name):
                Claim(**rest)


# ---- check -----------------------------------------------------------------


def test_check_raises_for_the_grades_that_must_hold() -> None:
    check([_claim(), _claim(grade="FRAGILE", passed=False)])
    for grade in ("EXACT", "ROBUST"):
        with pytest.raises(AssertionError, match=rf"1 claim failed.*\[{grade}\].*18 ± 1"):
            check(claims_table([_claim(key="good"), _claim(grade=grade, passed=False)]))


def test_check_refuses_a_control_that_did_not_fail() -> None:
    check([_claim(grade="FRAGILE", control_failed=False)])
    for grade in ("EXACT", "ROBUST"):
        with pytest.raises(AssertionError, match=r"1 claim whose control did not fail.*linear: 31"):
            check([_claim(), _claim(grade=grade, control_failed=False)])


def test_check_tells_all_that_is_wrong_at_once() -> None:
    with pytest.raises(AssertionError, match=r"2 claims failed.*\. 1 claim whose control"):
        check([_claim(passed=False), _claim(passed=False, control_failed=False)])


# ---- the table -------------------------------------------------------------


def test_the_table_shows_every_field_twice() -> None:
    missed = _claim(key="other", grade="FRAGILE", passed=False, note="another data set", seeds=1)
    table = claims_table([_claim(), missed])
    for text in (repr(table), table._repr_html_()):
        for claim in table:
            for name in ("statement", "paper", "source", "experiment", "ours", "band", "control"):
                assert getattr(claim, name) in text
            assert claim.grade in text and claim.verdict in text and claim.note in text
        assert "(3 seeds)" in text and "(1 seed)" in text
    assert "seed" not in repr(claims_table([_claim(seeds=0)]))


def test_the_table_says_when_a_control_passed() -> None:
    for failed, words in ((True, "fails, as it must"), (False, "this check proves nothing")):
        table = claims_table([_claim(grade="FRAGILE", control_failed=failed)])
        assert words in repr(table) and words in table._repr_html_()


def test_html_is_escaped() -> None:
    evil = "<script>alert('x')</script> & \"more\""
    fields = ("statement", "paper", "source", "experiment", "ours", "band", "control", "note")
    page = claims_table([_claim(**dict.fromkeys(fields, evil))])._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 8 and page.count("&amp;") == 8


def test_text_takes_the_readers_theme() -> None:
    page = claims_table([_claim()])._repr_html_()
    assert "background" not in page and ";color:" not in page and '"color:' not in page


def test_no_claims_and_repeated_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one claim"):
        claims_table([])
    with pytest.raises(ValueError, match="Two claims have the key 'fewer-steps'"):
        claims_table([_claim(), _claim(grade="EXACT")])


def test_the_cell_s_output_carries_the_rows_beside_the_table() -> None:
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    data, _ = formatter.format(claims_table([_claim(), _claim(key="other", passed=False)]))
    assert {MIME, "text/html", "text/plain"} <= set(data)
    bundle = json.loads(json.dumps(data[MIME]))
    assert bundle["library"] == __version__
    assert [claim_from_row(row) for row in bundle["claims"]] == [
        _claim(),
        _claim(key="other", passed=False),
    ]


# ---- the ledger's files ----------------------------------------------------


def _page(*claims: Claim, **changes: Any) -> Page:
    values: dict[str, Any] = {
        "notebook": "05_2020_ddpm",
        "paper": "Ho, Jain and Abbeel 2020",
        "arxiv": "2006.11239",
        "profile": "full",
        "library": "0.1.0",
        "claims": claims or (_claim(),),
    }
    return Page(**(values | changes))


def test_a_page_survives_its_file() -> None:
    for page in (
        _page(),
        _page(paper="", arxiv=""),
        _page(_claim(note="λ & <b>"), _claim(key="b")),
    ):
        text = page_text(page)
        assert parse_page(text, "x.json") == page and page_text(parse_page(text, "x.json")) == text
        assert list(json.loads(text)) == sorted(json.loads(text))
    assert _page().year == 2020 and _page(paper="").year is None


def test_a_page_lists_its_claims_in_the_notebook_s_order() -> None:
    page = parse_page(page_text(_page(_claim(key="b"), _claim(key="a"))), "x.json")
    assert [claim.key for claim in page.claims] == ["b", "a"]


Spoil = Callable[[dict[str, Any]], object]
PAGE_FAULTS: list[tuple[Spoil, str]] = [
    (lambda p: p["claims"][1].pop("band"), r"x.json, claim 2 \('b'\): it lacks the field 'band'"),
    (lambda p: p["claims"][0].pop("key"), "x.json, claim 1: it lacks the field 'key'"),
    (lambda p: p["claims"][1].update(seeds="3"), r"claim 2 \('b'\): its field 'seeds' holds '3'"),
    (lambda p: p["claims"][1].update(seeds=True), "its field 'seeds' holds True"),
    (lambda p: p["claims"][1].update(passed=1), "its field 'passed' holds 1"),
    (lambda p: p["claims"][1].update(control=None), "its field 'control' holds None"),
    (lambda p: p["claims"][1].update(control=""), r"\('b'\): The claim 'b' has an empty control"),
    (lambda p: p["claims"][1].update(grade="SURE"), r"claim 2 \('b'\): A grade is"),
    (lambda p: p["claims"][1].update(mood="good"), "it has an unknown field 'mood'"),
    (lambda p: p["claims"][1].update(key="fewer-steps"), "x.json has the key 'fewer-steps' twice"),
    (lambda p: p["claims"].append("text"), "x.json, claim 3: it is no table of fields"),
    (lambda p: p.pop("claims"), "x.json lacks its list of claims"),
    (lambda p: p.pop("profile"), "x.json lacks the field 'profile'"),
    (lambda p: p.update(arxiv=2006.11239), "x.json lacks the field 'arxiv'"),
    (lambda p: p.update(year=2019), "x.json has another year than its paper"),
]


@pytest.mark.parametrize(("spoil", "message"), PAGE_FAULTS)
def test_a_broken_page_names_file_row_and_field(spoil: Spoil, message: str) -> None:
    data = json.loads(page_text(_page(_claim(), _claim(key="b"))))
    spoil(data)
    with pytest.raises(ValueError, match=message):
        parse_page(json.dumps(data), "x.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^x.json "):
        parse_page(text, "x.json")


def test_a_folder_is_read_in_the_notebooks_order(tmp_path: Path) -> None:
    assert load(tmp_path) == ()
    for name in ("07_b", "02_a"):
        (tmp_path / f"{name}.json").write_text(page_text(_page(notebook=name)), encoding="utf-8")
    assert [page.notebook for page in load(tmp_path)] == ["02_a", "07_b"]
    (tmp_path / "07_b.json").rename(tmp_path / "08_c.json")
    with pytest.raises(ValueError, match="08_c.json holds the claims of '07_b'"):
        load(tmp_path)
    (tmp_path / "08_c.json").write_text("{")
    with pytest.raises(ValueError, match="08_c.json is not JSON"):
        load(tmp_path)


def test_the_summary_counts_by_grade_and_verdict() -> None:
    exact, missed = _claim(grade="EXACT"), _claim(key="b", grade="FRAGILE", passed=False)
    counts = summary([_page(exact, missed), _page(_claim())])
    assert counts.supported == {"EXACT": 1, "ROBUST": 1, "FRAGILE": 0}
    assert counts.not_supported == {"EXACT": 0, "ROBUST": 0, "FRAGILE": 1}
    assert str(counts) == "2 supported, 1 not at this scale"
    assert str(summary([_page(exact)])) == "1 supported" and str(summary([])) == "0 supported"
