"""Tests of `runner`: outputs as a kernel's, clear failures, no network, no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tools.notebooks import documents, pairing, runner
from tools.notebooks.runner import (
    WIDGET_VIEW,
    Outputs,
    Stream,
    hidden_solutions,
    without_progress,
)


def run(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a text notebook through the command line, in a process of its own."""
    path = tmp_path / "demo.ipynb"
    path.write_text(documents.dumps(pairing.from_text(text, "demo")))
    command = [sys.executable, "-m", "tools.notebooks.runner", str(path), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )


# ---- the command -----------------------------------------------------------


def test_it_runs_reports_and_leaves_no_trace(tmp_path: Path) -> None:
    text = (
        "# ---\n# jupyter:\n#   retro:\n#     fast_seconds: 0.001\n# ---\n\n"
        "# %%\nimport os\nfrom pathlib import Path\n\n"
        "# %%\nassert os.environ['RETRO_PROFILE'] == 'fast'\n"
        "assert os.environ['RETRO_THREADS'] == os.environ['OMP_NUM_THREADS'] == '1'\n"
        "assert '__file__' not in globals() and 'Notebook' not in globals()\n"
        "Path('here.txt').write_text('x')\nPath.home().joinpath('there.txt').write_text('x')\n"
    )
    done = run(tmp_path, text, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "cell  1/2" in done.stdout and "cell  2/2" in done.stdout
    assert "OVER its budget of 0.001 s" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["demo.ipynb"]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("print('so far')\n1 / zero", ["so far", "NameError", "zero"]),
        ("x = (", ["SyntaxError"]),
        ("raise SystemExit(0)", ["SystemExit"]),
        ("%no_such_magic", ["no_such_magic"]),
        ("input()", ["input"]),
    ],
)
def test_a_failing_cell_is_named_with_its_traceback(
    tmp_path: Path, bad: str, expected: list[str]
) -> None:
    done = run(tmp_path, f"# %%\nx = 1\n\n# %%\n{bad}\n\n# %%\nprint('never')\n")
    assert done.returncode == 1
    assert "demo.ipynb: code cell 2 of 3 failed" in done.stderr
    assert all(word in done.stderr for word in expected), done.stderr
    assert "3/3" not in done.stdout


@pytest.mark.parametrize(
    "attempt",
    [
        "urllib.request.urlopen('http://example.com/weights.pt', timeout=3)",
        "socket.create_connection(('192.0.2.1', 80), timeout=3)",
        "socket.gethostbyname('example.com')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_the_network_is_out_of_reach_even_if_the_error_is_swallowed(
    tmp_path: Path, attempt: str
) -> None:
    text = f"# %%\nimport socket\nimport urllib.request\ntry:\n    {attempt}\nexcept OSError:\n    pass\n"
    done = run(tmp_path, text)
    assert done.returncode == 1
    assert "tried to reach" in done.stderr and "must run offline" in done.stderr


def test_this_machine_is_within_reach(tmp_path: Path) -> None:
    text = (
        "# %%\nimport socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "a, b = socket.socketpair()\nsocket.getaddrinfo('localhost', 80)\n"
    )
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr


SOLVED = (
    "# %%\nx = 1\n\n# %% [markdown]\n# <details><summary>Solution</summary>\n#\n"
    "# ```python\n# assert x == {}\n# ```\n#\n# </details>\n"
)


def test_hidden_solutions_run_when_asked(tmp_path: Path) -> None:
    assert run(tmp_path, SOLVED.format(1), "--solutions").returncode == 0
    done = run(tmp_path, SOLVED.format(2), "--solutions")
    assert done.returncode == 1 and "hidden solution 1 failed" in done.stderr
    assert run(tmp_path, SOLVED.format(2)).returncode == 0


def test_it_is_stopped_at_the_limit(tmp_path: Path) -> None:
    done = run(tmp_path, "# %%\nimport time\ntime.sleep(60)\n", "--limit", "1")
    assert done.returncode != 0 and "Timeout" in done.stderr


def test_another_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "# %%\nx = 1\n", str(tmp_path / "second.ipynb"))
    assert done.returncode != 0
    assert runner.main([str(tmp_path / "none.ipynb")]) == 1


# ---- outputs ---------------------------------------------------------------

OUTPUTS = """\
# %%
import sys
import warnings

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, clear_output, display, update_display

# %%
print("one")
print("two")
display(HTML("<b>bold</b>"))
print("three")
"a value"

# %%
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1]);

# %%
print("gone")
clear_output()
shown = display("first", display_id="d")

# %%
update_display("second", display_id="d")
6 * 7;

# %%
display({"image/png": "AAAA", "text/plain": "x"}, metadata={"image/png": {"alt": "a"}}, raw=True)
warnings.warn("careful")
print("to stderr", file=sys.stderr)

# %%
def double(x):
    return 2 * x

[double(_) for _ in range(3)]
"""


@pytest.fixture(scope="module")
def ran_here() -> Any:
    """The notebook above, run by `run_cells` in a fresh process."""
    from tools.notebooks import render

    options = render.Options("fast", 1, 120)
    *_, (kind, notebook) = render.run_apart(pairing.from_text(OUTPUTS, "demo"), options)
    assert kind == "done"
    return notebook


def test_outputs_are_those_of_a_kernel(
    ran_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    kernel = nbformat.reads(documents.dumps(pairing.from_text(OUTPUTS, "demo")), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        kernel, timeout=120, kernel_name="python3", record_timing=False, resources=resources
    ).execute()
    for here, there in zip(ran_here["cells"], kernel.cells, strict=True):
        assert _comparable(here) == _comparable(dict(there))


def _comparable(cell: Any) -> Any:
    outputs = []
    for output in cell["outputs"]:
        kept = {k: v for k, v in output.items() if k != "text"}
        if "text" in output:  # a warning names the temporary file of its cell
            kept["text"] = [line for line in output["text"].splitlines() if "ipykernel" not in line]
            kept["text"] = [line for line in kept["text"] if "ipython-input" not in line]
        outputs.append(kept)
    return cell["execution_count"], outputs


def test_stored_outputs_have_the_format(ran_here: Any) -> None:
    nbformat.validate(nbformat.reads(documents.dumps(ran_here), as_version=4))


def test_a_widget_is_kept_as_its_html_alone() -> None:
    outputs = Outputs()
    outputs.publish("display_data", {WIDGET_VIEW: {"model_id": "7"}, "text/html": "<p>x</p>"}, None)
    assert outputs.items[0]["data"] == {"text/html": "<p>x</p>"}


def test_progress_bars_are_not_kept() -> None:
    outputs = Outputs()
    error = Stream("stderr", outputs)
    print("\r  0%|          | 0/2", end="", file=error)
    print("\r100%|##########| 2/2 [00:01]\n", end="", file=error)
    print("\n", end="", file=error)
    print("kept", file=Stream("stdout", outputs))
    print("also kept", file=error)
    kept = without_progress(outputs.items)
    assert [(o["name"], o["text"]) for o in kept] == [
        ("stdout", "kept\n"),
        ("stderr", "also kept\n"),
    ]


def test_solutions_are_found_in_details_alone() -> None:
    text = SOLVED.format(1) + "#\n# ```python\n# not_run()\n# ```\n"
    assert hidden_solutions(pairing.from_text(text, "x")) == [
        ("hidden solution 1", "assert x == 1\n")
    ]
