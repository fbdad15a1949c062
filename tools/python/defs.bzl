"""py_library, py_binary and py_test.

Programs run on the virtualenv in @pypi, which holds all locked packages.
`requirement("torch")` in `deps` says that a target needs a package and makes
the lock an input of it; `dev_requirement("pytest")` also puts the directory of
test-only packages on the program's path, `benchmark_requirement("diffusers")`
that of the benchmark's peers.
"""

PythonInfo = provider(
    doc = "What a Python target and everything below it needs at run time.",
    fields = {
        "files": "depset of files to put in the runfiles: sources, data, locks.",
        "site_paths": "depset of files that each name a directory of further packages.",
    },
)

def _collect(ctx):
    """Returns the PythonInfo of a target's own files and of its dependencies."""
    files = []
    sites = []
    direct_sites = []
    for dep in ctx.attr.deps:
        if PythonInfo in dep:
            files.append(dep[PythonInfo].files)
            sites.append(dep[PythonInfo].site_paths)
        else:
            files.append(dep[DefaultInfo].files)
            direct_sites += [f for f in dep[DefaultInfo].files.to_list() if f.basename == "site_path.txt"]
    for data in ctx.attr.data:
        files.append(data[DefaultInfo].default_runfiles.files)
    return PythonInfo(
        files = depset(ctx.files.srcs + ctx.files.data, transitive = files),
        site_paths = depset(direct_sites, transitive = sites),
    )

def _py_library_impl(ctx):
    info = _collect(ctx)
    return [
        info,
        DefaultInfo(files = depset(ctx.files.srcs), runfiles = ctx.runfiles(transitive_files = info.files)),
    ]

_LIBRARY_ATTRS = {
    "srcs": attr.label_list(
        allow_files = [".py"],
        doc = "Python sources, imported by their path from the repository's root.",
    ),
    "deps": attr.label_list(
        allow_files = True,
        doc = "py_library targets, requirement(...) and dev_requirement(...) labels.",
    ),
    "data": attr.label_list(
        allow_files = True,
        doc = "Files and programs to find beside the sources at run time.",
    ),
}

py_library = rule(
    implementation = _py_library_impl,
    attrs = _LIBRARY_ATTRS,
    doc = "Python sources for other targets to depend on.",
)

def _quote(text):
    return "'" + text.replace("'", "'\\''") + "'"

def _main_file(ctx):
    if ctx.file.main:
        return ctx.file.main
    named = [f for f in ctx.files.srcs if f.basename == ctx.label.name.split("/")[-1] + ".py"]
    if named:
        return named[0]
    if len(ctx.files.srcs) == 1:
        return ctx.files.srcs[0]
    fail("%s: say which file to run with `main`" % ctx.label)

def _py_program_impl(ctx):
    main = _main_file(ctx)
    info = _collect(ctx)
    launcher = ctx.actions.declare_file(ctx.label.name)

    # Defaults: --test_env, or the caller's environment in `bazel run`, win.
    env = ["[ -n \"${%s+set}\" ] || export %s=%s" % (k, k, _quote(v)) for k, v in ctx.attr.env.items()]
    ctx.actions.expand_template(
        template = ctx.file._launcher,
        output = launcher,
        is_executable = True,
        substitutions = {
            "%{args}": "".join([' "$root/%s"' % f.short_path for f in ctx.files.file_args]),
            "%{env}": "\n".join(env),
            "%{main}": main.short_path,
            "%{python_path}": ctx.file.python.short_path,
            "%{site_paths}": " ".join([f.short_path for f in info.site_paths.to_list()]),
            "%{workspace}": ctx.workspace_name,
        },
    )
    files = depset(
        [main, ctx.file.python] + ctx.files.file_args,
        transitive = [info.files, info.site_paths],
    )
    return [DefaultInfo(executable = launcher, runfiles = ctx.runfiles(transitive_files = files))]

_PROGRAM_ATTRS = dict(
    _LIBRARY_ATTRS,
    main = attr.label(
        allow_single_file = [".py"],
        doc = "The file to run; if left out, the source named like the target, or the only one.",
    ),
    file_args = attr.label_list(
        allow_files = True,
        doc = "Files whose absolute paths are the program's first arguments, before `args`.",
    ),
    env = attr.string_dict(
        doc = "Environment variables to set unless they are set already.",
    ),
    python = attr.label(
        default = "@pypi//:python_path.txt",
        allow_single_file = True,
        doc = "File that names the interpreter: @pypi's, or @uv's for tools that need no package.",
    ),
    _launcher = attr.label(default = "//tools/python:launcher.sh.tpl", allow_single_file = True),
)

py_binary = rule(
    implementation = _py_program_impl,
    attrs = _PROGRAM_ATTRS,
    executable = True,
    doc = "A program for `bazel run`.",
)

py_test = rule(
    implementation = _py_program_impl,
    attrs = _PROGRAM_ATTRS,
    test = True,
    doc = "A program for `bazel test`: passes if it exits with 0.",
)
