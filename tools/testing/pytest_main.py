"""Runs pytest the way Bazel calls a test: results as XML, filters, shards."""

import os
import pathlib
import sys

import pytest


class Shard:
    """Keeps every n-th test, for targets with `shard_count`."""

    def __init__(self) -> None:
        self.total = int(os.environ.get("TEST_TOTAL_SHARDS") or 1)
        self.index = int(os.environ.get("TEST_SHARD_INDEX") or 0)
        status = os.environ.get("TEST_SHARD_STATUS_FILE")
        if status:
            pathlib.Path(status).touch()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop the tests of the other shards."""
        items[:] = items[self.index :: self.total]


def main(arguments: list[str]) -> int:
    """Run pytest on the files and options in `arguments`; return its exit code."""
    root = pathlib.Path(__file__).parents[2]
    temporary = os.environ.get("TEST_TMPDIR")
    # Hypothesis and pytest both look for CI: the first then draws the same
    # examples every time and keeps no database, the second shows whole diffs.
    os.environ["CI"] = "true"
    options = [
        "--rootdir",
        str(root),
        "-p",
        "no:cacheprovider",
        "-ra",
        "--durations=5",
        "--color=no",
    ]
    options += ["-c", str(root / "pyproject.toml")]
    if temporary:
        options += ["--basetemp", os.path.join(temporary, "pytest")]
    if os.environ.get("XML_OUTPUT_FILE"):
        options += ["--junitxml", os.environ["XML_OUTPUT_FILE"]]
    if os.environ.get("TESTBRIDGE_TEST_ONLY"):
        options += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]

    shard = Shard()
    code = pytest.main(options + arguments, plugins=[shard])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        if shard.total > 1:
            return 0
        print("No test ran: the file has none, or the filter leaves none.", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
