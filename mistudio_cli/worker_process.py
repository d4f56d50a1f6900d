"""The process behind a worker: the only place that starts one and signals one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil


class WorkerProcess:
    """A worker's main process and the tree below it. Its number is its own until `poll` has told its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def poll(self) -> int | None:
        """How it ended, negative for a signal; None while it lives."""
        return self._process.poll()

    def tell(self, signum: signal.Signals) -> None:
        """Signal the main process alone: its pool would take TERM or QUIT for an order to die at once."""
        self._process.send_signal(signum)

    def kill_tree(self) -> None:
        """End it with all its slots and their runners, which have process groups of their own."""
        below: list[psutil.Process] = []
        try:
            below = psutil.Process(self.pid).children(recursive=True)
            os.killpg(self.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
        for process in below:
            try:
                process.kill()  # psutil looks at the start time first: a recycled pid is left alone
            except psutil.NoSuchProcess:
                continue


def spawn(argv: list[str], environment: Mapping[str, str], folder: Path, log_path: Path) -> WorkerProcess:
    """Start a worker in a process group of its own. Its words go straight to the log, not through its supervisor.

    Raises OSError when it cannot be started.
    """
    with log_path.open("ab") as log:
        return WorkerProcess(
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment, process_group=0
            )
        )
