"""What the command lines of the tools share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def from_caller(path: Path) -> Path:
    """Return a path taken from where the command was typed, which is not where `bazel run` runs it."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), path)


def in_checkout(path: Path) -> Path:
    """Return a path taken from the top of the checkout, wherever `bazel run` was typed."""
    return Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."), path)


def positive(text: str) -> int:
    """Return the whole number >= 1 that an argument says: a `type` for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
