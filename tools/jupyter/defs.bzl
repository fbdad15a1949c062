"""A test that a program's requirements are those of a requirements file."""

load("//tools/python:defs.bzl", "py_test")

def requirements_match_test(name, binary, requirements, **kwargs):
    """Holds the requirement(...)s of a target above it in the BUILD file equal to a file.

    Args:
      name: name of the test.
      binary: name of the target.
      requirements: the requirements file.
      **kwargs: any other attribute of py_test.
    """
    rule = native.existing_rule(binary)
    if not rule:
        fail("%s has to stand above %s in the BUILD file" % (binary, name))

    # A label is "@pypi//:torch"; with modules the repository's name is longer.
    listed = [str(dep).split("//:")[1] for dep in rule["deps"] if "pypi//:" in str(dep)]
    py_test(
        name = name,
        srcs = ["requirements_match.py"],
        main = "requirements_match.py",
        file_args = [requirements],
        args = listed,
        **kwargs
    )
