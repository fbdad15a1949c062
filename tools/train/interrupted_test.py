"""Runs that are interrupted or lose a process, from outside, as a shell would see them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from retro_diffusion import checkpoints
from tools.train import train

LONG = ["--data", "moons", "--quiet", "--log-every", "1", "--checkpoint-every", "100000"]
LONG += ["--timesteps", "50", "--sampling-steps", "5", "--n-samples", "20"]
LONG += ["--batch-size", "16", "--width", "16"]


@contextmanager
def started(out: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A long run in a process of its own, which has done some steps."""
    command = [sys.executable, "-P", train.__file__, *LONG, *arguments, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        try:
            while not (out / "metrics.jsonl").exists() or len(lines_so_far(out)) < 5:
                assert child.poll() is None, child.communicate()[1]
                time.sleep(0.02)
            yield child
        finally:
            child.kill()


def lines_so_far(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()


def losses_of(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in lines_so_far(out)]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_its_last_step_and_resumes(
    number: int, status: int, tmp_path: Path
) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    with started(parts, "--steps", "100000") as child:
        child.send_signal(number)
        said = child.communicate(timeout=60)[1]
    assert child.returncode == status, said
    step = checkpoints.load(parts / "checkpoint.pt")["step"]
    assert f"stopped after step {step} of 100000, saved in" in said
    assert "Traceback" not in said
    torch.set_num_threads(1)
    for out in (parts, whole):
        train.main([*LONG, "--steps", str(step + 3), "--out", str(out)])
    ours, theirs = losses_of(parts), losses_of(whole)
    assert set(ours) <= set(theirs)
    assert len(theirs) - len(ours) <= 1  # a signal may come between a step and its line


def worker(launcher: int, rank: int) -> int:
    """Process number of one of the workers that a launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children")
    for pid in children.read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"there is no process {rank}")


def test_a_killed_process_ends_the_run_in_words_and_one_process_resumes_it(tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    with started(parts, "--steps", "100000", "--processes", "2") as child:
        os.kill(worker(child.pid, 1), signal.SIGKILL)
        start = time.monotonic()
        said = child.communicate(timeout=60)[1]
        assert time.monotonic() - start < 40
    assert child.returncode == 2, said
    assert "process 1 of 2 was killed (SIGKILL); the same command resumes" in said
    step = checkpoints.load(parts / "checkpoint.pt")["step"]
    assert f"stopped after step {step} of 100000, saved in" in said
    torch.set_num_threads(1)
    train.main([*LONG, "--steps", str(step + 3), "--out", str(parts)])
    train.main([*LONG, "--steps", str(step + 3), "--parts", "2", "--out", str(whole)])
    ours, theirs = dict(losses_of(parts)), dict(losses_of(whole))
    assert max(ours) == max(theirs) == step + 3
    assert ours == pytest.approx({step: theirs[step] for step in ours}, rel=1e-3)


def test_ctrl_c_stops_all_processes(tmp_path: Path) -> None:
    with started(tmp_path, "--steps", "100000", "--processes", "2") as child:
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=60)[1]
    assert child.returncode == 130, said
    step = checkpoints.load(tmp_path / "checkpoint.pt")["step"]
    assert said.count(f"stopped after step {step} of 100000, saved in") == 1
    assert said.count("train: interrupted; the same command resumes") == 1
    assert "Traceback" not in said
