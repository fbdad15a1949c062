"""Run one notebook from a clean namespace, offline, and report where it fails.

The cells run in this process, in an IPython shell that keeps what a Jupyter kernel would send: no
kernel to start, no sockets, and the outputs are the same.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import faulthandler
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.notebooks import documents, pairing
from tools.notebooks.documents import Cell, Notebook, NotebookError

OnCell = Callable[[int, int, float, str], None]
"""Called after each code cell: its number, the number of cells, its seconds, its first line."""

# The model of a widget lives in the kernel: a saved notebook that pointed to it would show an error.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

_SOLUTION = re.compile(r"<details>(.*?)</details>", re.DOTALL)
_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


class CellError(NotebookError):
    """A cell that raised; the message has its number and the traceback."""


# ---- surroundings ----------------------------------------------------------


@contextlib.contextmanager
def surroundings(profile: str, threads: int, render: bool = False) -> Iterator[None]:
    """Give a notebook a home, a working directory and settings of its own for a while.

    Call it before anything imports Matplotlib or torch: both read the environment when they start.
    """
    scratch = Path(tempfile.mkdtemp(prefix="notebook-"))
    home = scratch / "home"
    home.mkdir()
    (scratch / "work").mkdir()
    counted = dict.fromkeys(
        ("RETRO_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        str(threads),
    )
    settings = counted | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "IPYTHONDIR": str(home / "ipython"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "RETRO_DEVICE": "cpu",
        "RETRO_PROFILE": profile,
        "RETRO_RENDER": "1" if render else "0",
        "TQDM_DISABLE": "1",
    }
    before, folder = dict(os.environ), Path.cwd()
    os.environ.update(settings)
    os.chdir(scratch / "work")
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(scratch, ignore_errors=True)


class Network:
    """Refuses connections that leave the machine, for as long as the process lives."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]
        else:
            return
        if not _is_local(host):
            self.attempts.append(_as_text(host))
            raise ConnectionError(f"notebooks run offline, so {_as_text(host)} is out of reach")


def _as_text(host: Any) -> str:
    return host.decode(errors="replace") if isinstance(host, bytes) else str(host)


def _is_local(host: Any) -> bool:
    name = _as_text(host) if host else ""
    return name in ("", "localhost", "::1", "0.0.0.0", "::") or name.startswith("127.")


# ---- outputs ---------------------------------------------------------------


@dataclass
class Outputs:
    """What the running cell has put out, in the notebook format."""

    items: list[dict[str, Any]] = field(default_factory=list)
    by_display_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    clear_next: bool = False

    def begin(self) -> None:
        """Start an empty list for the next cell."""
        self.items, self.clear_next = [], False

    def clear(self, wait: bool) -> None:
        """Drop the cell's outputs: at once, or when the next one arrives."""
        if wait:
            self.clear_next = True
        else:
            self.begin()

    def add(self, output: dict[str, Any]) -> None:
        """Append an output; text goes on in the stream before it if that has the same name."""
        if self.clear_next:
            self.begin()
        last = self.items[-1] if self.items else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            self.items.append(output)

    def publish(
        self,
        kind: str,
        data: dict[str, Any],
        metadata: dict[str, Any] | None,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Append rich output, or replace the one shown under the same display id."""
        bundle = {mime: _jsonable(value) for mime, value in data.items() if mime != WIDGET_VIEW}
        output = {"output_type": kind, "data": bundle, "metadata": metadata or {}}
        if update and display_id in self.by_display_id:
            self.by_display_id[display_id].update(data=bundle, metadata=metadata or {})
        elif not update:
            self.add(output)
            if display_id:
                self.by_display_id[display_id] = output


def _jsonable(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


class Stream(io.TextIOBase):
    """Standard output or error of the running cell."""

    def __init__(self, name: str, outputs: Outputs) -> None:
        self.name = name
        self.outputs = outputs

    def write(self, text: str) -> int:
        """Append the text to the cell's outputs."""
        if text:
            self.outputs.add({"output_type": "stream", "name": self.name, "text": text})
        return len(text)

    def writable(self) -> bool:
        """Say that this stream takes text."""
        return True


def without_progress(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs less the lines that a progress bar redraws with carriage returns."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream":
            lines = output["text"].replace("\r\n", "\n").splitlines(keepends=True)
            text = "".join(_merge_redrawn(lines))
            if text.strip():
                kept.append(output | {"text": text})
        else:
            kept.append(output)
    return kept


def _merge_redrawn(pieces: list[str]) -> Iterator[str]:
    """Drop every line with a carriage return; ``splitlines`` cuts at those too, so join first."""
    for line in re.findall(r"[^\n]*\n|[^\n]+", "".join(pieces)):
        if "\r" not in line:
            yield line


# ---- the shell -------------------------------------------------------------


def make_shell(outputs: Outputs) -> Any:
    """Return an IPython shell with an empty namespace whose displays go to ``outputs``."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, *, transient=None, update=False, **_):  # type: ignore[no-untyped-def]
            name = (transient or {}).get("display_id")
            outputs.publish("display_data", data, metadata, name, update)

        def clear_output(self, wait: bool = False) -> None:
            outputs.clear(wait)

    class Hook(DisplayHook):
        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict, md_dict=None) -> None:  # type: ignore[no-untyped-def]
            outputs.publish("execute_result", format_dict, md_dict)
            outputs.items[-1]["execution_count"] = self.prompt_count

        def finish_displayhook(self) -> None:
            self._is_active = False

    class Shell(InteractiveShell):
        display_pub_class = Type(Publisher)
        displayhook_class = Type(Hook)
        traceback_text = ""

        def init_display_formatter(self) -> None:
            # All that a front end with pictures can show; a terminal's shell formats text alone.
            self.display_formatter = formatter = DisplayFormatter(parent=self)
            formatter.active_types = formatter.format_types

        def enable_gui(self, gui: str | None = None) -> None:
            pass

        def _showtraceback(self, kind: type, value: BaseException, lines: list[str]) -> None:
            self.traceback_text = "\n".join(lines)

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    return Shell.instance(config=config)


# ---- running ---------------------------------------------------------------


def run_cells(notebook: Notebook, on_cell: OnCell, solutions: bool = False) -> None:
    """Run a notebook's code cells in order and put their outputs into it.

    Parameters
    ----------
    notebook
        Changed in place: outputs and execution counts.
    on_cell
        Told about each cell when it is done.
    solutions
        After the last cell, also run the Python blocks in the hidden solutions of the exercises.

    Raises
    ------
    CellError
        At the first cell that raises, or that tries to leave the machine.
    """
    outputs = Outputs()
    shell = make_shell(outputs)
    network = Network()
    cells = documents.code_cells(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    for number, cell in enumerate(cells, 1):
        began = time.perf_counter()
        label = f"code cell {number} of {len(cells)}"
        _run(shell, outputs, network, cell["source"], label)
        cell["outputs"] = without_progress(outputs.items)
        cell["execution_count"] = number
        on_cell(number, len(cells), time.perf_counter() - began, _first_line(cell))
    for label, source in hidden_solutions(notebook) if solutions else ():
        _run(shell, outputs, network, source, label)


def _run(shell: Any, outputs: Outputs, network: Network, source: str, label: str) -> None:
    outputs.begin()
    shell.traceback_text = ""
    streams = (Stream("stdout", outputs), Stream("stderr", outputs))
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        result = shell.run_cell(source, store_history=True)
    if not result.success:
        error = result.error_before_exec or result.error_in_exec
        trace = shell.traceback_text or f"{type(error).__name__}: {error}"
        raise CellError(f"{label} failed:\n\n{_printed(outputs)}{trace}")
    if network.attempts:
        hosts = ", ".join(sorted(set(network.attempts)))
        raise CellError(f"{label} tried to reach {hosts}; notebooks must run offline.")


def _printed(outputs: Outputs) -> str:
    text = "".join(o["text"] for o in outputs.items if o["output_type"] == "stream")
    return f"{text.rstrip()}\n\n" if text.strip() else ""


def _first_line(cell: Cell) -> str:
    lines = [line for line in cell["source"].splitlines() if line.strip()]
    return lines[0][:60]


def hidden_solutions(notebook: Notebook) -> list[tuple[str, str]]:
    """Return a label and the code of every Python block inside a ``<details>`` element."""
    found: list[tuple[str, str]] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for element in _SOLUTION.findall(cell["source"]):
                for code in _PYTHON_BLOCK.findall(element):
                    found.append((f"hidden solution {len(found) + 1}", code))
    return found


# ---- command line ----------------------------------------------------------


def load(path: Path) -> Notebook:
    """Read a notebook, .ipynb or text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return pairing.from_text(text, path.stem)
    return documents.parse(text, path.name)


def _print_cell(number: int, total: int, seconds: float, line: str) -> None:
    print(f"  cell {number:2d}/{total}  {seconds:7.2f} s  {line}", file=sys.__stdout__, flush=True)


def main(arguments: list[str]) -> int:
    """Run the notebook named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path, help="an .ipynb or a text notebook")
    parser.add_argument("--profile", choices=("fast", "full"), default="fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--solutions", action="store_true", help="run the hidden solutions too")
    parser.add_argument("--limit", type=float, default=1800, help="seconds until it is stopped")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        notebook = load(options.notebook)
        faulthandler.dump_traceback_later(options.limit, exit=True, file=2)
        with surroundings(options.profile, options.threads):
            run_cells(notebook, _print_cell, options.solutions)
    except (NotebookError, OSError) as error:
        print(f"{options.notebook.name}: {error}", file=sys.__stderr__)
        return 1
    seconds = time.perf_counter() - began
    budget = notebook["metadata"].get("retro", {}).get(f"{options.profile}_seconds")
    print(f"{options.notebook.name} ran in {seconds:.1f} s{_against(budget, seconds)}")
    return 0


def _against(budget: float | None, seconds: float) -> str:
    if budget is None:
        return " (it states no budget)"
    verdict = "OVER its budget" if seconds > budget else "its budget"
    return f" ({verdict} of {budget:g} s)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
