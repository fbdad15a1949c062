"""Writes and checks the locks: `bazel run requirements.update`, `bazel test requirements_test`.

There are four of them, each compiled by uv from the `.in` file that people
edit. Every entry names one version, the platforms it is for, and the SHA-256
of every file of that version on the package index.

The check resolves anew with the locked versions as a preference, which is what
an update does, but without the locked hashes: uv would copy those to its
answer unseen, and a hash that somebody tampered with would pass. Fresh hashes
come from the index. An index gains files for an old version when a wheel for
another platform is added, so the locked hashes have to be among the index's,
not equal to them. Last, every supported platform must find its wheels.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import NamedTuple

PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")  # the locks are compiled for the first and later
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
MACOS = "14.0"  # the oldest that torch has wheels for
NO_INDEX = re.compile(
    r"dns error|failed to lookup|error sending request|connect(ion)? (error|refused|reset)|"
    r"network is unreachable|operation timed out|request failed after",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Lock:
    """One lock: where it is, what it is compiled from, what it stands on."""

    path: str
    source: str
    base: str | None = None  # the lock whose versions are kept and whose packages are left out
    beside: str | None = None  # another whose versions are kept: both may be on one path


BASE = Lock("requirements_lock.txt", "requirements.in")
DEV = Lock("tools/requirements/dev_lock.txt", "tools/requirements/dev.in", base=BASE.path)
LOCKS = (
    BASE,
    DEV,
    Lock(
        "tools/requirements/benchmark_lock.txt",
        "tools/requirements/benchmark.in",
        base=BASE.path,
        beside=DEV.path,
    ),
    Lock("tools/python/uv_lock.txt", "tools/python/uv.in"),
)


class Key(NamedTuple):
    """One pinned package; a lock may pin a name twice, for different platforms."""

    name: str
    version: str
    marker: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")


@dataclass
class Entry:
    """The lines of one pinned package and the hashes in them."""

    lines: list[str]
    hashes: set[str]


class LockError(Exception):
    """A lock that cannot be compiled; the message is for the user."""


class NoIndexError(LockError):
    """The package index does not answer; the message is for the user."""


def parse(text: str) -> dict[Key, Entry]:
    """Split the text of a lock into its entries."""
    entries: dict[Key, Entry] = {}
    entry = None
    for line in text.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]*))?", line)
        if pin:
            entry = Entry([], set())
            entries[Key(pin[1], pin[2], (pin[3] or "").strip())] = entry
        if entry is not None and line.strip():
            entry.lines.append(line)
            entry.hashes.update(re.findall(r"--hash=(\S+)", line))
    return entries


def without_hashes(text: str) -> str:
    """Return the text of a lock with bare pins."""
    return "".join(f"{key}\n" for key in parse(text))


def compile_lock(uv: str, root: pathlib.Path, lock: Lock, options: list[str]) -> str:
    """Resolve one lock against the package index.

    Parameters
    ----------
    uv
        Path of the uv program.
    root
        Directory that holds the sources and the locks, in the repository's layout.
    lock
        Which lock. If its file exists, its versions are preferred.
    options
        Further options for `uv pip compile`, such as `--upgrade`.

    Returns
    -------
    str
        The text of the new lock.

    Raises
    ------
    LockError
        If the sources cannot be resolved, or, as `NoIndexError`, if the index cannot be reached.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = pathlib.Path(scratch, "lock.txt")
        old = root / lock.path
        if old.exists():
            output.write_text(without_hashes(old.read_text()))
        command = [
            uv, "pip", "compile", "--quiet", "--no-config", "--system-certs",
            "--universal", "--generate-hashes", f"--python-version={PYTHON_VERSIONS[0]}",
            "--no-emit-index-url", "--no-emit-find-links", "--no-header",
            *(["--no-annotate"] if lock.base else []),
            f"--output-file={output}",
        ]  # fmt: skip
        for path in filter(None, (lock.base, lock.beside)):
            constraint = pathlib.Path(scratch, pathlib.Path(path).name)
            constraint.write_text(without_hashes((root / path).read_text()))
            command += ["--constraint", str(constraint)]
        done = subprocess.run(
            [*command, *options, lock.source],
            cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            if NO_INDEX.search(done.stderr):
                raise NoIndexError(
                    "The locks can only be compiled or checked with the package index, which cannot "
                    "be reached. Connect and try again; to run the other tests meanwhile, add "
                    f"--test_tag_filters=-requires-network. uv said:\n{done.stderr}"
                )
            raise LockError(f"{lock.source} has no resolution. uv said:\n{done.stderr}")
        entries = parse(output.read_text())
    if lock.base:
        # What the base installs for the same platforms (or for all) is there
        # already. Anything else stays, at worst a second copy of one version.
        base = parse((root / lock.base).read_text())
        entries = {
            key: entry
            for key, entry in entries.items()
            if key not in base and key._replace(marker="") not in base
        }
    header = [
        f"# Compiled from {lock.source}: do not edit, run `bazel run requirements.update`.",
        "# Linux (x86-64, arm64) and macOS (arm64), Python 3.11 to 3.14.",
    ]
    if lock.base:
        header.append(f"# Holds only what {lock.base} does not.")
    return "\n".join(header + [line for entry in entries.values() for line in entry.lines]) + "\n"


def differences(lock: Lock, text: str, fresh: str) -> list[str]:
    """List what is wrong with a lock, one sentence each.

    Parameters
    ----------
    lock
        Which lock.
    text
        The lock as it is.
    fresh
        The lock as the index has it now.

    Returns
    -------
    list of str
        Empty if the lock is good.
    """
    have, want = parse(text), parse(fresh)
    problems = []
    for key in want.keys() - have.keys():
        others = [str(k) for k in have if k.name == key.name] or ["nothing"]
        problems.append(f"{lock.path}: expected {key}, found {' and '.join(others)}.")
    for key in have.keys() - want.keys():
        if not any(k.name == key.name for k in want):
            problems.append(f"{lock.path}: {key} is locked, but {lock.source} does not lead to it.")
    for key in have.keys() & want.keys():
        expected = "one of the index's:\n    " + "\n    ".join(sorted(want[key].hashes))
        if not have[key].hashes:
            problems.append(f"{lock.path}: {key} has no hash; expected {expected}")
        for wrong in sorted(have[key].hashes - want[key].hashes):
            problems.append(f"{lock.path}: {key} has the foreign hash {wrong}; expected {expected}")
    return sorted(problems)


def missing_wheels(uv: str, root: pathlib.Path) -> list[str]:
    """List the platforms and Pythons that the locks cannot be installed on.

    Parameters
    ----------
    uv
        Path of the uv program.
    root
        Directory that holds the locks, in the repository's layout.

    Returns
    -------
    list of str
        One sentence each, with what uv says.
    """
    problems = []
    with tempfile.TemporaryDirectory() as target:
        for platform in PLATFORMS:
            for version in PYTHON_VERSIONS:
                command = [
                    uv, "pip", "install", "--quiet", "--no-config", "--system-certs", "--dry-run",
                    "--no-deps", "--only-binary=:all:", f"--target={target}",
                    f"--python-platform={platform}", f"--python-version={version}",
                    *(f"--requirement={lock.path}" for lock in LOCKS),
                ]  # fmt: skip
                done = subprocess.run(
                    command,
                    cwd=root, capture_output=True, text=True, check=False,
                    env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS},
                )  # fmt: skip
                if done.returncode:
                    problems.append(
                        f"The locks do not install on {platform} with Python {version}: {done.stderr}"
                    )
    return problems


def update(uv: str, options: list[str]) -> int:
    """Rewrite every lock in the user's checkout that changes."""
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    if not checkout:
        raise LockError("Start this with: bazel run requirements.update")
    root = pathlib.Path(checkout)
    for lock in LOCKS:
        path = root / lock.path
        fresh = compile_lock(uv, root, lock, options)
        same = path.exists() and path.read_text() == fresh
        if not same:
            path.write_text(fresh)
        print(f"{lock.path}: {len(parse(fresh))} packages, {'unchanged' if same else 'written'}")
    return 0


def check(uv: str, runfiles: pathlib.Path) -> int:
    """Compare every lock with a fresh resolution; return 1 if any is wrong."""
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        # A cache of its own: a cached answer is not the index's.
        os.environ["UV_CACHE_DIR"] = os.path.join(scratch, "cache")
        root = pathlib.Path(scratch, "root")
        for lock in LOCKS:
            for path in (lock.source, lock.path):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(runfiles / path, root / path)
        for lock in LOCKS:
            try:
                fresh = compile_lock(uv, root, lock, [])
            except NoIndexError:
                raise
            except LockError as error:
                problems.append(str(error))
            else:
                problems += differences(lock, (root / lock.path).read_text(), fresh)
        if not problems:
            problems = missing_wheels(uv, root)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("\nIf the sources changed, run: bazel run requirements.update", file=sys.stderr)
    return 1 if problems else 0


def main() -> int:
    """Run `update` or `check` as the arguments say."""
    parser = argparse.ArgumentParser(prog="requirements", description=__doc__.splitlines()[0])
    parser.add_argument(
        "mode", choices=["update", "check"], help="rewrite the locks, or compare them"
    )
    parser.add_argument("uv", type=pathlib.Path, help="file that names the uv program")
    arguments, options = parser.parse_known_args()
    uv = arguments.uv.read_text().strip()
    try:
        if arguments.mode == "update":
            return update(uv, options)
        return check(uv, pathlib.Path(__file__).parents[2])
    except LockError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
