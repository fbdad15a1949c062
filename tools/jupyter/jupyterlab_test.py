import pathlib
import socket

import pytest

from tools.jupyter import jupyterlab, requirements_match


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        (["--port", "9000"], "9000"),
        (["--port=9000"], "9000"),
        (["--ServerApp.port=1", "--port", "2"], "2"),
        (["--no-browser", "--port"], ""),
    ],
)
def test_option(arguments: list[str], value: str | None) -> None:
    assert jupyterlab.option(arguments, "--port", "--ServerApp.port") == value


def test_port_in_use_is_one_sentence() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        complaint = jupyterlab.complaint_about_port(["--port", str(port)])
    assert (
        complaint
        == f"Port {port} is in use; choose another one, or none to have a free one chosen."
    )
    assert jupyterlab.complaint_about_port(["--port", str(port)]) is None


def test_port_left_open() -> None:
    assert jupyterlab.complaint_about_port(["--no-browser"]) is None


@pytest.mark.parametrize("port", ["", "abc", "65536", "-1"])
def test_port_that_is_none(port: str) -> None:
    assert "is not a port" in str(jupyterlab.complaint_about_port([f"--port={port}"]))


def test_folder(tmp_path: pathlib.Path) -> None:
    assert jupyterlab.complaint_about_folder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert "Cannot write to" in str(jupyterlab.complaint_about_folder(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("listed", "code", "said"),
    [
        (["numpy", "Scikit_Learn"], 0, ""),
        (["numpy"], 1, "requirements.in has scikit-learn"),
        (["numpy", "scikit-learn", "torch"], 1, "has torch, which requirements.in lacks"),
    ],
)
def test_requirements_match(
    listed: list[str],
    code: int,
    said: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "requirements.in"
    path.write_text("# what notebooks import\nnumpy>=2\n\nscikit-learn  # digits\n")
    monkeypatch.setattr("sys.argv", ["", str(path), *listed])
    assert requirements_match.main() == code
    assert said in capsys.readouterr().out
