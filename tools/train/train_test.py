import json
from pathlib import Path

import pytest
import torch

from tools.train import train

QUICK = [
    "--quiet",
    "--timesteps",
    "50",
    "--sampling-steps",
    "5",
    "--n-samples",
    "20",
    "--batch-size",
    "16",
    "--width",
    "16",
]


def run(*arguments: str) -> None:
    train.main([*arguments, *QUICK])


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which the command line refuses its arguments."""
    with pytest.raises(SystemExit) as stop:
        train.main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("data", ["digits", "swiss_roll"])
@pytest.mark.parametrize("paper", list(train.PAPERS))
def test_every_paper_trains_on_images_and_on_points(paper: str, data: str, tmp_path: Path) -> None:
    run(
        "--paper", paper, "--data", data, "--steps", "4", "--log-every", "2", "--out", str(tmp_path)
    )
    losses = [line for line in lines(tmp_path) if "loss" in line]
    scores = [line for line in lines(tmp_path) if "energy_distance" in line]
    assert [line["step"] for line in losses] == [2, 4]
    assert [line["step"] for line in scores] == [4]
    assert (tmp_path / "samples-000004.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "settings.json").read_text())["paper"] == paper


@pytest.mark.parametrize("prediction", list(train.PREDICTIONS))
def test_every_prediction_target_trains(prediction: str, tmp_path: Path) -> None:
    run("--prediction", prediction, "--data", "moons", "--steps", "2", "--out", str(tmp_path))
    assert lines(tmp_path)[-1]["step"] == 2


@pytest.mark.parametrize("variance", list(train.VARIANCES))
@pytest.mark.parametrize("schedule", list(train.SCHEDULES))
def test_every_schedule_and_variance_samples(schedule: str, variance: str, tmp_path: Path) -> None:
    options = ["--schedule", schedule, "--variance", variance, "--data", "moons", "--steps", "2"]
    run(*options, "--out", str(tmp_path))
    assert lines(tmp_path)[-1]["energy_distance"] > 0


@pytest.mark.parametrize("norm", list(train.NORMS))
def test_every_norm_trains(norm: str, tmp_path: Path) -> None:
    run("--loss", norm, "--eta", "0.5", "--data", "moons", "--steps", "2", "--out", str(tmp_path))
    assert lines(tmp_path)[-1]["step"] == 2


def test_a_resumed_run_writes_the_metrics_of_an_uninterrupted_one(tmp_path: Path) -> None:
    common = ["--data", "moons", "--log-every", "1", "--checkpoint-every", "2"]
    torch.set_num_threads(1)
    run(*common, "--steps", "6", "--out", str(tmp_path / "whole"))
    run(*common, "--steps", "4", "--out", str(tmp_path / "parts"))
    metrics = tmp_path / "parts" / "metrics.jsonl"
    with metrics.open("a") as file:  # as if killed one step later, within a line
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run(*common, "--steps", "6", "--out", str(tmp_path / "parts"))

    def losses(name: str) -> list[tuple[int, float]]:
        return [(x["step"], x["loss"]) for x in lines(tmp_path / name) if "loss" in x]

    assert losses("parts") == losses("whole")


def test_a_damaged_checkpoint_is_named_and_restart_replaces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "moons", "--steps", "2", "--out", str(tmp_path)]
    run(*options)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    said = refusal(capsys, *options, *QUICK)
    assert "checkpoint.pt is damaged" in said
    assert "--restart" in said
    run(*options, "--restart")


def test_unknown_names_are_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "digits" in refusal(capsys, "--data", "cifar11")
    assert "ddpm" in refusal(capsys, "--paper", "vae")


def test_options_that_do_not_go_together_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--variance learned" in refusal(capsys, "--objective", "hybrid")
    assert "--objective simple" in refusal(capsys, "--objective", "bound", "--loss", "l1")
    assert "[0, 1]" in refusal(capsys, "--eta", "2")
    assert "at least 1" in refusal(capsys, "--steps", "0")


def test_absent_files_and_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "--data", "mnist", "--data-root", str(tmp_path))
    assert str(tmp_path) in said
    assert "--download" in said
    (tmp_path / "file").write_text("in the way")
    assert "--out" in refusal(capsys, "--data", "moons", "--out", str(tmp_path / "file" / "runs"))


def test_bf16_trains_and_samples(tmp_path: Path) -> None:
    run("--precision", "bf16", "--data", "moons", "--steps", "2", "--out", str(tmp_path))
    assert lines(tmp_path)[-1]["energy_distance"] > 0
    assert json.loads((tmp_path / "settings.json").read_text())["precision"] == "bfloat16"


def test_an_absent_device_is_answered_with_those_present(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "it has " in refusal(capsys, "--device", "cuda")


def test_training_and_sampling_show_their_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option for option in QUICK if option != "--quiet"]
    train.main(["--data", "moons", "--steps", "40", "--out", str(tmp_path), *options])
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert "images/s" in shown
    assert "sampling" in shown


def test_of_several_processes_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        train.main(["--eta", "2"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == ""
