"""Which files the lint tests look at: everything in their runfiles."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Set

TEXT = {
    ".bzl",
    ".cff",
    ".in",
    ".ipynb",
    ".js",
    ".md",
    ".py",
    ".rst",
    ".sh",
    ".toml",
    ".tpl",
    ".yml",
}
HIDDEN = {".ci", ".github"}  # the hidden folders that hold sources
TEXT_NAMES = {"BUILD", "WORKSPACE", "bazel", "run"}


def runfiles_root() -> pathlib.Path:
    """Return the directory that has this program's files in the repository's layout."""
    return pathlib.Path(__file__).parents[2]


def walk(root: pathlib.Path, suffixes: Set[str], names: Set[str] = frozenset()) -> list[str]:
    """List the files below a directory by suffix or name.

    Parameters
    ----------
    root
        Where to look. Bazel's own links and version control are left out.
    suffixes, names
        A file is listed if its suffix or its name is among these.

    Returns
    -------
    list of str
        Paths from `root`, sorted.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f in HIDDEN or not f.startswith((".", "bazel-"))]
        for name in files:
            if pathlib.PurePath(name).suffix in suffixes or name in names:
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return sorted(found)


def checkout_files(checkout: pathlib.Path, suffixes: Set[str]) -> list[str]:
    """List the checkout's files by suffix, as git sees them where it can be asked.

    Parameters
    ----------
    checkout
        Root of the user's working tree.
    suffixes
        The suffixes to list.

    Returns
    -------
    list of str
        Paths from `checkout`, sorted; files that git ignores are not among them.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return walk(checkout, suffixes)
    return sorted(
        path
        for path in done.stdout.split("\0")
        if pathlib.PurePath(path).suffix in suffixes and (checkout / path).exists()
    )
