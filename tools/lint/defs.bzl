"""Tests that run a linter over all sources."""

load("//tools/python:defs.bzl", "py_test")

def lint_test(name, check, deps = [], tags = [], **kwargs):
    """Declares a test that runs one of lint.py's checks.

    Args:
      name: name of the test.
      check: name of the check.
      deps: what the linter needs besides itself.
      tags: tags of the test; "lint" is added.
      **kwargs: any other attribute of py_test.
    """
    py_test(
        name = name,
        args = [check],
        main = "//tools/lint:lint.py",
        data = ["//tools/lint:all_sources"],
        deps = deps + ["//tools/lint"],
        tags = tags + ["lint"],
        **kwargs
    )
