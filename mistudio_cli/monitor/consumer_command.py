"""The command that fixes a queue that no worker consumes."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import WorkerRow

#: States of a worker that runs no jobs though it should.
BROKEN = ("fatal", "backoff", "silent", "unresponsive", "refused")

START_WORKERS = "mistudio workers start full"

#: States of a worker that keeps no profile from being started.
_LEAVING = ("stopped", "fatal", "stopping", "draining")


def consumer_command(queues: Collection[str], workers: Iterable[WorkerRow]) -> str:
    """The command for queues without consumers.

    Where a broken worker has one of them, to start others is in vain; beside other workers of this home no profile can
    be started, but a worker for each queue.
    """
    rows = list(workers)
    broken = (row for row in rows if row.state in BROKEN and not set(queues).isdisjoint(row.queues))
    if (row := next(broken, None)) is not None:
        return cause_command(row)
    if any(_runs_here(row) for row in rows):
        return f"mistudio workers scale {' '.join(f'{queue}=1' for queue in queues)}"
    return START_WORKERS


def cause_command(row: WorkerRow) -> str:
    """The command that shows why a broken worker runs no jobs."""
    return "mistudio workers status" if row.state == "refused" else f"mistudio workers logs {row.name}"


def _runs_here(row: WorkerRow) -> bool:
    """Whether it is a worker of this home, by its supervisor, or by its host where heartbeats alone are known."""
    if row.restarts is not None:
        return row.state not in _LEAVING
    return row.state != "silent" and row.name.endswith(f"@{socket.gethostname()}")
