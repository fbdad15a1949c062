"""Training on several processes, hosts and GPUs: data parallelism by PyTorch's own means.

`torchrun` starts the same program N times and tells each its place. `training.train` finds that in the
environment and joins the others; nothing else changes. Each process holds all weights and works on its own
parts of every batch, and `torch.nn.parallel.DistributedDataParallel` averages the gradients while they
are computed.

That class sees a gradient only if the loss came out of its ``forward``. It therefore wraps neither the
network nor the `denoiser.Denoiser`, but the *loss* (`Objective`): inside, a loss has the denoiser itself
in hand, with its schedule and all its methods, and may call it as often as it likes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
_PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = datetime.timedelta(minutes=30)


class ProcessLostError(RuntimeError):
    """Another process of this run has ended, or does not answer."""


class Processes(NamedTuple):
    """The processes that train together, and which of them this is.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    size
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that prints, shows progress and writes files."""
        return self.rank == 0

    def parts(self, n_parts: int) -> range:
        """Say which parts of a batch are this process's.

        Parameters
        ----------
        n_parts
            How many parts a batch has.

        Returns
        -------
        range
            Their numbers, from 0.

        Raises
        ------
        ValueError
            If the parts cannot be shared out equally.
        """
        if n_parts < 1 or n_parts % self.size:
            raise ValueError(
                f"{self.size} processes cannot share a batch of {n_parts} parts: "
                f"choose a multiple of {self.size} for n_parts"
            )
        own = n_parts // self.size
        return range(self.rank * own, (self.rank + 1) * own)

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor over the processes; all of them get the result, of the same shape."""
        if self.size == 1:
            return values
        dist.all_reduce(values)
        return values / self.size

    def agree(self, make: Callable[[], T]) -> T:
        """Let the first process make something, and hand it to all.

        Parameters
        ----------
        make
            Called in the first process alone; what it returns can be pickled.

        Returns
        -------
        Any
            The same in every process.

        Raises
        ------
        Exception
            In every process, what ``make`` raised in the first.
        """
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except Exception as error:
                answer[1] = error
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]


def launched() -> bool:
    """Whether `torchrun`, or whatever else sets its variables, started this process."""
    return all(name in os.environ for name in _PLACE)


def join(device: torch.device) -> Processes:
    """Meet the other processes of this run, if there are any.

    Parameters
    ----------
    device
        Where this process computes. GPUs talk through NCCL, CPUs through Gloo.

    Returns
    -------
    Processes
        All of them; one alone outside `torchrun`. A second call returns the same.

    Raises
    ------
    ValueError
        If the device has no means to talk to others.
    """
    if not dist.is_initialized():
        if not launched() or int(os.environ["WORLD_SIZE"]) == 1:
            return Processes()
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"several processes cannot train on {device}: choose cpu or cuda")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Part from the other processes, once there is nothing more to train."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Objective(nn.Module):
    """A loss as a module: what is differentiated, whole.

    Parameters
    ----------
    module
        The module in training.
    loss
        ``loss(module, batch, generator)``.
    """

    def __init__(self, module: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, batch: Any, generator: torch.Generator) -> Any:
        """Return the loss of a batch."""
        return self.loss(self.module, batch, generator)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Where gradients only add up: with one process, everywhere."""
        return contextlib.nullcontext()


def objective(
    module: nn.Module, loss: Callable[..., Any], processes: Processes
) -> Objective | DistributedDataParallel:
    """Make the objective whose gradient is the mean over all processes.

    With several processes, all start from the weights and buffers of the first.

    Parameters
    ----------
    module, loss
        As for `Objective`.
    processes
        Who trains.

    Returns
    -------
    Objective or DistributedDataParallel
        Called as ``(batch, generator)``. Gradients of a backward pass inside its ``no_sync()`` are
        kept back until the next one outside.

    Raises
    ------
    ValueError
        If there are several processes and the loss has a memory (``state_dict``), which they would
        not share.
    """
    alone = Objective(module, loss)
    if processes.size == 1:
        return alone
    if hasattr(loss, "state_dict") and loss.state_dict():
        raise ValueError(
            f"{type(loss).__name__} remembers what it has seen, and {processes.size} processes would not "
            "share that: train with one process, or with a loss that has no memory"
        )
    return DistributedDataParallel(alone)


def check_gradients(module: nn.Module) -> None:
    """Make sure that the loss depends on every trainable parameter, as averaging gradients requires.

    Parameters
    ----------
    module
        After a backward pass.

    Raises
    ------
    ValueError
        If a parameter has no gradient.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ValueError(
                f"the loss does not depend on {name}, and several processes can share only gradients "
                "that are there: freeze it with requires_grad_(False), or train with one process"
            )


@contextlib.contextmanager
def watching(processes: Processes) -> Iterator[None]:
    """Turn what PyTorch says when another process has gone into `ProcessLostError`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if processes.size == 1 or not any(word in text for word in ("gloo", "nccl", "peer")):
            raise
        raise ProcessLostError(
            f"another of the {processes.size} processes of this run is gone or does not answer"
        ) from error
