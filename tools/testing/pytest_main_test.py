import os
import pathlib
import subprocess
import sys

import pytest

from tools.testing import pytest_main


def run(
    tmp_path: pathlib.Path, source: str, *arguments: str, **environment: str
) -> tuple[int, str]:
    """Run the runner as Bazel does, in a process of its own."""
    path = tmp_path / "sample_test.py"
    path.write_text(source)
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("TEST", "XML_", "PYTEST_"))
    }
    done = subprocess.run(
        [sys.executable, "-P", pytest_main.__file__, str(path), *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


TWO = "def test_a():\n    pass\n\ndef test_b():\n    assert 1 == 2\n"


def test_pass_and_fail(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, "def test_a():\n    pass\n")[0] == 0
    code, output = run(tmp_path, TWO)
    assert code == 1
    assert "1 failed, 1 passed" in output


def test_no_test_fails(tmp_path: pathlib.Path) -> None:
    code, output = run(tmp_path, "x = 1\n")
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "No test ran" in output


def test_filter_and_arguments(tmp_path: pathlib.Path) -> None:
    code, output = run(tmp_path, TWO, TESTBRIDGE_TEST_ONLY="test_a")
    assert (code, "1 passed, 1 deselected" in output) == (0, True)
    code, output = run(tmp_path, TWO, "-k", "test_a", "--quiet")
    assert (code, "1 passed, 1 deselected" in output) == (0, True)
    assert run(tmp_path, TWO, TESTBRIDGE_TEST_ONLY="neither")[0] != 0


def test_shards_share_the_tests(tmp_path: pathlib.Path) -> None:
    status = tmp_path / "status"
    shard = {"TEST_TOTAL_SHARDS": "2", "TEST_SHARD_STATUS_FILE": str(status)}
    assert run(tmp_path, TWO, TEST_SHARD_INDEX="0", **shard)[0] == 0
    assert run(tmp_path, TWO, TEST_SHARD_INDEX="1", **shard)[0] == 1
    assert status.exists()


def test_xml(tmp_path: pathlib.Path) -> None:
    xml = tmp_path / "test.xml"
    run(tmp_path, TWO, XML_OUTPUT_FILE=str(xml))
    assert 'tests="2"' in xml.read_text()
    assert 'failures="1"' in xml.read_text()


def test_one_thread_and_a_directory_of_its_own() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["HOME"] == os.environ["TEST_TMPDIR"]
    assert os.access(os.environ["HOME"], os.W_OK)
