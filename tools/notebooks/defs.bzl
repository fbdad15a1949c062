"""Tests of the notebooks."""

load("@pypi//:requirements.bzl", "requirement")
load("//tools/python:defs.bzl", "py_test")

def notebook(name, size = "medium", deps = []):
    """Declares NAME_test and NAME_check_test for the notebook NAME.

    NAME_test runs all cells in the fast profile, on one thread and offline, and
    then the hidden solutions of the exercises. NAME_check_test runs nothing: it
    looks at the stored outputs, at the pair of NAME.ipynb and text/NAME.py, and at
    the ledger's docs/claims/NAME.json.

    Args:
      name: the file name of the notebook without its suffix.
      size: size of NAME_test; the fast profile is meant to take 30 seconds.
      deps: what the notebook imports besides the library and its packages.
    """
    pair = native.glob([name + ".ipynb", "text/%s.py" % name], allow_empty = True)
    py_test(
        name = name + "_test",
        size = size,
        # One thread: Bazel itself runs as many tests side by side as there are cores.
        args = ["--profile", "fast", "--threads", "1", "--solutions"],
        data = ["//docs:figures"],
        file_args = [([f for f in pair if f.endswith(".ipynb")] or pair)[0]],
        main = "//tools/notebooks:runner.py",
        tags = ["notebook"],
        deps = deps + [
            "//retro_diffusion",
            "//tools/notebooks",
            requirement("jupyterlab"),
        ],
    )
    py_test(
        name = name + "_check_test",
        size = "small",
        # All pages of the ledger: a label of one that is still to be written would be an error.
        data = ["//docs:claims"],
        file_args = pair,
        main = "//tools/notebooks:checks.py",
        tags = ["notebook"],
        deps = ["//tools/notebooks"],
    )

def notebooks():
    """Declares the tests of every notebook in the package: a new one needs no edit."""
    files = native.glob(["*.ipynb"], allow_empty = True)
    texts = [f[len("text/"):] for f in native.glob(["text/*.py"], allow_empty = True)]
    names = {f.rpartition(".")[0]: None for f in files + texts}
    for name in sorted(names):
        notebook(name)
