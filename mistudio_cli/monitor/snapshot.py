"""Everything that is watched, as records: queues, jobs, workers, devices and this machine, and how to read them once.

What could not be read is None with its reason in `errors`, never zero or an empty list; what was not asked for is None.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mistudio_cli.errors import Trouble as Trouble
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger

if TYPE_CHECKING:  # what reads this machine is imported where it is asked: the queues alone need none of it
    from mistudio_cli.machine.host import Host
    from mistudio_cli.monitor.celery_workers import CeleryWorkers
    from mistudio_cli.monitor.health.disagreements import Disagreement
    from mistudio_cli.monitor.hosts import HostRow
    from tasks.accelerators.devices import Devices
    from tasks.ledger.device_lease import Lease
    from tasks.ledger.overview import Overview
    from tasks.ledger.totals import Totals
    from tasks.paths import Places
    from tasks.redis_client.server_state import ServerState

#: A worker that fell silent is shown, with its age, for this long.
SILENT_SHOWN_S = 600.0


@dataclass(frozen=True)
class Part:
    """A part as it was last read: its value, when that was (seconds since the epoch), its age and the present error.

    All are None for a part that is still being read for the first time.
    """

    value: Any = None
    read_at: float | None = None
    age_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class QueueRow:
    """A queue as people see it; `state` is "ok", "no worker" or "paused".

    `per_minute` is how many jobs ended in each minute of the last one, five and fifteen, on average, whatever came of
    them, and `ended` how many did in these spans, by outcome; `eta_s` is when the last queued job will start, by what
    the jobs say; None where that is not known.
    """

    name: str
    state: str
    pending: int
    running: int
    oldest_age_s: float | None
    consumers: int
    slots: int
    per_minute: tuple[float, ...]
    eta_s: float | None
    ended: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    paused_at: float | None = None

    @property
    def eta_unknown(self) -> str | None:
        """Why it is not known when its last job will start; None where it is, or where its state says why."""
        if not self.pending or self.eta_s is not None or self.state != "ok":
            return None
        return "ETA unknown: of a kind that runs or is queued here no job has finished yet."


@dataclass(frozen=True)
class WorkerRow:
    """A worker by its supervisor and its own heartbeats; times are seconds since the epoch."""

    name: str
    state: str
    pid: int | None
    queues: tuple[str, ...]
    slots: int
    busy: int | None
    pss_bytes: int | None
    jobs_pss_bytes: int | None
    cpu_percent: float | None
    restarts: int | None
    started_at: float | None
    last_exit: str | None
    seen_age_s: float | None
    loop_age_s: float | None
    refusal: str | None


@dataclass(frozen=True)
class Snapshot:
    """Everything, as it was at `read_at` by the ledger's clock (None: the ledger could not be read).

    A part that could not be read now has its last good value, and its age in `parts`, by the names of
    `mistudio_cli.monitor.collector.collector`. `queued` are the first queued jobs of each queue, in the order in which
    they are served, without their parameters. `celery` is what Celery workers reply themselves, and `disagreements` are
    where that has not been what the ledger says for a while. `consuming` is how many workers consume, `server` what
    Redis says of itself, `totals` are the counters.
    """

    read_at: float | None = None
    queues: tuple[QueueRow, ...] | None = None
    jobs: tuple[Job, ...] | None = None
    next: str | None = None
    supervisor: dict[str, Any] | None = None
    workers: tuple[WorkerRow, ...] | None = None
    devices: Devices | None = None
    leases: Mapping[str, Lease] | None = None
    host: Host | None = None
    hosts: tuple[HostRow, ...] | None = None
    errors: tuple[Trouble, ...] = ()
    queued: Mapping[str, tuple[Job, ...]] | None = None
    celery: CeleryWorkers | None = None
    disagreements: tuple[Disagreement, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    consuming: int | None = None
    server: ServerState | None = None
    totals: Totals | None = None


def read_queues(ledger: Ledger) -> Snapshot:
    """The queues, and the workers by their heartbeats where a queue with jobs has none. Raises Unreachable or Refused.

    One round trip.
    """
    from mistudio_cli.monitor.queue_rows import consuming, queue_rows
    from tasks.ledger import overview

    seen = overview.read(ledger.client, overview.Wanted(running=200, queued=50, runs=200))
    rows = queue_rows(seen, consuming(seen.heartbeats, seen.read_at))
    is_deserted = any(row.pending and not row.consumers for row in rows)
    return Snapshot(read_at=seen.read_at, queues=rows, workers=_by_heartbeats(seen) if is_deserted else None)


def _by_heartbeats(seen: Overview) -> tuple[WorkerRow, ...]:
    from mistudio_cli.monitor.worker_rows import shown_heartbeats, worker_rows

    return worker_rows((), shown_heartbeats(seen), seen.holders, seen.read_at)


def read_all(ledger: Ledger, places: Places, *, is_judged: bool = False) -> Snapshot:
    """Everything, once; each part that fails has its reason in `errors`.

    One that is to be judged has the state of the server too.
    """
    from mistudio_cli.monitor.collector.collector import Collector
    from mistudio_cli.monitor.collector.sources import JUDGED, SHOWN

    return Collector(lambda: ledger, places, wanted=JUDGED if is_judged else SHOWN).collect_once()


def read_workers(ledger: Ledger | None, places: Places) -> Snapshot:
    """The supervisor and the workers alone; without a ledger no Redis runs, so there are no workers elsewhere."""
    from mistudio_cli.monitor.collector.collector import WORKER_PARTS, Collector
    from tasks.ledger.overview import Wanted

    open_ledger = None if ledger is None else lambda: ledger
    seen = Collector(open_ledger, places, WORKER_PARTS, wanted=Wanted()).collect_once()
    if seen.read_at is None and seen.supervisor is not None:  # the times of the supervisor's workers are by this clock
        return replace(seen, read_at=time.time())
    return seen
