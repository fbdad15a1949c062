"""Several processes do what one does: the same run, the same checkpoint, and an end with clear words.

The workers are this file's own functions, started twice with the variables that `torchrun` sets.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retro_diffusion import checkpoints, distributed, losses, parameterizations, schedules, training
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.distributed import Processes, ProcessLostError
from retro_diffusion.importance import ImportanceSampledBound, LossHistory
from retro_diffusion.networks import UNet
from retro_diffusion.training import finish, train

N_STEPS = 12


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x0 = torch.rand(8, 1, 8, 8, generator=generator) * 2 - 1
    return x0, torch.randint(3, (8,), generator=generator)


def small_denoiser(seed: int = 0, learned_variance: bool = False) -> Denoiser:
    torch.manual_seed(seed)
    channels = 1 + learned_variance
    network = UNet(1, width=8, n_classes=3, dropout=0.2, out_channels=channels)
    nn.init.normal_(network.head.weight, std=0.1)
    return Denoiser(
        network,
        schedules.cosine(20),
        parameterizations.predict_eps if learned_variance else parameterizations.predict_v,
        learned_variance=learned_variance,
    )


def record(denoiser: Denoiser, loss: Any, **options: Any) -> dict[str, Any]:
    """Train, and return all that a run is."""
    defaults: dict[str, Any] = {"n_steps": N_STEPS, "lr": 0.01, "optimizer": torch.optim.SGD}
    defaults |= {"grad_clip": 0.3, "ema_decay": 0.9, "progress": False}
    rows: list[list[float]] = []
    ema: nn.Module = denoiser
    for state in train(denoiser, images, loss=loss, **(defaults | options)):
        rows.append([state.step, state.loss, state.grad_norm])
        ema = state.ema
    return {
        "rows": torch.tensor(rows, dtype=torch.float64),
        "weights": flat(denoiser),
        "ema": flat(ema),
    }


def flat(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


LOSSES: dict[str, Callable[[], Any]] = {
    "simple": losses.simple_loss,
    "hybrid": losses.hybrid_loss,
    "bound": losses.bound_loss,
}


def run_of(name: str, **options: Any) -> dict[str, Any]:
    return record(small_denoiser(learned_variance=name == "hybrid"), LOSSES[name](), **options)


def outcome(call: Callable[[], Any]) -> str:
    """What a call ends in, as text."""
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


# ---- what the workers run


def train_all_ways(folder: Path) -> None:
    """Run everything that two processes are asked about in one start, which costs seconds."""
    rank = int(os.environ["RANK"])
    results: dict[str, Any] = {name: run_of(name) for name in LOSSES}
    first = torch.cat([results[name]["weights"] for name in LOSSES])
    other_start = record(small_denoiser(seed=rank), losses.simple_loss())
    results["one start"] = bool(torch.equal(other_start["weights"], results["simple"]["weights"]))
    results["four parts"] = run_of("simple", n_parts=4)
    run_of("simple", n_steps=7, checkpoint=folder / "by_two.pt", progress=True)
    results["resumed"] = run_of("simple", checkpoint=folder / "by_one.pt")
    results["errors"] = {
        name: outcome(call)
        for name, call in {
            "memory": lambda: record(
                small_denoiser(learned_variance=True), ImportanceSampledBound(LossHistory(20))
            ),
            "unused": lambda: record(small_denoiser(learned_variance=True), only_x0),
            "nan": lambda: run_of_broken(rank),
            "parts": lambda: run_of("simple", n_parts=3),
            "batch": lambda: run_of("simple", n_parts=16),
            "damaged": lambda: run_of("simple", checkpoint=folder / "damaged.pt"),
            "stopped": lambda: stopped_by_one(rank, folder / "stopped.pt"),
        }.items()
    }
    torch.save(results | {"first": first}, folder / f"rank{rank}.pt")
    distributed.leave()


def only_x0(denoiser: Denoiser, batch: Any, generator: torch.Generator) -> Tensor:
    """A loss that uses nothing but a bias."""
    return denoiser.get_parameter("network.head.bias").square().mean()


def run_of_broken(rank: int) -> None:
    simple, steps = losses.simple_loss(), []

    def loss(denoiser: Denoiser, batch: Any, generator: torch.Generator) -> Tensor:
        steps.append(0)
        broken = rank == 1 and len(steps) == 3
        return simple(denoiser, batch, generator) * (float("nan") if broken else 1)

    record(small_denoiser(), loss)


def stopped_by_one(rank: int, path: Path) -> None:
    """Interrupt the second process alone, in its third step."""
    simple, steps = losses.simple_loss(), []

    def loss(denoiser: Denoiser, batch: Any, generator: torch.Generator) -> Tensor:
        steps.append(0)
        if rank == 1 and len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return simple(denoiser, batch, generator)

    record(small_denoiser(), loss, checkpoint=path)


def train_and_log(folder: Path, n_steps: int) -> None:
    """Train, writing every step to a file; the first process ends as a program would."""
    with open(folder / f"log{os.environ.get('RANK', '')}", "a") as log:
        states = train(
            small_denoiser(),
            images,
            n_steps=n_steps,
            loss=losses.simple_loss(),
            n_parts=2,
            checkpoint=folder / "run.pt",
            checkpoint_every=10,
            progress=False,
        )
        for state in states:
            log.write(f"{state.step} {state.loss.hex()}\n")
            log.flush()


# ---- starting them


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def two_processes(function: str, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    module = __spec__.name if __spec__ else __name__
    call = f"import pathlib, {module} as test; test.{function}({', '.join(arguments)})"
    shared = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", call],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def path_of(folder: Path) -> str:
    return f"pathlib.Path({str(folder)!r})"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[str], Path]:
    """What two processes found, what they said, and the folder they worked in."""
    folder = tmp_path_factory.mktemp("pair")
    run_of("simple", n_parts=2, n_steps=7, checkpoint=folder / "by_one.pt")
    (folder / "damaged.pt").write_bytes((folder / "by_one.pt").read_bytes()[:5000])
    with two_processes("train_all_ways", path_of(folder)) as children:
        said = [child.communicate(timeout=240)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)], said, folder


Pair = tuple[list[dict[str, Any]], list[str], Path]


def assert_same_run(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name in ("rows", "weights", "ema"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


# ---- the same run


@pytest.mark.parametrize("name", list(LOSSES))
def test_two_processes_are_one_run(pair: Pair, name: str) -> None:
    alone = run_of(name, n_parts=2)
    for rank in range(2):
        assert_same_run(pair[0][rank][name], alone)
    assert float((alone["weights"] - alone["ema"]).norm()) > 1e-3
    assert bool((alone["rows"][:, 2] > 0.3).any()), "nothing was clipped"
    unlike = run_of(name, n_parts=1)
    assert not torch.allclose(unlike["weights"], alone["weights"], rtol=1e-3, atol=1e-5)


def test_processes_have_equal_weights_to_the_bit(pair: Pair) -> None:
    for name in LOSSES:
        for what in ("rows", "weights", "ema"):
            assert torch.equal(pair[0][0][name][what], pair[0][1][name][what])


def test_all_start_from_the_weights_of_the_first(pair: Pair) -> None:
    assert pair[0][0]["one start"]
    assert pair[0][1]["one start"]


def test_more_parts_than_processes(pair: Pair) -> None:
    assert_same_run(pair[0][0]["four parts"], run_of("simple", n_parts=4))


def test_two_continue_what_one_began_and_one_what_two_began(pair: Pair, tmp_path: Path) -> None:
    whole = run_of("simple", n_parts=2)
    tail = whole | {"rows": whole["rows"][7:]}
    assert_same_run(pair[0][0]["resumed"], tail)
    assert_same_run(pair[0][1]["resumed"], tail)
    shutil.copy(pair[2] / "by_two.pt", tmp_path / "run.pt")
    assert checkpoints.load(tmp_path / "run.pt")["n_parts"] == 2
    assert_same_run(run_of("simple", checkpoint=tmp_path / "run.pt"), tail)


def test_only_the_first_shows_progress(pair: Pair) -> None:
    assert "7/7" in pair[1][0]
    assert "7/7" not in pair[1][1]


# ---- what goes wrong


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("memory", "ValueError: ImportanceSampledBound remembers what it has seen"),
        ("unused", "ValueError: the loss does not depend on network."),
        ("nan", "NonFiniteLossError: the loss is not finite at step 3"),
        (
            "parts",
            "ValueError: 2 processes cannot share a batch of 3 parts: choose a multiple of 2",
        ),
        ("batch", "ValueError: a batch of 8 cannot be cut into 16 equal parts"),
        ("damaged", "CheckpointError: checkpoint "),
        ("stopped", "KeyboardInterrupt: "),
    ],
)
def test_all_end_in_the_same_words(pair: Pair, what: str, message: str) -> None:
    for rank in range(2):
        assert pair[0][rank]["errors"][what].startswith(message)


def test_a_signal_to_one_stops_all_after_the_same_step(pair: Pair) -> None:
    step = checkpoints.load(pair[2] / "stopped.pt")["step"]
    assert step in (3, 4)
    assert f"stopped after step {step} of 12, saved in" in pair[1][0]
    assert "stopped" not in pair[1][1]


def wait_for_steps(children: list[subprocess.Popen[str]], log: Path, n: int) -> None:
    while not log.exists() or log.read_text().count("\n") < n:
        assert all(child.poll() is None for child in children), "ended before it could be killed"
        time.sleep(0.01)


def test_a_lost_process_ends_the_run_which_resumes(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    broken.mkdir()
    whole.mkdir()
    with two_processes("train_and_log", path_of(broken), "2000") as children:
        wait_for_steps(children, broken / "log0", 15)
        children[1].kill()
        start = time.monotonic()
        said = children[0].communicate(timeout=60)[1]
        assert time.monotonic() - start < 20
    assert children[0].returncode not in (0, None)
    assert "ProcessLostError: another of the 2 processes of this run is gone" in said
    done = checkpoints.load(broken / "run.pt")["step"]
    assert f"stopped after step {done} of 2000, saved in" in said
    assert done >= 15
    train_and_log(broken, done + 5)  # one process continues what two began
    train_and_log(whole, done + 5)
    ours, theirs = (checkpoints.load(folder / "run.pt") for folder in (broken, whole))
    assert ours["step"] == theirs["step"] == done + 5
    for name, weights in theirs["ema"].items():
        torch.testing.assert_close(ours["ema"][name], weights, rtol=1e-3, atol=1e-5)


# ---- one process alone


def test_alone_nothing_is_joined() -> None:
    assert not distributed.launched()
    assert distributed.join(torch.device("cpu")) == Processes(0, 1)
    assert Processes().agree(lambda: 7) == 7
    assert Processes().mean(torch.tensor(2.0)) == 2
    distributed.leave()


def test_one_launched_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert distributed.join(torch.device("cpu")) == Processes(0, 1)


def test_parts_are_shared_out() -> None:
    assert [list(Processes(rank, 2).parts(4)) for rank in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3 parts"):
        Processes(0, 2).parts(3)


def test_apple_gpus_have_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="several processes cannot train on mps"):
        distributed.join(torch.device("mps"))


def test_only_talk_of_processes_means_one_is_lost() -> None:
    with pytest.raises(RuntimeError, match="shapes"), distributed.watching(Processes(0, 2)):
        raise RuntimeError("shapes do not match")
    with pytest.raises(ProcessLostError), distributed.watching(Processes(0, 2)):
        raise RuntimeError("Connection closed by peer")


def test_parts_average_to_the_batch() -> None:
    """Without randomness in the loss, parts change nothing."""

    def plain(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        return (model(batch[0]).flatten(1).mean(1) - batch[1]).square().mean()

    runs = []
    for n_parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        options: dict[str, Any] = {"n_steps": 10, "n_parts": n_parts, "progress": False}
        options |= {"optimizer": torch.optim.SGD, "lr": 0.01, "grad_clip": None}
        runs.append(finish(train(model, images, loss=plain, **options)))
    assert runs[0].loss == pytest.approx(runs[1].loss, rel=1e-5)
    torch.testing.assert_close(flat(runs[0].ema), flat(runs[1].ema))


def test_parts_are_the_batch_cut() -> None:
    seen: list[Tensor] = []

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        seen.append(batch[0])
        return model(batch[0]).square().mean()

    for n_parts in (1, 4):
        options: dict[str, Any] = {"n_steps": 1, "n_parts": n_parts, "progress": False}
        finish(train(nn.Linear(8, 1), images, loss=loss, **options))
    assert [len(x) for x in seen] == [8, 2, 2, 2, 2]
    assert torch.equal(torch.cat(seen[1:]), seen[0])


def test_parts_have_noise_of_their_own() -> None:
    drawn: list[Tensor] = []

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        drawn.append(torch.cat([torch.randn(3, generator=generator), torch.rand(3)]))
        return model(batch[0]).square().mean()

    finish(train(nn.Linear(8, 1), images, n_steps=3, loss=loss, n_parts=4, progress=False))
    assert len({tuple(draw.tolist()) for draw in drawn}) == 12


def test_the_first_part_draws_as_an_undivided_batch_does() -> None:
    seeds = training.step_seed(0, 3)
    drawn: list[float] = []

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        drawn.append(float(torch.randn((), generator=generator)))
        return model(batch[0]).square().mean()

    for n_parts in (1, 2):
        options: dict[str, Any] = {"n_steps": 4, "n_parts": n_parts, "progress": False}
        finish(train(nn.Linear(8, 1), images, loss=loss, **options))
    generator = torch.Generator().manual_seed(seeds)
    images(generator)
    assert drawn[3] == drawn[4 + 6] == float(torch.randn((), generator=generator))
