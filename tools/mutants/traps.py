"""The traps of the papers as data: what to change in the library, and which tests should object.

A file `museum/NAME.toml` belongs to the library's `NAME.py`:

    tests = ["schedules_test.py"]  # the most likely to object comes first

    [[mutant]]
    name = "noise-at-the-last-step"
    trap = "One sentence for a reader: the mistake, who makes it, and where it is done right."
    original = 'exact text that occurs once in NAME.py'
    mutated = 'what stands there after the mistake'
    tests = ["reference_test.py"]  # optional, in place of the file's

Text of several lines goes between triple quotes, and begins on the line after them. In a trap,
lines are joined.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "retro_diffusion"
MUSEUM = Path(__file__).with_name("museum")
REQUIRED = {"name", "trap", "original", "mutated"}


class TrapError(ValueError):
    """A trap that cannot be sprung as it is written."""


@dataclass(frozen=True)
class Mutant:
    """A mistake that one can make in the library.

    Attributes
    ----------
    name
        A slug, its own in all the library.
    trap
        One sentence that a reader understands.
    file
        The module, a path from the library's folder.
    original, mutated
        Text that occurs exactly once in the module, and what to put in its place.
    tests
        Test files, paths from the library's folder, the most likely to object first.
    """

    name: str
    trap: str
    file: str
    original: str
    mutated: str
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """Make the mistake in the module's text.

        Parameters
        ----------
        source
            Text of the module.

        Returns
        -------
        str
            The text with the mistake in it.

        Raises
        ------
        TrapError
            If the original does not occur exactly once.
        """
        count = source.count(self.original)
        if count != 1:
            first = self.original.strip().splitlines()[0]
            raise TrapError(
                f'{self.name}: its original, "{first}"{" ..." if first != self.original else ""}, '
                f"occurs {count} times in {self.file}, not once: mend museum/{_toml(self.file)}"
            )
        return source.replace(self.original, self.mutated)


def load(folder: Path = MUSEUM) -> list[Mutant]:
    """Read all traps.

    Parameters
    ----------
    folder
        Where the TOML files lie, in the library's layout.

    Returns
    -------
    list of Mutant
        By file, in the files' own order.

    Raises
    ------
    TrapError
        If a file is not as the top of this module says, or a name is given twice.
    """
    mutants = [
        mutant
        for path in sorted(folder.rglob("*.toml"))
        for mutant in _read(path, path.relative_to(folder).with_suffix(".py").as_posix())
    ]
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise TrapError(f"{name}: the name is given twice")
    return mutants


def check(mutants: Iterable[Mutant], library: Path) -> None:
    """Make sure that every trap can be sprung.

    Parameters
    ----------
    mutants
        The traps.
    library
        Folder of the library.

    Raises
    ------
    TrapError
        If a module or a test is not there, an original does not occur exactly once, or a mutated
        module is not Python.
    """
    for mutant in mutants:
        for name in (mutant.file, *mutant.tests):
            if not (library / name).is_file():
                raise TrapError(f"{mutant.name}: there is no {library.name}/{name}")
        mutated = mutant.apply((library / mutant.file).read_text(encoding="utf-8"))
        if mutant.mutated == mutant.original:
            raise TrapError(f"{mutant.name}: mutated is the same as original")
        try:
            compile(mutated, mutant.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise TrapError(f"{mutant.name}: the mutated module is not Python: {error}") from error


def _read(path: Path, file: str) -> Iterable[Mutant]:
    """Yield the traps of one module."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TrapError(f"museum/{_toml(file)}: {error}") from error
    if content.keys() != {"tests", "mutant"}:
        raise TrapError(f"museum/{_toml(file)} must hold `tests` and `[[mutant]]`, and no more")
    for entry in content["mutant"]:
        yield _mutant(entry, file, content["tests"])


def _mutant(entry: dict[str, Any], file: str, tests: list[str]) -> Mutant:
    where = f"museum/{_toml(file)}: {entry.get('name', 'a mutant without name')}"
    if not entry.keys() >= REQUIRED or not entry.keys() <= REQUIRED | {"tests"}:
        raise TrapError(f"{where} must have {', '.join(sorted(REQUIRED))}, perhaps tests, no more")
    if not entry["original"]:
        raise TrapError(f"{where}: original is empty")
    folded = {"trap": " ".join(entry["trap"].split()), "tests": tuple(entry.get("tests", tests))}
    return Mutant(file=file, **(entry | folded))


def _toml(file: str) -> str:
    return Path(file).with_suffix(".toml").as_posix()
