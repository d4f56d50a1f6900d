"""A worker's name belongs to one worker at a time: a key in Redis that lives as long as its heartbeats arrive.

Two containers with one hostname, or two homes of a host, would else send heartbeats and take requests under one name.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.worker.slot_locks import WorkerLock

#: For how long a worker that starts has its name before its first heartbeat, in seconds.
STARTING_TTL_S = 30.0


class WorkerName:
    """What one worker claims its name with, once it has its lock."""

    def __init__(self, worker_lock: WorkerLock, places: Places) -> None:
        self._worker_lock, self._home = worker_lock, str(places.home)

    def take(self, ledger: Ledger, heartbeat: WorkerHeartbeat) -> str:
        """Take the name, or keep it; why that is not possible, or "". Raises Unreachable or Refused.

        It is free at once when its last worker had the lock that this one has: that one is dead or takes no more jobs.
        """
        return _why_taken(heartbeat.name, ledger.take_name(heartbeat.name, self._holder(), STARTING_TTL_S))

    def send(
        self,
        ledger: Ledger,
        heartbeat: WorkerHeartbeat,
        *,
        loop_ran: bool = False,
        maintenance: MaintenanceSettings | None = None,
    ) -> tuple[float, str]:
        """Send a heartbeat and keep the name with it: the server's clock, and why the name is another's now, or ""."""
        now, holder = ledger.heartbeat(heartbeat, self._holder(), loop_ran=loop_ran, maintenance=maintenance)
        return now, _why_taken(heartbeat.name, holder)

    def send_refused(self, ledger: Ledger, heartbeat: WorkerHeartbeat) -> None:
        """Send the heartbeat of a worker whose name another has, which has a heartbeat of its own."""
        ledger.heartbeat(heartbeat, field=self._refused_field(heartbeat.name))

    def forget(self, ledger: Ledger, name: str) -> None:
        """Give the name back, as a worker ends. Raises Unreachable or Refused."""
        ledger.forget_worker(name, self._worker_lock.token, self._refused_field(name))

    def _refused_field(self, name: str) -> str:
        return f"{name} {self._worker_lock.token}"

    def _holder(self) -> dict[str, Any]:
        return {
            "token": self._worker_lock.token,
            "predecessors": self._worker_lock.predecessors,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "home": self._home,
        }


def _why_taken(name: str, holder: dict[str, Any] | None) -> str:
    if holder is None:
        return ""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
    return (
        f"its name {name} belongs to the worker with pid {holder['pid']} on {holder['host']}, home {holder['home']}, "
        f"since {since}: start one of them with another --name, or give its container another hostname"
    )
