"""Repository rules that set Python up from hash-pinned locks.

Four repositories, each made only when a target needs it:

* `@uv`              the uv installer, and the host's Python that everything runs on;
* `@pypi`            one virtualenv with requirements_lock.txt;
* `@pypi_dev`        a directory with what only tests and lint need, which targets
                     put on top of `@pypi` by naming a `dev_requirement(...)`;
* `@pypi_benchmark`  another such layer, with the libraries that the speed
                     benchmark measures against: `benchmark_requirement(...)`.

Everything is plain Starlark and pip, so that a package index is the only
network these rules need.
"""

_SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]

_OVERRIDE = "RETRO_DIFFUSION_PYTHON"

# Prints the version and the real interpreter: a virtualenv that happens to be
# active may be deleted later, the Python it was made from stays.
_PROBE = "import sys; print('%d.%d' % sys.version_info[:2], getattr(sys, '_base_executable', '') or sys.executable)"

def _run(rctx, what, arguments, quiet = True):
    """Runs a command; on failure stops with what it was for and its output."""
    rctx.report_progress(what)
    result = rctx.execute(arguments, timeout = 7200, quiet = quiet)
    if result.return_code:
        fail("%s failed (exit code %d).\n%s%s" % (what, result.return_code, result.stdout, result.stderr))
    return result.stdout

def _probe(rctx, program):
    """Returns (version, real path) of a Python interpreter, or None."""
    result = rctx.execute([program, "-I", "-c", _PROBE], timeout = 60)
    if result.return_code:
        return None
    version, _, path = result.stdout.strip().partition(" ")
    return (version, path)

def _host_python(rctx):
    """Returns the path of the Python to use: the override, else the host's first supported one."""
    wanted = "Retro Diffusion needs Python " + ", ".join(_SUPPORTED[:-1]) + " or " + _SUPPORTED[-1]
    override = rctx.os.environ.get(_OVERRIDE)
    if override:
        program = override if "/" in override else rctx.which(override)
        found = _probe(rctx, program) if program else None
        if not found:
            fail("%s=%s is not a Python that runs. %s." % (_OVERRIDE, override, wanted))
        if found[0] not in _SUPPORTED:
            fail("%s=%s is Python %s. %s." % (_OVERRIDE, override, found[0], wanted))
        return found[1]

    seen = []
    for name in ["python3"] + ["python" + v for v in _SUPPORTED] + ["python"]:
        program = rctx.which(name)
        found = _probe(rctx, program) if program else None
        if found and found[0] in _SUPPORTED:
            return found[1]
        if found:
            seen.append("%s is %s" % (program, found[0]))
    fail("%s; on the PATH: %s. Install one of them, or point %s at one." % (
        wanted,
        ", ".join(seen) or "no Python at all",
        _OVERRIDE,
    ))

def _uv_impl(rctx):
    python = _host_python(rctx)
    lock = str(rctx.path(rctx.attr.lock))

    # A throw-away virtualenv brings pip where the host's Python has none.
    venv = rctx.execute([python, "-m", "venv", "bootstrap"], timeout = 600)
    pip = "bootstrap/bin/python" if not venv.return_code else python
    if rctx.execute([pip, "-m", "pip", "--version"], timeout = 60).return_code:
        fail("%s has neither venv nor pip. Install its venv module (Debian and Ubuntu: apt-get install python3-venv)." % python)
    _run(rctx, "Installing uv", [
        pip,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--target=lib",
        "--requirement=" + lock,
    ])

    # Python 3.14 leaves a non-ASCII file name in there, which crashes Bazel
    # under an ASCII locale.
    rctx.delete("bootstrap")
    rctx.symlink("lib/bin/uv", "uv")
    rctx.file("uv_path.txt", str(rctx.path("lib/bin/uv")) + "\n", executable = False)
    rctx.file("python_path.txt", python + "\n", executable = False)
    rctx.file(
        "BUILD.bazel",
        'exports_files(["uv", "uv_path.txt", "python_path.txt"])\n',
        executable = False,
    )

uv_repository = repository_rule(
    implementation = _uv_impl,
    attrs = {
        "lock": attr.label(mandatory = True, doc = "The hash-pinned lock of uv itself."),
    },
    environ = [_OVERRIDE],
    doc = "uv, installed by the host's pip, and the path of the host's Python.",
)

def _uv_install(rctx, python, *options):
    lock = rctx.path(rctx.attr.lock)
    _run(rctx, "Installing " + lock.basename, [
        str(rctx.path(rctx.attr.uv)),
        "pip",
        "install",
        "--system-certs",
        "--python=" + python,
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--compile-bytecode",
        "--requirement=" + str(lock),
    ] + list(options), quiet = False)

def _locked_names(text):
    """Returns the package names of a lock, sorted."""
    names = {}
    for line in text.split("\n"):
        if "==" in line and line[0] not in "# -":
            names[line.split("==")[0].strip()] = True
    return sorted(names)

_REQUIREMENTS_BZL = '''"""Labels of the packages in {lock}."""

_NAMES = {names}

def {function}(name):
    """Returns the label of a locked package; fails for one that is not in the lock."""
    normal = name.lower().replace("_", "-").replace(".", "-")
    if normal not in _NAMES:
        fail("%s is not in {lock}: add it to {source} and run `bazel run requirements.update`" % name)
    return "@{repository}//:" + normal
'''

def _write_packages(rctx, repository, function, source, marker):
    """Writes a BUILD file with one target per locked package, and requirements.bzl.

    The installed files are not inputs that Bazel tracks (there are 35,000).
    Every target stands for the whole directory through two small files: the
    path of it, and a copy of the lock it was made from.
    """
    text = rctx.read(rctx.path(rctx.attr.lock))
    names = _locked_names(text)
    rctx.file("lock.txt", text, executable = False)
    rctx.file("BUILD.bazel", "\n".join([
        'package(default_visibility = ["//visibility:public"])',
        'exports_files(["%s"])' % marker,
        'filegroup(name = "all", srcs = ["%s", "lock.txt"])' % marker,
    ] + ['filegroup(name = "%s", srcs = [":all"])' % name for name in names]) + "\n", executable = False)
    rctx.file("requirements.bzl", _REQUIREMENTS_BZL.format(
        function = function,
        lock = rctx.attr.lock.name,
        names = names,
        repository = repository,
        source = source,
    ), executable = False)

def _pypi_impl(rctx):
    host = rctx.read(rctx.path(rctx.attr.python)).strip()
    uv = str(rctx.path(rctx.attr.uv))
    _run(rctx, "Creating a virtualenv", [uv, "venv", "--quiet", "--no-config", "--python=" + host, "venv"])
    python = str(rctx.path("venv/bin/python"))
    _uv_install(rctx, python)
    rctx.file("python_path.txt", python + "\n", executable = False)
    _write_packages(rctx, "pypi", "requirement", "requirements.in", "python_path.txt")

def _pypi_layer_impl(rctx):
    host = rctx.read(rctx.path(rctx.attr.python)).strip()
    _uv_install(rctx, host, "--target=site")
    rctx.file("site_path.txt", str(rctx.path("site")) + "\n", executable = False)
    layer = rctx.attr.layer
    _write_packages(
        rctx,
        "pypi_" + layer,
        layer + "_requirement",
        "tools/requirements/%s.in" % layer,
        "site_path.txt",
    )

_INSTALL_ATTRS = {
    "lock": attr.label(mandatory = True, doc = "The hash-pinned lock to install."),
    "python": attr.label(default = "@uv//:python_path.txt", doc = "File that names the host's Python."),
    "uv": attr.label(default = "@uv//:uv"),
}

pypi_repository = repository_rule(
    implementation = _pypi_impl,
    attrs = _INSTALL_ATTRS,
    doc = "One virtualenv with everything in the lock, and `requirement(name)` in requirements.bzl.",
)

pypi_layer_repository = repository_rule(
    implementation = _pypi_layer_impl,
    attrs = dict(
        _INSTALL_ATTRS,
        layer = attr.string(mandatory = True, doc = "The LAYER of LAYER_requirement and of LAYER.in."),
    ),
    doc = "One site directory to put on top of @pypi, and `LAYER_requirement(name)` in requirements.bzl.",
)

def _coverage_stub_impl(rctx):
    rctx.file("WORKSPACE", executable = False)
    rctx.file("none.sh", "#!/bin/sh\nexit 1\n")
    rctx.file(
        "BUILD.bazel",
        'filegroup(name = "coverage_report_generator", srcs = ["none.sh"], visibility = ["//visibility:public"])\n',
        executable = False,
    )

coverage_stub = repository_rule(
    implementation = _coverage_stub_impl,
    doc = "An empty stand-in for Bazel's coverage reporter.",
)

def python_repositories():
    """Declares @uv, @pypi and the layers on top of @pypi."""
    uv_repository(
        name = "uv",
        lock = "//tools/python:uv_lock.txt",
    )
    pypi_repository(
        name = "pypi",
        lock = "//:requirements_lock.txt",
    )
    pypi_layer_repository(
        name = "pypi_dev",
        layer = "dev",
        lock = "//tools/requirements:dev_lock.txt",
    )
    pypi_layer_repository(
        name = "pypi_benchmark",
        layer = "benchmark",
        lock = "//tools/requirements:benchmark_lock.txt",
    )
