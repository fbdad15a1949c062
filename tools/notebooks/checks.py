"""What a committed notebook must be: paired, rendered in full, portable, small and readable.

`problems` returns one sentence per fault, each with the way to mend it where there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.notebooks import documents, pages, pairing
from tools.notebooks.documents import METADATA, RECORD, Cell, Notebook, NotebookError
from tools.notebooks.pairing import Pair

MAX_BYTES = 1_000_000

# The sections of a notebook by its `retro: {shape: ...}`; each may be worded as its words allow.
SHAPES: dict[str, tuple[tuple[str, ...], ...]] = {
    "paper": (
        ("question",),
        ("intuition",),
        ("derivation", "deriving"),
        ("experiment",),
        ("ablation", "break"),
        ("claim",),
        ("exercise",),
        ("next",),
    ),
    "guide": (("question",), ("exercise",), ("next",)),
}

_MACHINE_PATH = re.compile(
    r"(?:/(?:home|Users|root|tmp|var/folders|private/var|workspace)/[\w.]|[A-Z]:\\\\?Users"
    r"|site-packages|\.cache/bazel|\.runfiles/)"
)
_MEMORY_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{8,}\b")

Check = Callable[[Notebook], Iterator[str]]


def problems(
    raw: str, text: str | None, name: str, claims: str | None, host: str = ""
) -> list[str]:
    """Return every fault of a notebook as a sentence; none if it may be committed.

    Parameters
    ----------
    raw
        The contents of the .ipynb file.
    text
        The contents of its text notebook, None if it has none.
    name
        The notebook's name, for the messages.
    claims
        The contents of its page of the ledger, None if it has none.
    host
        The name of the machine that rendered it, which must not appear in an output.
    """
    try:
        notebook = documents.parse(raw, f"{name}.ipynb")
        found = [*_pair(notebook, text, name), *_file(raw, notebook, name)]
    except NotebookError as error:
        return [str(error)]
    for check in (_rendered, _order, _outputs, _images, _first_and_last, _sections, _exercises):
        found += check(notebook)
    found += [*_portable(notebook, host), *_claims(notebook, name, claims)]
    return [f"{name}: {sentence}" for sentence in found]


def pair_problems(pair: Pair, host: str = "") -> list[str]:
    """Return the `problems` of a notebook with the two files that belong to it, if they exist."""
    others = (pair.text, pair.claims)
    text, claims = (p.read_text(encoding="utf-8") if p.exists() else None for p in others)
    return problems(pair.notebook.read_text(encoding="utf-8"), text, pair.name, claims, host)


# ---- the pair and the file -------------------------------------------------


def _pair(notebook: Notebook, text: str | None, name: str) -> Iterator[str]:
    mend = f"run 'bazel run //notebooks:sync -- {name}'"
    if text is None:
        yield f"it has no text notebook text/{name}.py; {mend}."
        return
    diff = pairing.difference(text, notebook, name)
    if diff:
        yield f"the .ipynb and its text differ; {mend}.\n{diff}"


def _file(raw: str, notebook: Notebook, name: str) -> Iterator[str]:
    size = len(raw.encode())
    if size > MAX_BYTES:
        yield f"it has {size / 1e6:.2f} MB, more than {MAX_BYTES / 1e6:g}; show fewer figures."
    volatile = set(notebook["metadata"]) - {*METADATA, RECORD, "retro"}
    if volatile or any(notebook["metadata"].get(k) != v for k, v in METADATA.items()):
        yield f"its metadata name one machine's kernel; {_sync(name)}."
    elif raw != documents.dumps(notebook) or not _named(notebook):
        yield f"it is not in the form that the tools write; {_sync(name)}."


def _named(notebook: Notebook) -> bool:
    cells = [dict(cell) for cell in notebook["cells"]]
    documents.name_cells(cells)
    return [c["id"] for c in cells] == [c.get("id") for c in notebook["cells"]]


def _sync(name: str) -> str:
    return f"run 'bazel run //notebooks:sync -- {name}'"


# ---- outputs ---------------------------------------------------------------


def _rendered(notebook: Notebook) -> Iterator[str]:
    record = notebook["metadata"].get(RECORD, {})
    if record.get("profile") != "full":
        yield f"it was rendered in the profile {record.get('profile')!r}, not in full."
    if record.get("rendered") != documents.rendered_fingerprint(notebook):
        yield "its outputs do not come from this code; run 'bazel run //notebooks:render -- NAME'."


def _order(notebook: Notebook) -> Iterator[str]:
    counts = [cell["execution_count"] for cell in documents.code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its code cells ran in the order {counts}, not one after the other."


def _numbered(notebook: Notebook) -> Iterator[tuple[str, Cell]]:
    for number, cell in enumerate(documents.code_cells(notebook), 1):
        yield f"code cell {number}", cell


def _outputs(notebook: Notebook) -> Iterator[str]:
    for label, cell in _numbered(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"{label} stores an error: {output.get('ename')}."
            if output.get("name") == "stderr":
                first = output["text"].strip().splitlines()[:1]
                yield f"{label} wrote to stderr: {' '.join(first)[:100]}"
            data = output.get("data", {})
            if any("widget-view" in mime for mime in data) and "text/html" not in data:
                yield f"{label} shows a widget that has no text/html to stand in for it."


def _images(notebook: Notebook) -> Iterator[str]:
    for label, cell in _numbered(notebook):
        shown = list(documents.images(cell))
        if len(shown) > 1:
            yield f"{label} shows {len(shown)} images; show one per cell, each with its alt text."
        for mime, output in shown:
            if not output.get("metadata", {}).get(mime, {}).get("alt"):
                yield f"{label} shows an image without alt text; use show(figure, alt=...)."
            elif not cell["metadata"].get("mystnb", {}).get("image", {}).get("alt"):
                yield f"{label} lacks its alt text in the cell's metadata; render it again."


def _portable(notebook: Notebook, host: str) -> Iterator[str]:
    for label, cell in _numbered(notebook):
        text = "\n".join(_words(cell))
        for pattern, what in ((_MACHINE_PATH, "a machine's path"), (_MEMORY_ADDRESS, "an address")):
            if match := pattern.search(text):
                around = text[max(0, match.start() - 20) : match.end() + 20]
                yield f"{label} shows {what} in its output: {' '.join(around.split())}"
        if len(host) > 3 and host != "localhost" and re.search(rf"\b{re.escape(host)}\b", text):
            yield f"{label} shows the name of the machine in its output."


def _words(cell: Cell) -> Iterator[str]:
    for output in cell["outputs"]:
        yield str(output.get("text", ""))
        for mime, value in output.get("data", {}).items():
            if not mime.startswith("image/") or mime == "image/svg+xml":
                yield str(value)


# ---- claims ----------------------------------------------------------------


def _claims(notebook: Notebook, name: str, stored: str | None) -> Iterator[str]:
    try:
        wanted = pages.page_text(notebook, name)
    except NotebookError as error:
        yield str(error)
        return
    if wanted is None and _shape(notebook) == "paper":
        yield "it shows no claims; end a cell with claims_table(claims), and render it."
    if wanted != stored:
        yield f"docs/claims/{name}.json does not hold the claims of its outputs; {_sync(name)}."


# ---- the shape -------------------------------------------------------------


def _first_and_last(notebook: Notebook) -> Iterator[str]:
    cells = documents.code_cells(notebook)
    if not cells:
        yield "it has no code."
        return
    for cell, call, which in ((cells[0], "start", "first"), (cells[-1], "finish", "last")):
        if call not in _calls(cell["source"]):
            yield f"its {which} code cell must call {call}()."
        elif not cell["outputs"]:
            yield f"its {which} code cell has no output; render it."


def _calls(source: str) -> set[str]:
    """Return the names that a cell calls: f of f(), and g of a.g()."""
    lines = [line for line in source.splitlines() if not line.startswith(("%", "!"))]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return set()
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {f.id for f in called if isinstance(f, ast.Name)}
    return names | {f.attr for f in called if isinstance(f, ast.Attribute)}


def headings(notebook: Notebook) -> list[tuple[int, str]]:
    """Return the level and text of every heading, code blocks aside."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            prose = re.sub(r"^(```|~~~).*?^\1", "", cell["source"], flags=re.DOTALL | re.MULTILINE)
            found += re.findall(r"^(#{1,6}) +(.+?)\s*$", prose, flags=re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def _sections(notebook: Notebook) -> Iterator[str]:
    retro = notebook["metadata"].get("retro", {})
    shape = _shape(notebook)
    if shape not in SHAPES:
        yield f"its shape {shape!r} is unknown; there are: {', '.join(SHAPES)}."
        return
    for key in ("fast_seconds", "full_seconds"):
        if not isinstance(retro.get(key), int | float):
            yield f"its header states no budget retro: {key}."
    found = headings(notebook)
    if [level for level, _ in found].count(1) != 1 or found[0][0] != 1:
        yield "it must begin with its one title (# ...)."
    titles = [title.lower() for level, title in found if level == 2]
    position = 0
    for words in SHAPES[shape]:
        places = [i for i, title in enumerate(titles) if any(word in title for word in words)]
        if not places:
            yield f"it lacks the section '{words[0]}' (a heading ## with that word)."
        elif max(places) < position:
            yield f"its section '{words[0]}' comes too early."
        else:
            position = min(i for i in places if i >= position)


def _shape(notebook: Notebook) -> str:
    shape: str = notebook["metadata"].get("retro", {}).get("shape", "paper")
    return shape


def _exercises(notebook: Notebook) -> Iterator[str]:
    prose = "\n\n".join(c["source"] for c in notebook["cells"] if c["cell_type"] == "markdown")
    opened = prose.count("<details>")
    if not opened:
        yield "its exercises have no hidden solution (<details>)."
    if opened != prose.count("</details>") or opened != prose.count("</summary>"):
        yield "a hidden solution is <details><summary>...</summary>, its text, </details>."
    elif re.search(r"</summary>[ \t]*\n?[ \t]*\S|\S[ \t]*\n[ \t]*</details>", prose):
        yield "a hidden solution needs an empty line after </summary> and before </details>."


# ---- command line ----------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Check NAME.ipynb with its text and its page of the ledger; return the exit code."""
    files = {Path(a).suffix: Path(a) for a in arguments}
    if len(files) != len(arguments) or not {".py", ".ipynb"} >= set(files):
        sys.exit("usage: checks.py NAME.ipynb [text/NAME.py]")
    if ".ipynb" not in files:
        name = files[".py"].stem
        sys.exit(f"{name} has no outputs yet; run 'bazel run //notebooks:render -- {name}'.")
    notebook = files[".ipynb"]
    text = files.get(".py", notebook.parent / "text" / f"{notebook.stem}.py")
    found = pair_problems(Pair(notebook.stem, text, notebook))
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"{notebook.name}: {len(found)} problems")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
