"""The sources of a snapshot: a function each that reads one part, and raises where that is not possible.

Each takes no longer than its patience, as far as the system lets it: the collector waits no longer in any case.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.paths import Places
from tasks.redis_client.redis_connection import Silent
from tasks.system.call_deadline import within

if TYPE_CHECKING:
    from mistudio_cli.machine.process_trees import Use
    from tasks.accelerators.devices import Devices

#: The records that a view shows: running jobs, the newest ones, the first of each queue; and runs, for estimates.
SHOWN = Wanted(running=200, recent=50, queued=50, runs=200)

#: The same with the state of the server, for who shows what is wrong.
JUDGED = replace(SHOWN, server=True)

#: The same with the counters, for who is asked for metrics.
COUNTED = replace(JUDGED, totals=True)


class UnreadableDevices(Exception):
    """The GPU driver is there and cannot be read; `found` says why."""

    def __init__(self, found: Devices) -> None:
        super().__init__(found.reason)
        self.found = found


def read_ledger(ledger: Ledger, wanted: Wanted, patience_s: float) -> Overview:
    """Everything in the ledger. Unreachable, Silent among them, or Refused."""
    try:
        return within(patience_s, ledger.client, lambda: overview.read(ledger.client, wanted))
    except TimeoutError as error:
        raise Silent(f"{ledger.client.address.shown} does not answer (waited {patience_s:g} s)") from error


def read_supervisor(places: Places, patience_s: float) -> dict[str, Any]:
    """What the supervisor says of itself and its workers; without one, who outlived it. TimeoutError."""
    from mistudio_cli.fleet import supervisor_client

    status = within(patience_s, f"the supervisor of {places.home}", lambda: supervisor_client.status(places))
    return status or {"supervisor": {"pid": None, "state": "stopped"}, "workers": _left_behind(places)}


def read_accelerators(gpu_limits: Mapping[str, str] | None, patience_s: float) -> Devices:
    """The devices of this machine, or why there are none. UnreadableDevices when they cannot be read."""
    from tasks.accelerators.devices import read_devices

    found = read_devices(environment=gpu_limits, patience_s=patience_s)
    if found.reason is not None and not found.reason.startswith("no "):
        raise UnreadableDevices(found)
    return found


def read_processes(workers: Sequence[Mapping[str, Any]], memory_age_s: float) -> dict[int, Use]:
    """What the trees of these workers' processes use, by pid."""
    from mistudio_cli.machine.process_trees import read_uses

    pids = [worker["pid"] for worker in workers if worker["pid"]]
    return read_uses(pids, memory_age_s) if pids else {}


def _left_behind(places: Places) -> list[dict[str, Any]]:
    """Workers that outlived their supervisor, by their own notes: they finish their jobs."""
    from tasks.worker.slot_locks import WorkerPhase, living_workers

    return [
        {
            "name": f"{worker.name}@{socket.gethostname()}",
            "state": "draining" if worker.phase is WorkerPhase.DRAINING else "running",
            "pid": worker.pid,
            "queues": worker.queues,
            "slots": worker.slots,
            "restarts": None,
            "started_at": None,
            "last_exit": None,
            "refusal": None,
        }
        for worker in living_workers(places)
    ]
