"""One choice of device and precision, and what may not reach a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retro_diffusion import devices, losses, parameterizations, samplers, schedules, times
from retro_diffusion.data import fresh
from retro_diffusion.data.toy import swiss_roll
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.devices import InPrecision
from retro_diffusion.networks import MLP, UNet
from retro_diffusion.training import finish, train

# ---- devices


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def has(gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return has


def test_auto_is_the_fastest_present(machine: Callable[..., None]) -> None:
    machine()
    assert devices.pick() == torch.device("cpu")
    machine(mps=True)
    assert devices.pick() == torch.device("mps")
    machine(gpus=2, mps=True)
    assert devices.pick() == torch.device("cuda")


def test_what_is_not_there_is_answered_with_what_is(machine: Callable[..., None]) -> None:
    machine()
    assert devices.pick("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "cuda:1"):
        with pytest.raises(ValueError, match=f'no device "{name}": it has cpu$'):
            devices.pick(name)
    machine(gpus=2)
    assert devices.pick("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match='no device "cuda:2": it has cuda:0, cuda:1, cpu'):
        devices.pick("cuda:2")


@pytest.mark.parametrize("name", ["meta", "tpu", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(ValueError, match="unknown device .* choose auto, cpu, cuda or mps"):
        devices.pick(name)


def test_each_process_of_a_host_has_a_gpu_of_its_own(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpus=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.pick() == devices.pick("cuda") == torch.device("cuda:1")
    assert devices.pick("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match='no device "cuda:2"'):
        devices.pick()


# ---- precision


def test_precision_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert devices.precision("fp32", cpu) == torch.float32
    assert devices.precision("bf16", cpu) == torch.bfloat16
    assert devices.precision("auto", cpu) == torch.float32
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, n=native: n
        )
        expected = torch.bfloat16 if native else torch.float32
        assert devices.precision("auto", gpu) == expected
    with pytest.raises(ValueError, match='unknown precision "fp16": choose auto, fp32 or bf16'):
        devices.precision("fp16", cpu)


def test_autocast_is_for_products_alone() -> None:
    x = torch.randn(4, 4)
    with devices.autocast(x.device, torch.float32):
        assert (x @ x).dtype == torch.float32
    with devices.autocast(x.device, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert (x + x).dtype == torch.float32
    with pytest.raises(ValueError, match="must be torch.float32 or torch.bfloat16"):
        devices.autocast(x.device, torch.float16)


def trained(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    schedule = schedules.cosine(50)
    denoiser = Denoiser(MLP(2, width=32), schedule, parameterizations.predict_v)
    options: dict[str, Any] = {"loss": losses.simple_loss(), "lr": 3e-3, "dtype": dtype}
    return finish(train(denoiser, fresh(swiss_roll, 128), n_steps=300, progress=False, **options))


def test_training_in_bf16_ends_near_fp32() -> None:
    fp32, bf16 = trained(torch.float32).ema, trained(torch.bfloat16).ema
    generator = torch.Generator().manual_seed(1)
    x0, t = swiss_roll(4000, generator), times.draw_steps(fp32.schedule, 4000, generator)
    with torch.no_grad():
        ours, theirs, untrained = (
            float(losses.denoising_loss(model, x0, t, generator=torch.Generator().manual_seed(2)))
            for model in (
                bf16,
                fp32,
                Denoiser(MLP(2, width=32), fp32.schedule, fp32.parameterization),
            )
        )
    assert abs(ours - theirs) < 0.1 * (untrained - theirs)
    pairs = zip(fp32.parameters(), bf16.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs), "bf16 changed nothing"


def test_sampling_in_bf16_is_near_fp32() -> None:
    model = trained(torch.float32).ema
    noise = samplers.starting_noise(
        model.schedule, (500, 2), generator=torch.Generator().manual_seed(0)
    )
    grid = times.trailing(model.schedule, 10)
    x, y = (
        samplers.last(samplers.ddim(InPrecision(model, dtype), noise, grid))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert x.dtype == y.dtype == torch.float32
    assert torch.equal(x, samplers.last(samplers.ddim(model, noise, grid)))
    assert 0 < float((x - y).square().mean().sqrt()) < 0.05


# ---- no float64 on a device that has none


class NoFloat64(TorchDispatchMode):
    """Fails at an operation that puts float64 on the device called meta."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                self.seen += 1
                assert leaf.dtype != torch.float64, f"{func} makes float64 on the device"
        return result


def on_meta(learned: bool, prediction: parameterizations.Parameterization) -> Iterator[Any]:
    network = UNet(1, width=4, out_channels=1 + learned)
    denoiser = Denoiser(network, schedules.cosine(20), prediction, learned_variance=learned)
    yield denoiser.to("meta")
    yield torch.empty(4, 1, 8, 8, device="meta"), None


@pytest.mark.parametrize("prediction", ["predict_eps", "predict_x0", "predict_v", "predict_score"])
def test_losses_move_no_float64(prediction: str) -> None:
    denoiser, batch = on_meta(False, getattr(parameterizations, prediction))
    generator = torch.Generator().manual_seed(0)
    for loss in (
        losses.simple_loss(),
        losses.simple_loss(weight=losses.elbo_steps, norm=losses.huber()),
        losses.bound_loss(),
    ):
        with NoFloat64() as mode:
            loss(denoiser, batch, generator).backward()
        assert mode.seen > 100


def test_learned_variance_moves_no_float64() -> None:
    denoiser, batch = on_meta(True, parameterizations.predict_eps)
    with NoFloat64() as mode:
        losses.hybrid_loss()(denoiser, batch, torch.Generator().manual_seed(0)).backward()
    assert mode.seen > 100


def test_steps_of_samplers_move_no_float64() -> None:
    denoiser, (x, _) = on_meta(False, parameterizations.predict_v)
    t, s = torch.tensor([10.0, 5.0], dtype=torch.float64)
    with NoFloat64() as mode, torch.no_grad():
        prediction = denoiser(x, t)
        samplers.ddim_step(denoiser.schedule, prediction, t, s, eta=0.5)
    assert mode.seen > 100


def test_the_watch_for_float64_sees_it() -> None:
    with NoFloat64(), pytest.raises(AssertionError, match="makes float64"):
        torch.zeros(2, dtype=torch.float64).to("meta")
