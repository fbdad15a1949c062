"""The Python repositories as a module extension, for Bazel 7 and later."""

load("//tools/python:repositories.bzl", "python_repositories")

def _python_impl(_module_ctx):
    python_repositories()

python = module_extension(
    implementation = _python_impl,
    doc = "Declares @uv, @pypi and the layers on top of @pypi; see repositories.bzl.",
)
