"""Statistics, tables, interleaving and tiny runs with a fake contender; no test looks at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retro_diffusion import data, schedules
from retro_diffusion.data import Images
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.networks import UNet
from retro_diffusion.parameterizations import predict_eps
from tools.benchmark import equal, figure, keeping, measuring, quality, report, speed
from tools.benchmark.contenders import Shape, flops
from tools.benchmark.measuring import Summary
from tools.benchmark.report import Table
from tools.benchmark.speed import Settings

QUICK = Settings(repetitions=2, seconds=0.0, quick=True)


class Fake:
    """A contender that counts what it is asked for; its samples are good from some step on."""

    def __init__(self, shape: Shape, good_after: int = 10**9, cost: float = 1.0) -> None:
        self.shape, self.good_after, self.cost = shape, good_after, cost
        self.network: nn.Module = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        self.dtype = torch.float32
        self.steps = 0
        self.images = torch.zeros(1, *shape)

    def call(self, x: Tensor, u: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return output

    def trainer(self, images: Images, batch_size: int) -> Callable[[], object]:
        self.images = images.x

        def step() -> None:
            self.call(torch.zeros(batch_size, *self.shape), torch.zeros(batch_size))
            self.steps += 1
            Fake.now += self.cost

        return step

    def sample(self, n: int, n_steps: int) -> Tensor:
        if self.steps >= self.good_after:
            return self.images[torch.randperm(len(self.images))[:n]]
        return torch.zeros(n, *self.shape)

    now = 0.0


def test_summary() -> None:
    assert measuring.summarise([3.0, 1.0, 2.0, 5.0, 4.0]) == Summary(3.0, 2.0, 4.0, 5)
    assert measuring.summarise([7.0]) == Summary(7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="no round was completed"):
        measuring.summarise([])


def test_ratios_are_those_of_neighbours() -> None:
    """The machine was four times slower in the second round: the ratio does not see it."""
    fast, slow = [1.0, 4.0, 1.0], [2.0, 8.0, 2.0]
    assert measuring.ratios(fast, slow) == Summary(2.0, 2.0, 2.0, 3)
    assert measuring.ratios(fast, slow, amount=1.0, of=4.0).median == 0.5
    assert measuring.rates(fast, 10).median == 10
    with pytest.raises(ValueError):
        measuring.ratios(fast, slow[:2])


def test_rounds_rotate_and_leave_out_the_warm_up() -> None:
    calls: list[str] = []
    ticks = iter(range(1000))
    works = {name: lambda name=name: calls.append(name) for name in "xyz"}
    rounds = list(measuring.interleaved(works, 3, 0.0, clock=lambda: float(next(ticks))))
    assert calls == [*"xxyyzz", *"xyz", *"yzx", *"zxy"]
    assert [len(samples["x"]) for samples in rounds] == [1, 2, 3]
    assert all(spent > 0 for spent in rounds[-1]["z"])
    with pytest.raises(ValueError, match="got 0 works and 3 rounds"):
        next(measuring.interleaved({}, 3, 0.0))


def test_an_interrupted_round_is_left_out() -> None:
    calls: list[str] = []

    def stops() -> None:
        calls.append("stops")
        if len(calls) > 3:
            raise KeyboardInterrupt

    rounds = measuring.interleaved({"works": int, "stops": stops}, 5, 0.0)
    assert {name: len(spent) for name, spent in next(rounds).items()} == {"works": 1, "stops": 1}
    with pytest.raises(KeyboardInterrupt):
        next(rounds)


def test_time_is_that_of_one_call() -> None:
    now = [0.0]

    def work() -> None:
        now[0] += 0.25

    assert measuring.timed(work, 1.0, clock=lambda: now[0]) == 0.25
    assert now[0] == 1.0


TABLE = Table(
    "Speed",
    ("who", "speed", "size"),
    (("a", Summary(2, 1.5, 1234.5, 3), 1000), ("b", None, 2.0)),
    "So.",
)


def test_table_as_text_and_markdown() -> None:
    lines = report.text(TABLE).splitlines()
    assert lines[2].split() == ["who", "speed", "size"]
    assert lines[4].split() == ["a", "2", "[1.5,", "1,234]", "1,000"]
    assert len({len(line) for line in lines[1:-1]}) == 1, "columns are aligned"
    assert "| a | 2 [1.5, 1,234] | 1,000 |" in report.markdown(TABLE).splitlines()


def test_table_survives_json() -> None:
    written = json.loads(json.dumps(report.as_json(TABLE)))
    assert report.from_json("Speed", written) == TABLE


def test_ratio_table() -> None:
    samples = {"ours": [1.0, 1.0], "peer": [2.0, 2.0]}
    table = report.ratio_table("T", samples, ["ours"], ["peer"], {"ours": 1.0, "peer": 3.0})
    assert table.rows[0][1] == Summary(2.0, 2.0, 2.0, 2)
    by_work = table.rows[1][1]
    assert isinstance(by_work, Summary)
    assert by_work.median == pytest.approx(2 / 3)


def test_overview_compares_like_with_like() -> None:
    columns = ("times as fast", "peer", f"peer{report.BF16}", "other")
    speeds = {"ours over": (2.0, 0.1, 3.0), f"ours{report.BF16} over": (4.0, 5.0, 6.0)}
    rows = tuple((k, *(Summary(x, x, x, 1) for x in v)) for k, v in speeds.items())
    table = Table("Training, ratios: 8 x 8", columns, rows)
    kept = keeping.with_machine({"a": {table.title: table, "Training: 8 x 8": TABLE}}, {})
    assert report.overview(kept).splitlines()[2:] == ["| Training: 8 x 8 | 2 / 5 | 3 / – |"]


def test_interrupt_keeps_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def stops(settings: Settings) -> Iterator[Table]:
        yield TABLE
        raise KeyboardInterrupt

    def part(settings: Settings) -> Iterator[Table]:
        yield dataclasses.replace(TABLE, rows=())
        yield TABLE

    available = {"a": part, "b": stops, "c": part}
    tables, done = keeping.collect("abc", available, QUICK)
    assert not done
    assert tables == {"a": {"Speed": TABLE}, "b": {"Speed": TABLE}}
    assert capsys.readouterr().out.count("1,000") == 2
    about = {"date": "2026-01-01", "machine": {"cores": 1}}
    keeping.keep(tmp_path, keeping.with_machine({"c": {"Other": TABLE}}, about))
    about["machine"] = {"cores": 2}
    keeping.keep(tmp_path, keeping.with_machine(tables, about))
    kept = json.loads((tmp_path / keeping.JSON).read_text())
    assert {letter: part["machine"]["cores"] for letter, part in kept.items()} == {
        "a": 2,
        "b": 2,
        "c": 1,
    }
    page = report.page(kept)
    assert page.index("2026-01-01: cores 2") < page.index("## Sampling") < page.index("cores 1")
    assert page.count("| a | 2 [1.5, 1,234] | 1,000 |") == 3


def test_flops_of_a_convolution() -> None:
    forward, both = flops(Fake((1, 8, 8)))
    assert forward == 2 * 9 * 64
    assert both == 2 * forward, "the gradient of the weights; the input needs none"


def test_operators_are_grouped() -> None:
    times = {
        "aten::mkldnn_convolution": 6.0,
        "aten::addmm": 2.0,
        "aten::_foreach_norm": 1.0,
        "aten::copy_": 1.0,
    }
    shares = speed.grouped(times)
    assert shares["convolution"] == 0.6
    assert shares["matrix product, attention"] == 0.2
    assert shares["optimiser, average, clipping"] == 0.1
    assert shares["other"] == pytest.approx(0.1)
    assert sum(speed.grouped({}).values()) == 0


def families(shape: Shape) -> dict[str, speed.Family]:
    return {"one layer": {"ours": Fake(shape), "peer": Fake(shape)}}


@pytest.mark.parametrize("part", [speed.training, speed.sampling])
def test_part_end_to_end(part: Callable[..., object]) -> None:
    tables = {table.title: table for table in part(QUICK, families)}
    measured = next(table for title, table in tables.items() if "ratios" not in title)
    assert [row[0] for row in measured.rows][:2] == ["ours", "peer"]
    summary = measured.rows[0][measured.columns.index("images/s")]
    assert isinstance(summary, Summary)
    assert summary.n == QUICK.repetitions
    assert any("ratios" in title for title in tables)
    assert figure.picture(list(tables.values())) is not None
    assert figure.picture([]) is None


def test_time_to_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step costs a second: whoever draws well is found out at the next look."""
    monkeypatch.setattr(quality.time, "process_time", lambda: Fake.now)
    shape = (1, 8, 8)
    recipes = {
        "ours": quality.Recipe(Fake(shape, good_after=6), 4),
        "late": quality.Recipe(Fake(shape, good_after=12), 4),
        "never": quality.Recipe(Fake(shape), 4),
    }
    judges = {"digits": lambda: quality.Judge(data.digits(), (997, 400, 400))}
    settings = Settings(limit=20.0, quick=True)
    tables = {t.title: t for t in quality.quality(settings, lambda name, seed: recipes, judges)}
    rows = {row[0]: row for row in tables["Time to quality: digits"].rows}
    assert rows["ours"][3] == Summary(7.0, 7.0, 7.0, 1)  # looks: 5, 6.25 rounded up
    assert rows["late"][3] == Summary(12.0, 12.0, 12.0, 1)
    assert rows["never"][3] == "not reached in 20 s"
    assert rows["ours"][6] is None
    late, never = rows["late"][6], rows["never"][6]
    assert isinstance(late, Summary)
    assert isinstance(never, Summary)
    assert 1 < late.median < never.median == pytest.approx(20 / 7)
    assert len(tables["Quality over time: digits"].rows) > 6


def test_samples_that_are_no_numbers_are_infinitely_bad() -> None:
    judge = quality.Judge.__new__(quality.Judge)
    assert judge.score(torch.full((2, 1, 8, 8), torch.nan)) == float("inf")


def test_equal_quality_compares_with_the_first_and_keeps_what_is_worse() -> None:
    summary = {
        name: Summary(x, x, x, 1)
        for name, x in (("all, 1000", 1.0), ("few, 10", 1.04), ("few, 5", 1.06))
    }
    seconds = {
        name: Summary(x, x, x, 1)
        for name, x in (("all, 1000", 8.0), ("few, 10", 0.1), ("few, 5", 0.05))
    }
    table = equal.table(9, {"all, 1000": 1000, "few, 10": 10, "few, 5": 5}, summary, seconds)
    rows = table.rows
    assert [row[-1] for row in rows] == ["yes", "yes", "no"]
    assert [row[-2] for row in rows] == [1.0, 80.0, 160.0]
    drawn = figure.picture([table])
    assert drawn is not None
    assert [list(line.get_xdata()) for line in drawn.axes[0].lines] == [[10, 5]]


def test_all_walks_of_equal_quality_begin_in_the_same_noise_and_end_as_images() -> None:
    denoiser = Denoiser(UNet(width=16, n_classes=10), schedules.cosine(), predict_eps)
    everyone = equal.walks(denoiser, 2, 50)
    assert next(iter(everyone)) == "ancestral, 50"
    for name in ("ancestral, 50", "DDIM, 5", "DPM-Solver++(2M), 5"):
        steps, walk = everyone[name]
        assert steps == int(name.split(", ")[1])
        assert walk(0).shape == (2, 1, 8, 8)
        torch.testing.assert_close(walk(0), walk(0))
        assert not torch.equal(walk(0), walk(1))
