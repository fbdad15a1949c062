"""The targets that write and check the locks."""

load("//tools/python:defs.bzl", "py_binary", "py_test")

def requirements(name, locks):
    """Declares NAME.update, which rewrites the locks, and NAME_test, which checks them.

    Both run on the host's Python and on uv alone, so that a broken lock can be
    mended without the packages in it.

    Args:
      name: prefix of the two targets.
      locks: the locks and the files they are compiled from.
    """
    common = {
        "data": ["@uv//:uv_path.txt"],
        "main": "//tools/requirements:locks.py",
        "python": "@uv//:python_path.txt",
    }
    py_binary(
        name = name + ".update",
        args = ["update", "$(rootpath @uv//:uv_path.txt)"],
        **common
    )
    py_test(
        name = name + "_test",
        size = "small",
        args = ["check", "$(rootpath @uv//:uv_path.txt)"],
        tags = ["requires-network"],
        **dict(common, data = common["data"] + locks)
    )
