"""Starts JupyterLab on the user's checkout: `bazel run jupyterlab -- [options of JupyterLab]`."""

from __future__ import annotations

import os
import pathlib
import socket
import sys
import tempfile

INFORMATION = {"-h", "--help", "--help-all", "--version", "--generate-config", "--show-config"}


def option(arguments: list[str], *names: str) -> str | None:
    """Return the value of the last of these options, given as `--x=1` or `--x 1`."""
    value = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, rest = argument.partition("=")
        if name in names:
            value = rest if equals else following
    return value


def complaint_about_port(arguments: list[str]) -> str | None:
    """Return what is wrong with the port that was asked for; None if it is free or left open.

    Without a port in the arguments JupyterLab takes the next free one from 8888 on.
    """
    port = option(arguments, "--port", "--ServerApp.port", "--LabApp.port")
    if port is None:
        return None
    if not port.isdigit() or not 0 <= int(port) < 65536:
        return f"{port} is not a port; give a number from 0 to 65535."
    address = option(arguments, "--ip", "--ServerApp.ip") or "127.0.0.1"
    address = {"localhost": "127.0.0.1", "*": ""}.get(address, address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server itself does, so that a port that was closed just now is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, int(port)))
        except PermissionError:
            return f"Port {port} is for the system; choose one from 1024 on."
        except OSError:
            return f"Port {port} is in use; choose another one, or none to have a free one chosen."
    return None


def complaint_about_folder(folder: pathlib.Path) -> str | None:
    """Return why notebooks in this folder could not be saved; None if they can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            return None
    except OSError as error:
        return f"Cannot write to {folder} ({error.strerror}), so no notebook could be saved there."


def main() -> None:
    """Check what commonly fails, then become JupyterLab."""
    checkout = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    if not checkout:
        sys.exit("Start this with: bazel run jupyterlab")
    root = pathlib.Path(checkout)
    arguments = sys.argv[1:]

    if not INFORMATION & set(arguments):
        complaint = complaint_about_port(arguments) or complaint_about_folder(root / "notebooks")
        if complaint:
            sys.exit(complaint)

    options = [
        f"--ServerApp.root_dir={root}",
        "--LabApp.default_url=/lab/tree/notebooks",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.answer_yes=True",  # Ctrl-C stops at once
        "--LabApp.news_url=None",  # asks no server for news, nor the user about it
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if option(arguments, "--port", "--ServerApp.port", "--LabApp.port"):
        options.append("--ServerApp.port_retries=0")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # root in a container is common, and the server is local
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        options.append("--no-browser")

    # Kernels import the library from the checkout, where it can be edited, and
    # are the ones of this environment even if the user has others of the name.
    os.environ["PYTHONPATH"] = str(root)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.chdir(root)

    # jsonschema uses this package if it can, for addresses in schemas that have
    # none. Its grammar is compiled when it is imported: most of a start's time.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

    from jupyterlab.labapp import main as jupyterlab

    sys.exit(jupyterlab([*options, *arguments]))


if __name__ == "__main__":
    main()
