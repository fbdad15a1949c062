"""Start a program several times on this host, as `torchrun` does, from within `bazel run`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def launch(program: str, arguments: list[str], n_processes: int) -> None:
    """Run a program in several processes, and end as they do.

    If one of them is lost the others are stopped. They get this host's threads in equal shares.

    Parameters
    ----------
    program
        Its file, two folders below the repository's root.
    arguments
        Its arguments.
    n_processes
        How many processes, >= 1.

    Raises
    ------
    SystemExit
        If one of them failed: 2 if a process was killed or said what was wrong, 130 after Ctrl-C,
        143 after SIGTERM.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    root = str(Path(program).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *sys.path])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_processes,
        run_id="train",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-P", program, *arguments)
    except ChildFailedError as error:
        sys.exit(_status(error, n_processes))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


def _status(error: ChildFailedError, n_processes: int) -> int:
    """Say which process was killed, if one was; the others have said what they had to say."""
    stopped = (-signal.SIGTERM, 128 + signal.SIGTERM)  # how the others end after that
    for rank, failure in error.failures.items():
        if failure.exitcode < 0 and failure.exitcode not in stopped:
            print(
                f"train: error: process {rank} of {n_processes} was killed ({failure.signal_name()}); "
                "the same command resumes from the last checkpoint",
                file=sys.stderr,
            )
            return 2
    return max(failure.exitcode for failure in error.failures.values())
