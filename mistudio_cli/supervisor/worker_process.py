"""The process behind a worker: starts, identifies and signals it; no other module does."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil

from mistudio_cli.supervisor.child import describe_exit
from tasks.system import process_identity
from tasks.system.log_output import VARIABLE


class WorkerProcess:
    """A worker's main process and the tree below it. Its pid stays its own until `poll` has reported its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def poll(self) -> str | None:
        """How it ended, in words; None while it lives."""
        code = self._process.poll()
        return None if code is None else describe_exit(code)

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the main process alone: its pool would take TERM or QUIT for an order to die at once.

        One that was stopped is continued: it could not receive the signal otherwise.
        """
        self._process.send_signal(signum)
        self._process.send_signal(signal.SIGCONT)

    def kill_tree(self) -> None:
        """End it with all its slots and their runners."""
        try:
            _kill_tree(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return


class AdoptedWorker:
    """A worker that an earlier supervisor started. A pid that is another's by now is never signalled."""

    def __init__(self, process: psutil.Process) -> None:
        self.pid = process.pid
        self._process = process

    def poll(self) -> str | None:
        """That it ended; how is not known here. None while it lives."""
        return None if process_identity.is_alive(self._process) else "ended; an earlier supervisor started it"

    def send_signal(self, signum: signal.Signals) -> None:
        """Signal the main process alone. One that was stopped is continued, to receive it."""
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(signum)
            self._process.send_signal(signal.SIGCONT)

    def kill_tree(self) -> None:
        """End it with all its slots and their runners."""
        _kill_tree(self._process)


def _kill_tree(top: psutil.Process) -> None:
    """Kill a process and all below it; runners have process groups of their own. psutil spares recycled pids."""
    try:
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def spawn(argv: list[str], environment: Mapping[str, str], folder: Path, log_path: Path | None) -> WorkerProcess:
    """Start a worker in a process group of its own. Its words go straight to the log, not through its supervisor.

    Without a log they go where this process's own go. Raises OSError when it cannot be started.
    """
    variables = {name: value for name, value in environment.items() if name != VARIABLE}
    if log_path is not None:
        variables[VARIABLE] = str(log_path)
    with log_path.open("ab") if log_path is not None else nullcontext() as log:
        return WorkerProcess(
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=variables, process_group=0
            )
        )
