"""Tests that pytest runs."""

load("//tools/python:defs.bzl", "py_test")

def pytest_test(name, srcs, deps = [], env = {}, **kwargs):
    """Runs test files with pytest.

    `--test_filter=EXPRESSION` selects as pytest's `-k` does, `--test_arg=ARG`
    hands ARG to pytest. A file in which pytest finds no test fails.

    Args:
      name: name of the test target.
      srcs: the test files.
      deps: what they import; pytest itself comes with the macro.
      env: environment variables. One thread per process unless it says
        otherwise: Bazel itself runs tests side by side, and sums over a fixed
        number of threads come out the same every time.
      **kwargs: any other attribute of py_test, such as size, tags or data.
    """
    py_test(
        name = name,
        srcs = srcs,
        main = "//tools/testing:pytest_main.py",
        file_args = srcs,
        deps = deps + ["//tools/testing:pytest_main"],
        env = dict({
            "MKL_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }, **env),
        **kwargs
    )

def pytest_tests(srcs, sizes = {}, **kwargs):
    """Declares one pytest_test per file, named like the file without its `.py`.

    Args:
      srcs: the test files, usually a glob.
      sizes: size by target name, for those that are not "medium" (five minutes at
        most, which leaves room for a busy machine).
      **kwargs: any other attribute of pytest_test, the same for all.
    """
    names = [src[:-len(".py")] for src in srcs]
    for name in sizes:
        if name not in names:
            fail("sizes names %s, but there is no %s.py" % (name, name))
    for name, src in zip(names, srcs):
        pytest_test(
            name = name,
            size = sizes.get(name, "medium"),
            srcs = [src],
            **kwargs
        )
