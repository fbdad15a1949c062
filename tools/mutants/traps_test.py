"""Every trap fits the library as it stands, so that none is dropped by a change of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.mutants import traps
from tools.mutants.traps import PACKAGE, Mutant, TrapError

MUTANTS = traps.load()

MODULE = "def half(x):\n    return x / 2\n"
TRAP = """
tests = ["half_test.py"]

[[mutant]]
name = "doubled"
trap = "Half is taken for double."
original = 'x / 2'
mutated = 'x * 2'
"""


def checkout() -> Path:
    """The library with its tests, to which the copies that Bazel runs are links."""
    root = (Path(__file__).parents[2] / "pyproject.toml").resolve().parent
    if not (root / "WORKSPACE").exists():
        pytest.skip("this machine works on copies")
    return root / PACKAGE


def library(tmp_path: Path, trap: str = TRAP) -> tuple[Path, Path]:
    """A library of one module, and its traps."""
    (tmp_path / "half.py").write_text(MODULE)
    (tmp_path / "half_test.py").touch()
    folder = tmp_path / "museum"
    folder.mkdir()
    (folder / "half.toml").write_text(trap)
    return tmp_path, folder


# ---- The library's own traps -------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_trap_can_be_sprung(mutant: Mutant) -> None:
    traps.check([mutant], checkout())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_trap_is_a_sentence_under_a_slug(mutant: Mutant) -> None:
    assert mutant.name == mutant.name.lower() and mutant.name.replace("-", "").isalnum()
    assert mutant.trap.endswith(".") and len(mutant.trap) > 40
    assert mutant.trap == " ".join(mutant.trap.split())


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 0


def test_no_two_mutants_make_the_same_change() -> None:
    changes = {(m.file, m.original, m.mutated) for m in MUTANTS}
    assert len(changes) == len(MUTANTS)


# ---- How traps are read ------------------------------------------------------------------------


def test_a_trap_says_what_to_change_in_the_module_of_its_file_s_name(tmp_path: Path) -> None:
    root, folder = library(tmp_path)
    (mutant,) = traps.load(folder)
    assert (mutant.name, mutant.file, mutant.tests) == ("doubled", "half.py", ("half_test.py",))
    assert mutant.apply(MODULE) == MODULE.replace("x / 2", "x * 2")
    traps.check([mutant], root)


def test_folders_of_the_library_are_folders_of_traps(tmp_path: Path) -> None:
    _, folder = library(tmp_path)
    (folder / "deep").mkdir()
    (folder / "half.toml").rename(folder / "deep" / "half.toml")
    assert [mutant.file for mutant in traps.load(folder)] == ["deep/half.py"]


def test_a_mutant_may_name_its_own_tests(tmp_path: Path) -> None:
    _, folder = library(tmp_path, TRAP + 'tests = ["other_test.py"]\n')
    assert traps.load(folder)[0].tests == ("other_test.py",)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("'x / 2'", "'x / 3'", r"doubled.*'?x / 3.*0 times in half.py.*museum/half.toml"),
        ("'x / 2'", "'x'", r"doubled.* 2 times in half.py"),
        ("'x * 2'", "'x / 2'", "doubled: mutated is the same"),
        ("'x * 2'", "'x *'", "doubled: the mutated module is not Python"),
        ("half_test", "no_test", "doubled: there is no .*/no_test.py"),
    ],
)
def test_traps_that_cannot_be_sprung_are_named(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    root, folder = library(tmp_path, TRAP.replace(before, after))
    with pytest.raises(TrapError, match=message):
        traps.check(traps.load(folder), root)


@pytest.mark.parametrize(
    ("trap", "message"),
    [
        (TRAP + TRAP.split("\n\n")[1], "doubled: the name is given twice"),
        (TRAP.replace("mutated =", "mutant ="), r"half.toml: doubled must have"),
        (TRAP.replace("'x / 2'", "''"), "doubled: original is empty"),
        (TRAP.replace("tests =", "test ="), "half.toml must hold"),
        ("tests = [", "half.toml: "),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, trap: str, message: str) -> None:
    _, folder = library(tmp_path, trap)
    with pytest.raises(TrapError, match=message):
        traps.load(folder)
