"""Checkpoints: what goes in comes out, nothing else gets in, and no half-written file is left."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retro_diffusion import checkpoints
from retro_diffusion.checkpoints import CheckpointError

STATE: dict[str, Any] = {
    "step": 3,
    "name": "run",
    "rate": 0.1,
    "nothing": None,
    "nested": {0: [torch.arange(3), (True, b"x")], "w": torch.randn(5, 4).to(torch.bfloat16)},
}


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "run.pt"
    checkpoints.save(path, STATE)
    assert_same(STATE, checkpoints.load(path))
    assert os.listdir(path.parent) == ["run.pt"]


def test_optimiser_round_trip(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoints.save(tmp_path / "o.pt", optimizer.state_dict())
    assert_same(optimizer.state_dict(), checkpoints.load(tmp_path / "o.pt"))


def test_save_replaces(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    checkpoints.save(path, {"step": 1})
    checkpoints.save(str(path), {"step": 2})
    assert checkpoints.load(path) == {"step": 2}


class Unfriendly:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_save_refuses_objects(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"the state\['a'\]\[1\] is a Unfriendly"):
        checkpoints.save(tmp_path / "x.pt", {"a": [1, Unfriendly()]})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("wrapped", [True, False])
def test_load_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if wrapped:
        torch.save({"format": "retro_diffusion", "version": 1, "state": Unfriendly()}, "x.pt")
    else:
        Path("x.pt").write_bytes(pickle.dumps({"state": Unfriendly()}))
    with pytest.raises(CheckpointError, match="not a checkpoint of Retro Diffusion"):
        checkpoints.load("x.pt")
    assert not Path("ran").exists()


def test_load_every_truncation_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    checkpoints.save(path, {"w": torch.zeros(40)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.load(path)


def test_load_flipped_bit_in_tensor_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    pattern = torch.full((64,), 0xA7, dtype=torch.uint8)
    checkpoints.save(path, {"w": pattern})
    content = bytearray(path.read_bytes())
    content[content.index(bytes([0xA7] * 64)) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or was cut short"):
        checkpoints.load(path)


def test_load_absent(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoints.load(tmp_path / "none.pt")


def test_load_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read checkpoint .*: is a directory"):
        checkpoints.load(tmp_path)


def test_load_foreign_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of Retro Diffusion"):
        checkpoints.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(CheckpointError, match="not a checkpoint of Retro Diffusion"):
        checkpoints.load(path)


def test_load_other_version(tmp_path: Path) -> None:
    torch.save({"format": "retro_diffusion", "version": 7, "state": {}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="has checkpoint version 7, this library reads 1"):
        checkpoints.load(tmp_path / "x.pt")


def test_save_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(CheckpointError, match="no permission to write"):
        checkpoints.save(tmp_path / "x.pt", {})


def test_save_where_a_file_or_folder_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make folder"):
        checkpoints.save(tmp_path / "file" / "x.pt", {})
    with pytest.raises(CheckpointError, match="it is a folder"):
        checkpoints.save(tmp_path, {})


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("short")])
def test_failed_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "run.pt"
    checkpoints.save(path, {"step": 1})

    def fail(content: Any, file: Any) -> None:
        file.write(b"PK half a file")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        checkpoints.save(path, {"step": 2})
    assert checkpoints.load(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["run.pt"]


SAVE_FOREVER = """
import sys, torch
from retro_diffusion import checkpoints
step = 0
while True:
    step += 1
    checkpoints.save(sys.argv[1], {"step": step, "w": torch.full((200_000,), float(step))})
    print(step, flush=True)
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for delay in (0.013, 0.029):
        command = [sys.executable, "-c", SAVE_FOREVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            for _ in range(5):
                done = int(child.stdout.readline())
            time.sleep(delay)
            child.kill()
        state = checkpoints.load(path)
        assert state["step"] >= done
        assert torch.equal(state["w"], torch.full((200_000,), float(state["step"])))


def test_weights_round_trip(tmp_path: Path) -> None:
    a = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    b = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoints.save_weights(tmp_path / "w.pt", a)
    checkpoints.load_weights(tmp_path / "w.pt", b)
    assert_same(dict(a.state_dict()), dict(b.state_dict()))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 4), r"weight is \[4, 2\] here and \[3, 2\] in the file"),
        (nn.Linear(2, 3, bias=False), "bias is in the file only"),
        (nn.Sequential(nn.Linear(2, 3)), "0.weight is missing from the file"),
    ],
)
def test_weights_of_another_model(tmp_path: Path, module: nn.Module, message: str) -> None:
    checkpoints.save_weights(tmp_path / "w.pt", nn.Linear(2, 3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_weights(tmp_path / "w.pt", module)
    assert_same(before, dict(module.state_dict()))


def test_weights_from_a_run(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "run.pt", {"step": 1, "ema": {}})
    with pytest.raises(CheckpointError, match="holds step, ema, not shared weights"):
        checkpoints.load_weights(tmp_path / "run.pt", nn.Linear(1, 1))
