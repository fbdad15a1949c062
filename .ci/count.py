"""Prints `N passed, N failed` for a run of `bazel test`, as its last line.

Bazel's log names every test target and its result; the XML that a target left
names its test cases. A target that failed without a failing case, or that
never ran, counts as one failure, and so does a build that failed altogether.
"""

import pathlib
import re
import sys
import xml.etree.ElementTree

RESULT = re.compile(
    r"^//(?P<package>[^:\s]*):(?P<name>\S+)\s+(?:\(cached\) )?"
    r"(?P<result>PASSED|FLAKY|FAILED TO BUILD|FAILED|TIMEOUT|INCOMPLETE|NO STATUS)",
    re.MULTILINE,
)


def cases(folder: pathlib.Path) -> tuple[int, int, int]:
    """Count the cases that passed, failed and were skipped in the XML of one target."""
    passed = failed = skipped = 0
    for path in sorted(folder.rglob("test.xml")):
        for case in xml.etree.ElementTree.parse(path).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    return passed, failed, skipped


def main() -> None:
    """Count the results in Bazel's log, the first argument, with the XML in the second."""
    log, testlogs, status = sys.argv[1:]
    results = {
        (match["package"], match["name"]): match["result"]
        for match in RESULT.finditer(pathlib.Path(log).read_text(errors="replace"))
    }
    passed = failed = skipped = 0
    for (package, name), result in results.items():
        good = result in ("PASSED", "FLAKY")
        try:
            counts = cases(pathlib.Path(testlogs, package, name))
        except xml.etree.ElementTree.ParseError:  # cut short
            counts = (0, 0, 0)
        if good:
            # Bazel's own XML for a plain program has one case.
            counts = (max(counts[0], 0 if counts[2] else 1), 0, counts[2])
        else:
            counts = (counts[0] if counts[1] else 0, max(counts[1], 1), counts[2])
        passed += counts[0]
        failed += counts[1]
        skipped += counts[2]
    if status != "0" and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))


if __name__ == "__main__":
    main()
