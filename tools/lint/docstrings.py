"""Checks what ruff cannot: that the library's docstrings agree with its signatures.

For every public function and method of the library

* a "Parameters" section names all the parameters, and no other;
* with such a section, a function that returns something says what ("Returns"
  or "Yields"), and an error that its own body raises is under "Raises";
* from five parameters on there has to be a "Parameters" section;
* tensors have shapes: a function that takes or returns one says "shape", or
  writes one like (B, *D), in its docstring or in the docstring of its class.
  Only times, `t` and `s`, need none: they are () or (B,) everywhere.

A method that overrides a documented one may be brief: it keeps the promise
that is written there. So may a dunder method and a nested function.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef

OWED_FROM = 5  # parameters
TIMES = ("t", "s")
SHAPE = re.compile(r"\bshapes?\b|\([A-Zn*][\w*]*,|\(\)", re.IGNORECASE)
SECTION = re.compile(
    r"^(\w[\w ]*)\n-{3,}\n(.*?)(?=^\w[\w ]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Documented:
    """A public function, and what is known about where it stands."""

    node: Function
    qualified_name: str
    class_docstring: str
    overrides: bool


def sections(docstring: str) -> dict[str, str]:
    """Split a numpydoc docstring into its sections; the text before them is not one."""
    return {match[1]: match[2] for match in SECTION.finditer(docstring)}


def parameters(node: Function) -> list[ast.arg]:
    """List a function's parameters, without self and cls."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    variadic = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [a for a in named + variadic if a.arg not in ("self", "cls")]


def documented_names(section: str) -> list[str]:
    """List the names that a Parameters section describes."""
    names = []
    for line in section.splitlines():
        if line and not line[0].isspace():
            names += [name.strip().lstrip("*") for name in line.split(" :")[0].split(",")]
    return [name for name in names if name]


def raised_names(node: ast.AST) -> Iterator[str]:
    """Yield the classes of the errors a body raises itself, not in functions within it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
            yield ast.unparse(child.exc.func).split(".")[-1]
        yield from raised_names(child)


def is_tensor(annotation: ast.expr | None) -> bool:
    """Tell whether an annotation names a tensor itself, not merely a function of tensors."""
    return (
        annotation is not None
        and re.match(r"(torch\.)?Tensor( \| None)?$", ast.unparse(annotation)) is not None
    )


def public_functions(tree: ast.Module, method_names: dict[str, int]) -> Iterator[Documented]:
    """Yield the public functions of a module and the methods of its public classes.

    Parameters
    ----------
    tree
        The module.
    method_names
        How many documented classes of the library define a method of that name.

    Yields
    ------
    Documented
        Functions with a docstring; ruff reports those without.
    """
    for statement in tree.body:
        if isinstance(statement, Function) and not statement.name.startswith("_"):
            yield Documented(statement, statement.name, "", overrides=False)
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
            class_docstring = ast.get_docstring(statement) or ""
            for node in statement.body:
                if isinstance(node, Function) and not node.name.startswith("_"):
                    overrides = bool(statement.bases) and method_names.get(node.name, 0) > 1
                    name = f"{statement.name}.{node.name}"
                    yield Documented(node, name, class_docstring, overrides)


def problems(function: Documented) -> Iterator[str]:
    """Yield what a function's docstring lacks, one phrase each."""
    node = function.node
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    names = [argument.arg for argument in parameters(node)]
    found = sections(docstring)
    if "Parameters" in found:
        described = documented_names(found["Parameters"])
        for name in names:
            if name not in described:
                yield f'"Parameters" lacks {name}'
        for name in described:
            if name not in names:
                yield f'"Parameters" has {name}, which is not a parameter'
        returned = ast.unparse(node.returns) if node.returns else "None"
        if (
            returned not in ("None", "NoReturn", "Never")
            and not {"Returns", "Yields"} & found.keys()
        ):
            yield 'there is no "Returns" or "Yields" section'
        for error in sorted(set(raised_names(node)) - {"NotImplementedError"}):
            if error not in found.get("Raises", ""):
                yield f'"Raises" lacks {error}'
    elif len(names) >= OWED_FROM and not function.overrides:
        yield f'{len(names)} parameters and no "Parameters" section'
    tensors = [a.annotation for a in parameters(node) if a.arg not in TIMES] + [node.returns]
    text = docstring + function.class_docstring
    if any(map(is_tensor, tensors)) and not function.overrides and not SHAPE.search(text):
        yield "it takes or returns a tensor and says no shape"


def main(paths: list[str]) -> int:
    """Check the given modules; return 1 if any docstring is found wanting."""
    trees = {path: ast.parse(pathlib.Path(path).read_text(encoding="utf-8")) for path in paths}
    method_names: dict[str, int] = {}
    for tree in trees.values():
        for statement in tree.body:
            if isinstance(statement, ast.ClassDef):
                for node in statement.body:
                    if isinstance(node, Function):
                        method_names[node.name] = method_names.get(node.name, 0) + 1
    count = 0
    for path, tree in trees.items():
        for function in public_functions(tree, method_names):
            for problem in problems(function):
                count += 1
                print(f"{path}:{function.node.lineno}: {function.qualified_name}: {problem}")
    print(f"{len(trees)} modules, {count} problems")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
