import pathlib

import pytest

from tools.requirements import locks

TEXT = """\
# a header
attrs==26.1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via jsonschema
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:cc
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:dd
"""


def differences(text: str, fresh: str) -> list[str]:
    return locks.differences(locks.BASE, text, fresh)


def test_parse() -> None:
    entries = locks.parse(TEXT)
    assert [str(key) for key in entries] == [
        "attrs==26.1.0",
        "numpy==2.4.6 ; python_full_version < '3.12'",
        "numpy==2.5.5 ; python_full_version >= '3.12'",
    ]
    assert [entry.hashes for entry in entries.values()] == [
        {"sha256:aa", "sha256:bb"},
        {"sha256:cc"},
        {"sha256:dd"},
    ]
    assert locks.without_hashes(TEXT).splitlines() == [str(key) for key in entries]


def test_same_lock_is_good() -> None:
    assert differences(TEXT, TEXT) == []


def test_new_file_on_the_index_is_good() -> None:
    assert differences(TEXT, TEXT.replace("sha256:cc", "sha256:cc \\\n    --hash=sha256:ee")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sha256:bb", "sha256:b0", "attrs==26.1.0 has the foreign hash sha256:b0"),
        (
            " \\\n    --hash=sha256:dd",
            "",
            "has no hash; expected one of the index's:\n    sha256:dd",
        ),
        ("26.1.0", "25.0.0", "expected attrs==26.1.0, found attrs==25.0.0"),
        ("< '3.12'", "< '3.13'", "expected numpy==2.4.6 ; python_full_version < '3.12', found"),
        ("attrs", "attr", "attr==26.1.0 is locked, but requirements.in does not lead to it"),
    ],
)
def test_bad_lock(old: str, new: str, said: str) -> None:
    text = "\n".join(differences(TEXT.replace(old, new), TEXT))
    assert said in text
    assert text.count("requirements_lock.txt: ") == len(differences(TEXT.replace(old, new), TEXT))


def fake_uv(folder: pathlib.Path, script: str) -> str:
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_layer_leaves_out_what_the_base_has(tmp_path: pathlib.Path) -> None:
    (tmp_path / "base.txt").write_text(TEXT)
    resolved = "attrs==26.1.0 ; sys_platform == 'linux'\\nnumpy==2.4.6\\npytest==9.2.0\\n"
    uv = fake_uv(
        tmp_path,
        f'for o; do case $o in --output-file=*) printf "{resolved}" > ${{o#*=}};; esac; done',
    )
    text = locks.compile_lock(uv, tmp_path, locks.Lock("dev.txt", "dev.in", base="base.txt"), [])
    # The base has attrs everywhere, but numpy 2.4.6 only on the oldest Python.
    assert [key.name for key in locks.parse(text)] == ["numpy", "pytest"]


def test_layer_keeps_the_versions_of_the_layer_beside_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "base.txt").write_text("attrs==26.1.0\n")
    (tmp_path / "dev.txt").write_text(
        "pytest==9.2.0 ; sys_platform == 'linux' \\\n    --hash=sha256:aa\n"
    )
    script = """
for o; do
  case $o in --output-file=*) output=${o#*=};; esac
  [ "$before" = --constraint ] && constraints="$constraints $o"
  before=$o
done
cat $constraints > "$output"
"""
    lock = locks.Lock("peers.txt", "peers.in", base="base.txt", beside="dev.txt")
    entries = locks.parse(locks.compile_lock(fake_uv(tmp_path, script), tmp_path, lock, []))
    assert [str(key) for key in entries] == ["pytest==9.2.0 ; sys_platform == 'linux'"]


def test_no_index_is_said(tmp_path: pathlib.Path) -> None:
    uv = fake_uv(tmp_path, "echo 'cause: dns error' >&2; exit 2")
    with pytest.raises(locks.NoIndexError, match="package index, which cannot be reached"):
        locks.compile_lock(uv, tmp_path, locks.BASE, [])


def test_no_resolution_is_said(tmp_path: pathlib.Path) -> None:
    uv = fake_uv(tmp_path, "echo 'no version of numpy' >&2; exit 1")
    with pytest.raises(locks.LockError, match="requirements.in has no resolution"):
        locks.compile_lock(uv, tmp_path, locks.BASE, [])
