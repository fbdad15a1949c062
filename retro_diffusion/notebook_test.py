"""Tests of `notebook`: settings and their errors, figures with alt text, intervals, claims."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import random
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from retro_diffusion import claims, notebook
from retro_diffusion.notebook import mean_interval, show, start


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("RETRO_PROFILE", "RETRO_THREADS", "RETRO_DEVICE", "RETRO_RENDER"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    plt.close("all")


# ---- start and finish ------------------------------------------------------


def test_start_prints_one_line_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    run = start(seed=3)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    for part in ("Retro Diffusion", "torch", "cpu", "seed 3", "full profile"):
        assert part in printed
    assert "+" not in printed, "the build of torch differs between machines"
    assert run.profile == "full" and run.device == torch.device("cpu") and run.threads <= 2


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_PROFILE", "fast")
    monkeypatch.setenv("RETRO_THREADS", "1")
    run = start()
    assert run.pick(fast=10, full=1000) == 10
    assert torch.get_num_threads() == run.threads == 1
    assert dataclasses.replace(run, profile="full").pick(fast=10, full=1000) == 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETRO_PROFILE", "quick"),
        ("RETRO_THREADS", "0"),
        ("RETRO_THREADS", "two"),
        ("RETRO_THREADS", "-1"),
        ("RETRO_DEVICE", "toaster"),
        ("RETRO_DEVICE", "cuda:99"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        start()


def test_the_seed_fixes_every_generator() -> None:
    def draw() -> tuple[float, float, float, float]:
        run = start(seed=5)
        own = torch.rand((), generator=run.generator(2)).item()
        return random.random(), np.random.rand(), torch.rand(()).item(), own

    assert draw() == draw()


def test_generators_of_other_seeds_and_offsets_differ() -> None:
    runs = [dataclasses.replace(start(), seed=seed) for seed in range(3)]
    drawn = {torch.rand((), generator=r.generator(k)).item() for r in runs for k in range(3)}
    assert len(drawn) == 9


def test_finish_tells_a_reader_the_time_and_the_renderer_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dataclasses.replace(start(), threads=2)
    capsys.readouterr()
    run.finish()
    assert " s on 2 threads (full profile)" in capsys.readouterr().out
    monkeypatch.setenv("RETRO_RENDER", "1")
    run.finish()
    assert capsys.readouterr().out == (
        f"Wall time: {notebook.WALL_TIME} on 2 threads (full profile).\n"
    )


# ---- figures ---------------------------------------------------------------


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    bundles: list[dict[str, Any]] = []

    def record(data: dict[str, str], metadata: dict[str, Any], raw: bool) -> None:
        bundles.append({"data": data, "metadata": metadata})

    monkeypatch.setattr(notebook, "display", record)
    return bundles


def _figure() -> Any:
    figure, axes = plt.subplots(figsize=(6, 4))
    image = np.random.default_rng(0).random((32, 32))
    axes.imshow(image, cmap="viridis")
    axes.plot(np.arange(32), 16 + 10 * np.sin(np.arange(32)), color="red")
    return figure


def test_show_displays_one_png_with_alt_text_and_closes(displayed: list[dict[str, Any]]) -> None:
    figure = _figure()
    show(figure, alt="  Noise under\n a sine.  ")
    (bundle,) = displayed
    assert bundle["data"]["text/plain"] == "Figure: Noise under a sine."
    assert bundle["metadata"]["image/png"]["alt"] == "Noise under a sine."
    image = Image.open(io.BytesIO(base64.b64decode(bundle["data"]["image/png"])))
    assert image.mode == "P" and len(image.convert("RGB").getcolors()) <= 128
    assert image.width >= 300 and not plt.fignum_exists(figure.number)


def test_the_palette_makes_it_smaller_and_keeps_the_colours(
    displayed: list[dict[str, Any]],
) -> None:
    full = io.BytesIO()
    _figure().savefig(full, format="png", dpi=100, bbox_inches="tight", facecolor="white")
    figure = _figure()
    figure.set_dpi(100)
    show(figure, alt="Noise under a sine.")
    small = base64.b64decode(displayed[0]["data"]["image/png"])
    assert len(small) < 0.7 * len(full.getvalue())
    before = np.asarray(Image.open(full).convert("RGB"), dtype=float)
    after = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"), dtype=float)
    assert before.shape == after.shape
    assert np.abs(before - after).max() < 26, "a tenth of the range"


def test_the_same_figure_gives_the_same_bytes(displayed: list[dict[str, Any]]) -> None:
    for _ in range(2):
        show(_figure(), alt="Noise under a sine.")
    assert displayed[0] == displayed[1]


def test_a_figure_without_alt_text_is_refused(displayed: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="alt text"):
        show(_figure(), alt=" \n")
    with pytest.raises(TypeError):
        show(_figure())  # type: ignore[call-arg]
    assert displayed == []


# ---- intervals -------------------------------------------------------------


def test_the_interval_agrees_with_scipy() -> None:
    values = [0.91, 0.95, 0.90, 0.97]
    interval = mean_interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval.mean - interval.half_width == pytest.approx(expected[0])
    assert interval.mean + interval.half_width == pytest.approx(expected[1])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(1.0, 2.0, (4000, 3))
    covered = [abs(i.mean - 1.0) <= i.half_width for i in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_an_interval_formats_itself() -> None:
    interval = notebook.Interval(0.98123, 0.0456)
    assert f"{interval:.2f}" == "0.98 ± 0.05"
    assert str(interval) == f"{interval}" == "0.981 ± 0.0456"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_little_for_an_interval_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="interval needs"):
        mean_interval(values)
    with pytest.raises(ValueError, match="Confidence"):
        mean_interval([1.0, 2.0], confidence=95)


# ---- claims ----------------------------------------------------------------


def test_a_notebook_has_the_ledger_at_hand() -> None:
    assert (notebook.Claim, notebook.check) == (claims.Claim, claims.check)
    assert (notebook.ClaimTable, notebook.claims_table) == (claims.ClaimTable, claims.claims_table)
