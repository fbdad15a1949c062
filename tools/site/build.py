"""Build the site of the survey post: chapters, notebooks with their outputs, equations, API, ledger.

    bazel build //docs:site
    bazel run //docs:serve

Everything is put together in a temporary folder and given to Sphinx; a warning is an error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sphinx.cmd.build import build_main

from retro_diffusion import claims
from tools.benchmark import report
from tools.site import backlinks, papers, registry
from tools.site.registry import Equation

HERE = Path(__file__).parent

# The library's pages; a package shows what its __init__ offers.
MODULES = (
    "schedules",
    "times",
    "parameterizations",
    "denoiser",
    "reverse",
    "samplers",
    "oracles",
    "losses",
    "importance",
    "learned_schedule",
    "likelihood",
    "flow",
    "integrate",
    "training",
    "devices",
    "distributed",
    "networks",
    "data",
    "evaluation",
    "discrete",
    "plotting",
    "claims",
)


# ---- pages that are written here -------------------------------------------


def equations_page(equations: Sequence[Equation], root: Path) -> str:
    """Return the page that shows, for every labelled equation, the source of its tests."""
    verified = sum(bool(e.tests) for e in equations)
    lines = [
        "# The equations and their tests",
        "",
        f"{len(equations)} labelled equations, {verified} of them verified by a test that would fail if "
        "the equation were wrong. The others say why not.",
        "",
    ]
    chapter = ""
    for equation in equations:
        if equation.chapter != chapter:
            chapter = equation.chapter
            lines += [f"## {{doc}}`/post/{chapter}`", ""]
        lines += _entry(equation, root)
    return "\n".join(lines)


def _entry(equation: Equation, root: Path) -> Iterator[str]:
    places = []
    if equation.code:
        places.append(f"in the library {{py:obj}}`{equation.code}`")
    if equation.notebook:
        places.append(f"run in {backlinks.place(root / 'notebooks', equation)}")
    yield f"({equation.label}-tests)="
    yield f"Equation {{eq}}`{equation.label}`{': ' if places else ''}{', '.join(places)}"
    yield ""
    if equation.waiver:
        yield from (f"Not tested: {equation.waiver}.", "")
    for test in equation.tests:
        yield f":::{{dropdown}} `{test}`"
        yield from ("```python", registry.source(root, test), "```", ":::", "")


def ledger_page(pages: Sequence[claims.Page]) -> str:
    """Return the page of all claims, notebook by notebook, verdicts as they fell."""
    lines = ["# The claim ledger", "", f"In all: {claims.summary(pages)}.", ""]
    for page in pages:
        lines += [
            f"## {page.paper or page.notebook}",
            "",
            f"{{doc}}`/notebooks/{page.notebook}`",
            "",
        ]
        lines += ["```{raw} html", claims.claims_table(page.claims)._repr_html_(), "```", ""]
    return "\n".join(lines)


def module_page(module: str) -> str:
    """Return a page of the library."""
    name = f"retro_diffusion.{module}"
    lines = [f"# `{name}`", "", "```{eval-rst}", f".. automodule:: {name}", "   :members:"]
    spec = importlib.util.find_spec(name)
    if spec and spec.submodule_search_locations:  # a package
        lines.append("   :imported-members:")
    return "\n".join([*lines, "```", ""])


def library_page() -> str:
    """Return the index of the library's pages."""
    entries = "\n".join(MODULES)
    return (
        "# The library\n\nOne idea carries it: a prediction is a pair `(x0, eps)` with `x_t = alpha x0 + "
        "sigma eps`. Schedules give the coefficients, denoisers the pair, samplers walk.\n\n"
        f"```{{toctree}}\n{entries}\n```\n"
    )


# ---- the folder that Sphinx reads ------------------------------------------


def prepare(root: Path, out: Path) -> None:
    """Put together everything that the site is made of.

    Parameters
    ----------
    root
        The repository's root: docs, notebooks and the library's sources.
    out
        An empty folder.

    Raises
    ------
    ValueError
        If the registry of equations, the papers or the ledger are not as they must be.
    """
    equations = registry.read(root / "docs" / "post")
    reviewed = papers.read(root)
    pages = claims.load(root / "docs" / "claims")
    shutil.copytree(
        root / "docs" / "post", out / "post", ignore=shutil.ignore_patterns("*_test.py")
    )
    shutil.copytree(HERE / "static", out / "_static")
    for vendored in ("katex", "tippy"):
        shutil.copytree(HERE / vendored, out / "_static" / vendored)
    for path in (root / "docs").glob("*.md"):
        shutil.copy(path, out)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = backlinks.annotated(path.parent, path.stem, equations)
        _write(out / "notebooks" / path.name, json.dumps(notebook))
    bibliography = sorted((root / "docs" / "post").glob("*.bib"))
    _write(out / "references.bib", "\n".join(p.read_text(encoding="utf-8") for p in bibliography))
    _write(out / "equations.md", equations_page(equations, root))
    _write(out / "ledger.md", ledger_page(pages))
    _write(out / "library" / "index.md", library_page())
    for module in MODULES:
        _write(out / "library" / f"{module}.md", module_page(module))
    generated = out / "_generated"
    score = claims.summary(pages)
    _write(generated / "score.md", f"{score.total} claims: {score}.\n")
    _write(generated / "timeline.md", papers.timeline(reviewed))
    _write(generated / "papers.md", papers.table(reviewed))
    shutil.copytree(root / "docs" / "benchmark", out / "benchmark")
    measured = json.loads((out / "benchmark" / "benchmark.json").read_text(encoding="utf-8"))
    _write(out / "measurements.md", report.page(measured))
    _write(generated / "speed.md", report.overview(measured))
    registered = {e.label: {k: v for k, v in asdict(e).items() if v} for e in equations}
    _write(generated / "equations.json", json.dumps(registered))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(root: Path, out: Path) -> int:
    """Build the site of a checkout into a folder; return Sphinx's exit code."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = work / "source"
        source.mkdir()
        prepare(root, source)
        shutil.copy(HERE / "conf.py", source)
        options = ["--fail-on-warning", "--keep-going", "--quiet", "--jobs", "2"]
        return build_main([*options, "-d", str(work / "doctrees"), str(source), str(out)])


# ---- command line ----------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Build what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the checkout")
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args(arguments)
    try:
        return build(options.root.resolve(), options.out.resolve())
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
