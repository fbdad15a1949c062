"""One training loop for every paper: a generator that yields after each step.

Whatever is random in step ``k`` (the batch, the times, the noise, dropout) is drawn from the seed
and ``k`` alone. A run that is killed and resumed therefore continues as if nothing had happened:
on one CPU thread, to the last bit.

Under `torchrun` the same call trains on many processes (`distributed`). A batch is cut into parts, and
what is random in a part is drawn from the seed, ``k`` and the part's number: the result does not depend
on how many processes share the parts.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from retro_diffusion import checkpoints, devices, distributed, nested
from retro_diffusion.checkpoints import CheckpointError
from retro_diffusion.distributed import Objective, Processes, ProcessLostError
from retro_diffusion.interruption import Signals

Batches = Callable[[torch.Generator], Any]
"""Draws a batch, usually ``(x0, cond)``, from a CPU generator and from nothing else."""

Loss = Callable[[Any, Any, torch.Generator], Tensor]
"""``loss(denoiser, batch, generator)``, a scalar tensor."""

LRSchedule = Callable[[int], float]
"""Factor of the learning rate at step 0, 1, ..."""

adamw: Callable[..., Optimizer] = functools.partial(
    torch.optim.AdamW, betas=(0.9, 0.99), weight_decay=0.0, fused=True
)
"""AdamW with the shorter memory of squared gradients that short runs need."""


class TrainState(NamedTuple):
    """Where a training run stands after a step.

    Attributes
    ----------
    step
        Steps done, from 1.
    loss
        Loss of this step, over the whole batch. On an accelerator, which reading the loss would
        stall, the mean over the last ten steps, renewed every ten.
    lr
        Learning rate of this step.
    grad_norm
        Norm of the gradient before clipping, read as often as ``loss``.
    denoiser
        The module in training itself, not a copy.
    ema
        The moving average of its weights, in evaluation mode; it too goes on changing.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    denoiser: nn.Module
    ema: nn.Module


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient became infinite or not a number."""


def train(
    denoiser: nn.Module,
    batches: Batches,
    *,
    n_steps: int,
    loss: Loss,
    optimizer: Callable[..., Optimizer] = adamw,
    lr: float = 1e-3,
    lr_schedule: LRSchedule | None = None,
    ema_decay: float = 0.999,
    grad_clip: float | None = 1.0,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    n_parts: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
    progress: bool = True,
) -> Generator[TrainState, None, None]:
    """Minimise a loss over random batches, yielding after every step.

    ``for state in train(...)`` observes a run, `finish` runs it to its end, and leaving the loop
    early stops it. When there is a ``checkpoint``, each of these leaves one from which the same
    call continues. So do Ctrl-C and SIGTERM, which wait for the step to be done; a second one does
    not. After a kill at most ``checkpoint_every`` steps are done again.

    Under `torchrun` every process makes this call and takes its share of every batch; the first
    shows the progress and writes the checkpoint, which a run on another number of processes may
    continue.

    Parameters
    ----------
    denoiser
        The module to train, in place; its trainable parameters are optimised.
    batches
        ``batches(generator)`` draws a batch. It must take its randomness from the CPU generator it
        is given; its tensors, also within tuples, lists and dictionaries, are moved to the device.
    n_steps
        Steps in all, those of a resumed run included.
    loss
        ``loss(denoiser, batch, generator)``, a scalar tensor, the mean over the batch; randomness
        from the generator. If it has a memory (``state_dict`` and ``load_state_dict``), that is
        saved and restored, too; several processes refuse it, since they would not share it.
    optimizer
        Called as ``optimizer(parameters, lr=lr)``: a class of `torch.optim`, or a partial of one.
    lr
        Learning rate, > 0, before ``lr_schedule``.
    lr_schedule
        Factor of the learning rate by step; constant if None. See `warmup` and `warmup_cosine`.
    ema_decay
        Decay of the moving average of the weights, in [0, 1). At step ``k`` from 0 it is at most
        ``(1 + k) / (10 + k)``, so that a short run forgets its initial weights.
    grad_clip
        Largest norm of the gradient, > 0; None does not clip.
    device
        As for `devices.pick`; None keeps the module where it is.
    dtype
        ``torch.float32``, or ``torch.bfloat16`` for a loss under autocast with float32 weights; see
        `devices.precision`.
    seed
        Determines batches, times, noise and dropout, 0 ... 2**32 - 1. It does not reinitialise
        the module. The global random state of the caller is left alone.
    n_parts
        Equal parts into which a batch is cut, and whose gradients are averaged: a multiple of the
        number of processes. More parts than processes need less memory. None is what the checkpoint
        says, or else one for each process.
    checkpoint
        Where to save; None does not save.
    checkpoint_every
        Steps between two savings.
    resume
        Continue from ``checkpoint`` if the file exists; otherwise begin anew and replace it.
    progress
        Show a bar with the loss, images per second and the time left.

    Yields
    ------
    TrainState
        Once per step; once in all if the checkpoint already has ``n_steps`` steps.

    Raises
    ------
    ValueError
        If an option is out of range, there is nothing to train, or the loss is not a scalar.
    NonFiniteLossError
        If the loss or the gradient is not finite. The step is not taken.
    CheckpointError
        If the checkpoint cannot be read or written, or belongs to another configuration.
    ProcessLostError
        If another process of this run is gone. A checkpoint is left as by Ctrl-C.
    """
    _check_options(n_steps, lr, ema_decay, grad_clip, dtype, seed, n_parts, checkpoint_every)
    if device is not None:
        denoiser.to(devices.pick(device))
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the denoiser has no trainable parameters")
    processes = distributed.join(parameters[0].device)
    objective = distributed.objective(denoiser, loss, processes)
    ema = copy.deepcopy(denoiser).eval().requires_grad_(False)
    parts = n_parts or processes.size
    run = _Run(denoiser, ema, optimizer(parameters, lr=lr), loss, seed, parts, processes)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        content = processes.agree(functools.partial(_find, path, resume))
        if content is not None:
            run.load(content, path, n_parts)
    step = functools.partial(
        _step,
        run,
        batches=batches,
        objective=objective,
        lr_schedule=constant() if lr_schedule is None else lr_schedule,
        ema_decay=ema_decay,
        grad_clip=grad_clip,
        dtype=dtype,
        parts=processes.parts(run.n_parts),
    )
    return _steps(run, step, n_steps, path, checkpoint_every, progress and processes.first)


def finish(states: Iterator[TrainState]) -> TrainState:
    """Run a training to its end.

    Parameters
    ----------
    states
        What `train` returned.

    Returns
    -------
    TrainState
        The last state. Its ``ema`` is in evaluation mode: use it to sample.

    Raises
    ------
    ValueError
        If there was no state left.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(states, Generator):
            stack.callback(states.close)  # an interrupt still saves the checkpoint
        last = collections.deque(states, maxlen=1)
    if not last:
        raise ValueError("this training has already been run to its end")
    return last[0]


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters of a module.

    Parameters
    ----------
    module
        Any module; shared parameters count once.

    Returns
    -------
    int
        The number of trainable scalars.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def constant() -> LRSchedule:
    """Learning rate that stays.

    Returns
    -------
    callable
        1 at every step.
    """
    return lambda step: 1.0


def warmup(n: int) -> LRSchedule:
    """Learning rate that rises linearly, then stays.

    Parameters
    ----------
    n
        Steps until the full rate, >= 0.

    Returns
    -------
    callable
        ``min(1, (step + 1) / n)``.

    Raises
    ------
    ValueError
        If ``n`` is negative.
    """
    if n < 0:
        raise ValueError(f"a warm-up cannot have {n} steps")
    return lambda step: min(1.0, (step + 1) / n) if n else 1.0


def warmup_cosine(n: int, total: int) -> LRSchedule:
    """Learning rate that rises linearly, then falls to zero along half a cosine.

    Parameters
    ----------
    n
        Steps until the full rate, >= 0.
    total
        Steps in all, > n; the rate would be zero at step ``total``, which is one past the last.

    Returns
    -------
    callable
        ``(step + 1) / n``, then ``(1 + cos(pi (step - n) / (total - n))) / 2``.

    Raises
    ------
    ValueError
        If the warm-up is negative or not shorter than the run.
    """
    rise = warmup(n)
    if total <= n:
        raise ValueError(f"a warm-up of {n} steps does not fit in a run of {total}")

    def multiplier(step: int) -> float:
        if step < n:
            return rise(step)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - n) / (total - n))))

    return multiplier


def step_seed(seed: int, step: int) -> int:
    """Mix a run's seed and a step's number into the seed of that step.

    For one ``seed`` no two steps below 2**32 share a result: each stage is a bijection of 32-bit
    integers, and 32 bits are all the CPU generator keeps of a seed.

    Parameters
    ----------
    seed
        Seed of the run, 0 ... 2**32 - 1.
    step
        Number of the step, >= 0.

    Returns
    -------
    int
        0 ... 2**32 - 1.
    """
    return _mix(_mix(step + _mix(seed)) ^ _mix(seed + 0x9E3779B9))


def _mix(x: int) -> int:
    """Scramble 32 bits by multiplication with odd numbers and xor-shifts, both invertible."""
    x &= 0xFFFFFFFF
    for shift, odd in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> shift)) * odd) & 0xFFFFFFFF
    return x


@dataclass
class _Run:
    """What a checkpoint holds."""

    denoiser: nn.Module
    ema: nn.Module
    optimizer: Optimizer
    loss_function: Loss
    seed: int
    n_parts: int
    processes: Processes
    step: int = 0
    loss: float = math.nan
    lr: float = math.nan
    grad_norm: float = math.nan
    whole: bool = True  # false while weights, optimiser and average are not of one step

    def __post_init__(self) -> None:
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.device = next(p for p in self.denoiser.parameters() if p.requires_grad).device
        self.read_every = _read_every(self.device)
        self.unread: list[Tensor] = []
        self.signals = Signals()
        self.all_stop = False  # some process was told to stop, and all know it

    def fingerprint(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "optimizer": type(self.optimizer).__name__,
            **checkpoints.shapes(self.denoiser.state_dict()),
        }

    def state(self) -> TrainState:
        return TrainState(self.step, self.loss, self.lr, self.grad_norm, self.denoiser, self.ema)

    def save(self, path: Path) -> None:
        if not self.processes.first:
            return
        content = {
            "fingerprint": self.fingerprint(),
            "step": self.step,
            "loss": self.loss,
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            "denoiser": self.denoiser.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_parts": self.n_parts,
        }
        if hasattr(self.loss_function, "state_dict"):
            content["loss_memory"] = self.loss_function.state_dict()
        checkpoints.save(path, content)

    def load(self, content: dict[str, Any], path: Path, n_parts: int | None) -> None:
        if "fingerprint" not in content:
            raise CheckpointError(f"{path} does not hold a training run")
        difference = checkpoints.first_difference(self.fingerprint(), content["fingerprint"])
        if difference:
            raise CheckpointError(
                f"{path} belongs to another run: {difference}; name another checkpoint, or pass "
                "resume=False to replace this one"
            )
        self.denoiser.load_state_dict(content["denoiser"])
        self.ema.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.loss = content["step"], content["loss"]
        self.lr, self.grad_norm = content["lr"], content["grad_norm"]
        self.n_parts = n_parts or content.get("n_parts", 1)
        if hasattr(self.loss_function, "load_state_dict") and "loss_memory" in content:
            self.loss_function.load_state_dict(content["loss_memory"])


def _find(path: Path, resume: bool) -> dict[str, Any] | None:
    """Read the checkpoint to continue from, if there is one, and make sure that one can be written."""
    checkpoints.check_writable(path)
    return checkpoints.load(path) if resume and path.exists() else None


def _steps(
    run: _Run,
    step: Callable[[], int],
    n_steps: int,
    path: Path | None,
    every: int,
    progress: bool,
) -> Generator[TrainState, None, None]:
    if run.step >= n_steps:
        yield run.state()
        return
    with tqdm(total=n_steps, initial=run.step, disable=not progress, unit="step") as bar:
        try:
            while run.step < n_steps:
                with run.signals.deferred(), distributed.watching(run.processes):
                    batch_size = step()
                    if path is not None and (run.step % every == 0 or run.step == n_steps):
                        run.save(path)
                _show(bar, run.loss, batch_size)
                yield run.state()
                if run.all_stop or (run.processes.size == 1 and run.signals.held):
                    run.signals.deliver()
        except (KeyboardInterrupt, SystemExit, GeneratorExit, ProcessLostError) as stop:
            bar.close()
            with run.signals.deferred():
                _leave(run, path, n_steps, interrupted=not isinstance(stop, GeneratorExit))
            raise


def _step(
    run: _Run,
    *,
    batches: Batches,
    objective: Objective | DistributedDataParallel,
    lr_schedule: LRSchedule,
    ema_decay: float,
    grad_clip: float | None,
    dtype: torch.dtype,
    parts: range,
) -> int:
    """Take one step, and return the size of its batch."""
    seed = step_seed(run.seed, run.step)
    generator = torch.Generator().manual_seed(seed)
    factor = lr_schedule(run.step)
    for group, base_lr in zip(run.optimizer.param_groups, run.base_lrs, strict=True):
        group["lr"] = base_lr * factor
    run.denoiser.train()
    run.optimizer.zero_grad(set_to_none=True)
    with _global_seed(seed, run.device):
        batch = batches(generator)
    values = []
    for part in parts:
        own = generator if part == 0 else torch.Generator().manual_seed(step_seed(seed, part))
        rows = nested.to_device(nested.part(batch, part, run.n_parts), run.device)
        waits = objective.no_sync() if part != parts[-1] else contextlib.nullcontext()
        with _global_seed(own.initial_seed(), run.device), waits:
            with devices.autocast(run.device, dtype):
                value = objective(rows, own)
            _check_scalar(value)
            (value / len(parts)).backward()
        values.append(value.detach().float())
    if run.processes.size > 1:
        distributed.check_gradients(run.denoiser)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if grad_clip is None else grad_clip)
    run.unread.append(torch.stack([torch.stack(values).mean(), norm.detach().float()]))
    if run.step == 0 or (run.step + 1) % run.read_every == 0:
        _read(run)
    run.whole = False
    run.optimizer.step()
    update_ema(run.ema, run.denoiser, min(ema_decay, (1 + run.step) / (10 + run.step)))
    run.step += 1
    run.lr = run.base_lrs[0] * factor
    run.whole = True
    return nested.length(batch)


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor) or value.ndim:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must be a scalar tensor, got {shape}")


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an average of weights towards the weights: ``ema = decay ema + (1 - decay) weights``.

    Parameters
    ----------
    ema
        The average, changed in place; buffers are copied.
    module
        A module of the same architecture.
    decay
        In [0, 1].
    """
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1 - decay)
    for average, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        average.copy_(buffer)


def _read_every(device: torch.device) -> int:
    """Steps between two readings of the loss: an accelerator stalls at each."""
    return 1 if device.type == "cpu" else 10


def _read(run: _Run) -> None:
    """Fetch the losses since the last reading, and refuse to go on if one is not finite."""
    first = run.step + 2 - len(run.unread)
    means = torch.stack(run.unread).mean(dim=0)
    stop = means.new_tensor([float(run.signals.held > 0)])
    run.loss, run.grad_norm, stopping = run.processes.mean(torch.cat([means, stop])).tolist()
    run.all_stop = stopping > 0
    run.unread.clear()
    if math.isfinite(run.loss) and math.isfinite(run.grad_norm):
        return
    what = "loss" if not math.isfinite(run.loss) else "gradient"
    where = f"step {run.step + 1}" if first == run.step + 1 else f"steps {first} to {run.step + 1}"
    raise NonFiniteLossError(
        f"the {what} is not finite at {where}: try a smaller lr, a longer warm-up, a smaller "
        "grad_clip, or float32, and check that the data are finite and scaled to [-1, 1]"
    )


def _show(bar: tqdm, loss: float, batch_size: int) -> None:
    """Advance the bar, with a moving average of the loss."""
    if bar.disable:
        return
    bar.smooth_loss = 0.95 * getattr(bar, "smooth_loss", loss) + 0.05 * loss
    bar.update()
    shown = bar.format_dict  # its rate is None until the bar has been drawn twice
    rate = shown["rate"] or (bar.n - bar.initial) / max(shown["elapsed"], 1e-9)
    speed = f"{rate * batch_size:.0f} images/s"
    bar.set_postfix_str(f"loss {bar.smooth_loss:.4f}, {speed}", refresh=False)


def _leave(run: _Run, path: Path | None, n_steps: int, interrupted: bool) -> None:
    """Save if possible, and say how to go on."""
    done = f"stopped after step {run.step} of {n_steps}"
    if path is None:
        if interrupted:
            _say(run, f"{done}; a checkpoint=... lets a run resume")
    elif run.whole and not run.signals.hurried and run.step < n_steps:
        run.save(path)
        _say(run, f"{done}, saved in {path}; the same call resumes")
    elif run.step < n_steps:
        place = f"resumes from {path}" if path.exists() else "begins anew"
        _say(run, f"stopped within step {run.step + 1} of {n_steps}; the same call {place}")


def _say(run: _Run, text: str) -> None:
    if run.processes.first:
        print(text, file=sys.stderr)


@contextlib.contextmanager
def _global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that dropout uses, and give them back as they were."""
    cpu = torch.get_rng_state()
    accelerator = None if device.type == "cpu" else getattr(torch, device.type)
    state = None if accelerator is None else accelerator.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        if accelerator is not None:
            accelerator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(cpu)
        if accelerator is not None:
            accelerator.set_rng_state(state)


def _check_options(
    n_steps: int,
    lr: float,
    ema_decay: float,
    grad_clip: float | None,
    dtype: torch.dtype,
    seed: int,
    n_parts: int | None,
    checkpoint_every: int,
) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
    if grad_clip is not None and not grad_clip > 0:
        raise ValueError(f"grad_clip must be positive or None, got {grad_clip}")
    if dtype not in devices.PRECISIONS.values():
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, got {dtype}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0 ... 2**32 - 1, got {seed}")
    if n_parts is not None and n_parts < 1:
        raise ValueError(f"n_parts must be at least 1, got {n_parts}")
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
