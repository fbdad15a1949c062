"""Training: it learns, it resumes to the bit after a kill, and it fails with clear words."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from retro_diffusion import checkpoints, training
from retro_diffusion.checkpoints import CheckpointError
from retro_diffusion.networks import UNet
from retro_diffusion.training import finish, train


def points(generator: torch.Generator) -> tuple[Tensor, None]:
    return torch.randn(16, 2, generator=generator), None


def toward_three(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
    x, _ = batch
    noise = 0.1 * torch.randn(x.shape, generator=generator)
    return (model(x + noise) - 3).square().mean()


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 2))


def run(model: nn.Module, **options: Any) -> Any:
    defaults: dict[str, Any] = {"n_steps": 20, "loss": toward_three, "progress": False}
    return train(model, points, **(defaults | options))


def losses(model: nn.Module, **options: Any) -> list[float]:
    return [state.loss for state in run(model, **options)]


def weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


# ---- what a step does


def test_learns() -> None:
    state = finish(run(nn.Linear(2, 2), n_steps=300, lr=0.05))
    assert state.loss < 0.01
    assert state.step == 300
    assert not state.ema.training
    x = torch.randn(4, 2)
    torch.testing.assert_close(state.ema(x), torch.full((4, 2), 3.0), atol=0.2, rtol=0)


def test_a_step_trains_even_after_the_caller_evaluated() -> None:
    modes = []

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        modes.append(model.training)
        return toward_three(model, batch, generator)

    for state in run(small(), n_steps=4, loss=loss):
        state.denoiser.eval()
    assert modes == [True] * 4


def test_first_step_by_hand() -> None:
    model = nn.Linear(2, 2)
    before = weights(model)
    generator = torch.Generator().manual_seed(training.step_seed(5, 0))
    toward_three(model, points(generator), generator).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    state = next(run(model, optimizer=torch.optim.SGD, lr=0.1, seed=5, grad_clip=0.5))
    assert state.grad_norm == pytest.approx(float(gradient.norm()))
    assert state.lr == 0.1
    after = before - 0.1 * 0.5 * gradient / gradient.norm()
    torch.testing.assert_close(weights(state.denoiser), after)
    torch.testing.assert_close(weights(state.ema), 0.1 * before + 0.9 * after)


def test_without_clipping() -> None:
    model = nn.Linear(2, 2)
    before = weights(model)
    state = next(run(model, optimizer=torch.optim.SGD, lr=0.1, grad_clip=None))
    assert float((weights(model) - before).norm()) == pytest.approx(0.1 * state.grad_norm, rel=1e-4)


def test_average_forgets_its_start_in_a_short_run() -> None:
    decay = math.prod(min(0.9999, (1 + k) / (10 + k)) for k in range(100))
    assert decay < 1e-6
    state = finish(run(nn.Linear(2, 2), n_steps=100, lr=0.1, ema_decay=0.9999))
    assert 0 < float((weights(state.ema) - weights(state.denoiser)).norm()) < 1


def test_average_copies_buffers() -> None:
    state = finish(run(small()))
    trained, averaged = list(state.denoiser.buffers()), list(state.ema.buffers())
    assert len(trained) == 3
    assert all(torch.equal(a, b) for a, b in zip(trained, averaged, strict=True))


def test_lr_schedule_reaches_the_optimiser() -> None:
    schedule = training.warmup_cosine(4, 20)
    rates = [state.lr for state in run(small(), lr=0.2, lr_schedule=schedule)]
    assert rates == pytest.approx([0.2 * schedule(k) for k in range(20)])


def test_lr_schedules() -> None:
    rise = training.warmup(4)
    assert [rise(k) for k in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert training.warmup(0)(0) == 1
    assert training.constant()(7) == 1
    cosine = training.warmup_cosine(2, 12)
    assert [cosine(k) for k in (0, 1, 2, 7, 12, 99)] == pytest.approx([0.5, 1, 1, 0.5, 0, 0])
    with pytest.raises(ValueError, match="cannot have -1 steps"):
        training.warmup(-1)
    with pytest.raises(ValueError, match="a warm-up of 5 steps does not fit in a run of 5"):
        training.warmup_cosine(5, 5)


def test_frozen_parameters_stay() -> None:
    frozen = nn.Linear(2, 4).requires_grad_(False)
    model = nn.Sequential(frozen, nn.Linear(4, 2))
    before = frozen.weight.clone()
    state = finish(run(model))
    assert torch.equal(frozen.weight, before)
    assert all(not p.requires_grad for p in state.ema.parameters())
    assert training.count_parameters(model) == 10


def test_bfloat16_learns_with_float32_weights() -> None:
    seen = []

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        seen.append(model(batch[0]).dtype)
        return toward_three(model, batch, generator)

    state = finish(run(nn.Linear(2, 2), loss=loss, n_steps=200, lr=0.05, dtype=torch.bfloat16))
    assert set(seen) == {torch.bfloat16}
    assert weights(state.denoiser).dtype == torch.float32
    assert state.loss < 0.02


def test_batches_may_be_nested() -> None:
    class Pair(NamedTuple):
        x0: Tensor
        cond: dict[str, list[Tensor]]

    def batches(generator: torch.Generator) -> Pair:
        return Pair(torch.randn(4, 2, generator=generator), {"text": [torch.zeros(4)]})

    def loss(model: Any, batch: Pair, generator: torch.Generator) -> Tensor:
        return model(batch.x0).square().mean() + batch.cond["text"][0].sum()

    finish(train(nn.Linear(2, 2), batches, n_steps=2, loss=loss, progress=False, device="cpu"))


# ---- randomness


def test_a_run_is_its_seed() -> None:
    assert losses(small()) == losses(small())
    assert losses(small()) != losses(small(), seed=1)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    model = small()
    torch.manual_seed(11)
    expected = torch.randn(3)
    torch.manual_seed(11)
    first = losses(model)
    assert torch.equal(torch.randn(3), expected)
    model = small()
    torch.manual_seed(12)
    assert losses(model) == first


def test_step_seeds_do_not_repeat() -> None:
    for seed in (0, 1, 2**32 - 1):
        assert len({training.step_seed(seed, step) for step in range(50_000)}) == 50_000
    neighbours = [training.step_seed(0, step) for step in range(1000)]
    flipped = [(a ^ b).bit_count() for a, b in itertools.pairwise(neighbours)]
    assert 15 < sum(flipped) / len(flipped) < 17


# ---- checkpoints


def test_resume_is_exact(tmp_path: Path) -> None:
    whole = losses(small())
    path = tmp_path / "run.pt"
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 6}
    first = losses(small(), **options, n_steps=9)
    model = small(1)
    second = losses(model, **options)
    assert first + second == whole
    reference = small()
    ema = finish(run(reference)).ema
    assert torch.equal(weights(model), weights(reference))
    assert torch.equal(weights(finish(run(small(2), **options)).ema), weights(ema))


def test_closing_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.pt"
    states = run(small(), checkpoint=path)
    first = [next(states).loss for _ in range(7)]
    assert not path.exists()
    states.close()
    assert "stopped after step 7 of 20, saved in" in capsys.readouterr().err
    assert first + losses(small(), checkpoint=path) == losses(small())


def test_interrupt_within_the_loss_saves_the_last_whole_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, calls = tmp_path / "run.pt", 0

    def interrupted(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return toward_three(model, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        finish(run(nn.Linear(2, 2), loss=interrupted, checkpoint=path))
    assert "stopped after step 7 of 20, saved in" in capsys.readouterr().err
    assert checkpoints.load(path)["step"] == 7
    calls = 7
    with pytest.raises(KeyboardInterrupt):
        finish(run(nn.Linear(2, 2), loss=interrupted))
    assert "stopped after step 0 of 20; a checkpoint=..." in capsys.readouterr().err


def signalled(number: int, times: int) -> Any:
    """A loss in whose fifth call signals arrive."""
    calls = 0

    def loss(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        for _ in range(times if calls == 5 else 0):
            os.kill(os.getpid(), number)
        return toward_three(model, batch, generator)

    return loss


@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_lets_the_step_finish(
    number: int, stop: type[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(stop):
        finish(run(small(), loss=signalled(number, 1), checkpoint=path))
    assert "stopped after step 5 of 20, saved in" in capsys.readouterr().err
    assert losses(small(1), checkpoint=path) == losses(small())[5:]


def test_the_step_of_a_signal_is_seen() -> None:
    states = run(small(), loss=signalled(signal.SIGINT, 1))
    assert [next(states).step for _ in range(5)] == [1, 2, 3, 4, 5]
    with pytest.raises(KeyboardInterrupt):
        next(states)


def test_a_second_signal_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.pt"
    options: dict[str, Any] = {"loss": signalled(signal.SIGINT, 2), "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        finish(run(small(), **options))
    assert "stopped within step 5 of 20; the same call begins anew" in capsys.readouterr().err
    assert not path.exists()


def test_interrupt_within_the_update_keeps_the_older_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(torch.optim.SGD):
        calls = 0

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.calls += 1
            if self.calls == 8:
                raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        finish(run(small(), optimizer=Interrupted, checkpoint=path, checkpoint_every=5))
    assert "stopped within step 8 of 20; the same call resumes" in capsys.readouterr().err
    assert checkpoints.load(path)["step"] == 5


class Drifting:
    """A loss whose target moves with every call: it has a memory."""

    def __init__(self) -> None:
        self.calls = torch.zeros(())

    def state_dict(self) -> dict[str, Tensor]:
        return {"calls": self.calls.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.calls.copy_(state["calls"])

    def __call__(self, model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return (model(batch[0]) - self.calls).square().mean()


def test_a_losss_memory_is_part_of_the_run(tmp_path: Path) -> None:
    whole = losses(small(), loss=Drifting())
    options: dict[str, Any] = {"checkpoint": tmp_path / "run.pt"}
    first = losses(small(), loss=Drifting(), n_steps=9, **options)
    assert first + losses(small(), loss=Drifting(), **options) == whole


def test_parts_are_the_checkpoints_unless_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": tmp_path / "run.pt"}
    whole = losses(small(), n_parts=4)
    first = losses(small(), n_parts=4, n_steps=9, **options)
    assert first + losses(small(), **options) == whole
    assert losses(small(), n_parts=1) != whole
    other = losses(small(), n_parts=2, n_steps=21, **options)
    assert len(other) == 1


def test_finished_checkpoint_yields_once(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    last = finish(run(small(), checkpoint=path))
    states = list(run(small(3), checkpoint=path))
    assert [(s.step, s.loss, s.lr) for s in states] == [(20, last.loss, last.lr)]
    assert torch.equal(weights(states[0].ema), weights(last.ema))


def test_resume_false_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first = losses(small(), checkpoint=path)
    assert losses(small(), checkpoint=path, resume=False) == first


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (small(), {"seed": 1}, "seed is 1 here and 0 in the file"),
        (nn.Linear(2, 2), {}, "is missing from the file"),
        (nn.Sequential(nn.Linear(2, 4), nn.Identity()), {}, r"0.weight is \[4, 2\] here"),
        (small(), {"optimizer": torch.optim.SGD}, "optimizer is SGD here and AdamW in the file"),
    ],
)
def test_checkpoint_of_another_run(
    tmp_path: Path, model: nn.Module, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run.pt"
    finish(run(small(), checkpoint=path, n_steps=1))
    with pytest.raises(CheckpointError, match=f"belongs to another run: .*{message}"):
        run(model, checkpoint=path, **options)


def test_checkpoint_that_is_no_run(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "w.pt", small())
    with pytest.raises(CheckpointError, match="does not hold a training run"):
        run(small(), checkpoint=tmp_path / "w.pt")
    (tmp_path / "w.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        run(small(), checkpoint=tmp_path / "w.pt")


def digits_like(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 1, 8, 8, generator=generator), torch.randint(3, (4,), generator=generator)


def noise_error(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
    x0, cond = batch
    t, eps = torch.rand(len(x0), generator=generator), torch.randn(x0.shape, generator=generator)
    return (model(x0 + t[:, None, None, None] * eps, t, cond) - eps).square().mean()


def run_to_be_killed(folder: str, n_steps: int) -> None:
    """Train a network with dropout, and log every loss to the last bit."""
    torch.manual_seed(0)
    network = UNet(1, width=4, attention=(False, True), n_classes=3, dropout=0.1)
    path = Path(folder) / "run.pt"
    schedule = training.warmup_cosine(10, 1000)
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 12, "progress": False}
    with open(Path(folder) / "log", "a") as log:
        for state in train(
            network, digits_like, n_steps=n_steps, loss=noise_error, lr_schedule=schedule, **options
        ):
            log.write(f"{state.step} {state.loss.hex()} {state.grad_norm.hex()}\n")
            log.flush()


def log_lines(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_killed_run_continues_to_the_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    module = __spec__.name if __spec__ else __name__
    call = f"import {module} as test; test.run_to_be_killed({str(killed)!r}, 1000)"
    paths = os.pathsep.join(sys.path)
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", call], env=environment) as child:
        while len(log_lines(killed)) < 30:
            assert child.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        child.kill()
    before = [line for line in log_lines(killed) if line.count(" ") == 2]
    done = int(before[-1].split()[0])
    assert done < 1000
    (killed / "log").unlink()

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_to_be_killed(str(killed), done + 15)
        run_to_be_killed(str(whole), done + 15)
    finally:
        torch.set_num_threads(n_threads)
    after = log_lines(killed)
    first, last = int(after[0].split()[0]), int(after[-1].split()[0])
    assert done - 12 < first <= done + 1, "more than one checkpoint interval was lost"
    assert last == done + 15
    expected = log_lines(whole)
    assert before == expected[:done]
    assert after == expected[first - 1 :]


# ---- what goes wrong


def test_infinite_loss_names_the_step() -> None:
    calls = 0

    def explodes(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        return toward_three(model, batch, generator) * (math.inf if calls == 4 else 1)

    model = nn.Linear(2, 2)
    with pytest.raises(training.NonFiniteLossError, match="the loss is not finite at step 4: try"):
        finish(run(model, loss=explodes))
    assert weights(model).isfinite().all()


def test_infinite_gradient_is_caught() -> None:
    def steep(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        return (model(batch[0]) * 0).sqrt().mean()

    with pytest.raises(training.NonFiniteLossError, match="the gradient is not finite at step 1"):
        finish(run(nn.Linear(2, 2), loss=steep))


def test_infinite_loss_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    def explodes(model: Any, batch: Any, generator: torch.Generator) -> Tensor:
        value = toward_three(model, batch, generator)
        return value * math.nan if (tmp_path / "run.pt").exists() else value

    with pytest.raises(training.NonFiniteLossError, match="step 6"):
        finish(run(small(), loss=explodes, checkpoint=tmp_path / "run.pt", checkpoint_every=5))
    assert checkpoints.load(tmp_path / "run.pt")["step"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"grad_clip": 0.0}, "grad_clip must be positive or None, got 0.0"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.bfloat16"),
        ({"seed": -1}, "seed must be in"),
        ({"n_parts": 0}, "n_parts must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"device": "tpu"}, 'unknown device "tpu": choose auto, cpu, cuda or mps'),
    ],
)
def test_wrong_options_are_refused_at_the_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(small(), **options)


def test_wrong_losses_and_models() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        run(nn.Identity())
    with pytest.raises(ValueError, match=r"must be a scalar tensor, got \(16, 2\)"):
        next(run(nn.Linear(2, 2), loss=lambda model, batch, generator: model(batch[0])))
    with pytest.raises(ValueError, match="must be a scalar tensor, got float"):
        next(run(nn.Linear(2, 2), loss=lambda model, batch, generator: 1.0))


def test_unwritable_checkpoint_is_reported_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make folder"):
        run(small(), checkpoint=tmp_path / "file" / "run.pt")


def test_finish_needs_something_left() -> None:
    states = run(small(), n_steps=1)
    finish(states)
    with pytest.raises(ValueError, match="already been run to its end"):
        finish(states)


# ---- what it shows


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    finish(run(nn.Linear(2, 2), progress=True))
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "loss " in shown
    finish(run(nn.Linear(2, 2), progress=False))
    assert capsys.readouterr().err == ""


def test_readings_in_groups_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    every = losses(small(), n_steps=8)
    monkeypatch.setattr(training, "_read_every", lambda device: 4)
    grouped = losses(small(), n_steps=8)
    mean = partial(pytest.approx, rel=1e-5)
    assert grouped[:3] == [every[0]] * 3
    assert grouped[3] == mean(sum(every[1:4]) / 3)
    assert grouped[7] == mean(sum(every[4:8]) / 4)
