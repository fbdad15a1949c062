"""Checks that a BUILD file lists the same packages as a requirements file."""

import pathlib
import re
import sys


def normal(name: str) -> str:
    """Return the one spelling of a package's name that package indexes use."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Compare the file, the first argument, with the names, all others."""
    path = pathlib.Path(sys.argv[1])
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = {normal(re.split(r"[\s<>=!~;\[]", line)[0]) for line in lines if line}
    listed = {normal(name) for name in sys.argv[2:]}
    for name in sorted(wanted - listed):
        print(
            f'{path.name} has {name}: add requirement("{name}") to jupyterlab in //tools/jupyter:BUILD'
        )
    for name in sorted(listed - wanted):
        print(f"jupyterlab in //tools/jupyter:BUILD has {name}, which {path.name} lacks")
    return 0 if wanted == listed else 1


if __name__ == "__main__":
    sys.exit(main())
