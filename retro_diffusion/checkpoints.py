"""Checkpoints that survive a crash while they are written, and say so when they did not.

A checkpoint is the zip archive that `torch.save` writes, with a header that names its format. It is
written beside its final place and renamed over it, so that a reader sees the old file or the new
one, never half of one. Reading runs no code from the file: tensors, numbers, text and containers of
them are all it may hold.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_FORMAT = "retro_diffusion"
_VERSION = 1
_PLAIN_TYPES = (str, bytes, int, float, bool, type(None))


class CheckpointError(Exception):
    """A checkpoint cannot be written, read or used; the message says why in one sentence."""


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state to a file, all of it or nothing.

    Parameters
    ----------
    path
        Where to write. Missing folders are made; an existing file is replaced at the end.
    state
        Tensors, numbers, text, None, and dictionaries, lists and tuples of these.

    Raises
    ------
    CheckpointError
        If the file cannot be written; what was at ``path`` before is still there.
    TypeError
        If the state holds anything else, for which reading back would have to run code.
    """
    path = Path(path)
    _check_plain(state, "the state")
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": _FORMAT, "version": _VERSION, "state": dict(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(f"cannot write checkpoint {path}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state that `save` wrote, onto the CPU.

    Every byte is checked against the sums the file carries, and no code from the file runs.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        The state, equal to the one saved.

    Raises
    ------
    CheckpointError
        If the file is absent, unreadable, damaged, or not a checkpoint of this library.
    """
    path = Path(path)
    foreign = f"{path} is not a checkpoint of Retro Diffusion"
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise CheckpointError(f"{foreign}, or its beginning is damaged")
            _check_sums(file, path)
            file.seek(0)
            content = torch.load(file, weights_only=True, map_location="cpu")
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {_reason(error)}") from error
    except Exception as error:  # the archive is sound, so its content is foreign
        raise CheckpointError(foreign) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(foreign)
    if content.get("version") != _VERSION or not isinstance(content.get("state"), dict):
        raise CheckpointError(
            f"{path} has checkpoint version {content.get('version')}, this library reads {_VERSION}"
        )
    return content["state"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before the work begins, that a checkpoint can be written; make missing folders.

    Parameters
    ----------
    path
        Where the checkpoint will go.

    Raises
    ------
    CheckpointError
        If the folder cannot be made or written to, or ``path`` is a folder itself.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make folder {path.parent}: {_reason(error)}") from error
    if path.is_dir():
        raise CheckpointError(f"cannot write checkpoint {path}: it is a folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"cannot write checkpoint {path}: no permission to write in {path.parent}"
        )


def save_weights(path: str | os.PathLike[str], module: nn.Module) -> None:
    """Write the weights of a module for others to load.

    Parameters
    ----------
    path
        Where to write.
    module
        Its parameters and buffers are saved.

    Raises
    ------
    CheckpointError
        If the file cannot be written.
    """
    save(path, {"weights": module.state_dict()})


def load_weights(path: str | os.PathLike[str], module: nn.Module) -> None:
    """Read weights that `save_weights` wrote into a module of the same architecture, in place.

    Parameters
    ----------
    path
        The file.
    module
        Receives the weights, on whatever device it is; unchanged if they do not fit.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or its names and shapes are not those of the module.
    """
    state = load(path)
    if "weights" not in state:
        raise CheckpointError(f"{path} holds {', '.join(state) or 'nothing'}, not shared weights")
    difference = first_difference(shapes(module.state_dict()), shapes(state["weights"]))
    if difference:
        raise CheckpointError(f"the weights in {path} belong to another model: {difference}")
    module.load_state_dict(state["weights"])


def shapes(state_dict: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name and shape of every tensor in a module's state.

    Parameters
    ----------
    state_dict
        What ``module.state_dict()`` returns.

    Returns
    -------
    dict
        Shapes as lists, by name, in the module's order.
    """
    return {
        name: list(value.shape) for name, value in state_dict.items() if isinstance(value, Tensor)
    }


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Say where what a program has and what a file has first differ.

    Parameters
    ----------
    ours
        What the program has.
    theirs
        What the file has.

    Returns
    -------
    str or None
        A clause for an error message; None if they agree.
    """
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in theirs:
            return f"{name} is missing from the file"
        if name not in ours:
            return f"{name} is in the file only"
        if ours[name] != theirs[name]:
            return f"{name} is {ours[name]} here and {theirs[name]} in the file"
    return None


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Tensor) or type(value) in _PLAIN_TYPES:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: save tensors, numbers and text only")


def _check_sums(file: Any, path: Path) -> None:
    """Compare every byte of the archive with its check sum."""
    try:
        with zipfile.ZipFile(file) as archive:
            sound = archive.testzip() is None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        sound = False
    if not sound:
        raise CheckpointError(f"checkpoint {path} is damaged or was cut short")


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself outlast a power cut, on systems that can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return text[:1].lower() + text[1:]
