"""What the screen shows, part by part: its value, when it was read, its age, and why it could not be read again.

Last good values are kept by the collector whose snapshots these are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mistudio_cli.machine.host import Host
    from mistudio_cli.monitor.celery_workers import CeleryWorkers
    from mistudio_cli.monitor.health.disagreements import Disagreement
    from mistudio_cli.monitor.hosts import HostRow
    from mistudio_cli.monitor.snapshot import Part as SourcePart
    from mistudio_cli.monitor.snapshot import QueueRow, Snapshot, WorkerRow
    from tasks.accelerators.devices import Devices
    from tasks.jobs.record import Job
    from tasks.ledger.device_lease import Lease
    from tasks.redis_client.server_state import ServerState

T = TypeVar("T")

#: A value is shown as old from this age on, or from three intervals where these are longer.
STALE_S = 3.0

#: The interval while some parts are still being read for the first time.
_PARTIAL_S = 0.4

#: Parts of the screen and of its alarms, and the part of a snapshot whose error says why it is missing.
SOURCES = {
    "queues": "ledger",
    "jobs": "ledger",
    "waiting": "ledger",
    "workers": "ledger",
    "hosts": "ledger",
    "leases": "ledger",
    "consuming": "ledger",
    "server": "ledger",
    "devices": "devices",
    "host": "host",
    "celery": "celery",
    "disagreements": "celery",
}


@dataclass(frozen=True)
class Part(Generic[T]):
    """One part: the last good value (None: never read), when that was, its age, and why it could not be read again."""

    value: T | None = None
    read_at: float | None = None
    age_s: float = 0.0
    error: str | None = None
    stale_after_s: float = STALE_S

    @property
    def is_stale(self) -> bool:
        """Whether the value is from an earlier reading, because the last one failed or has not come."""
        return self.value is not None and (self.error is not None or self.age_s > self.stale_after_s)


@dataclass(frozen=True)
class Parts:
    """All parts; `now` is the ledger's clock. `next` says that there are older jobs than those that were read.

    `waiting` are the jobs that will start next, by queue, in the order in which they will.
    """

    now: float = 0.0
    queues: Part[tuple[QueueRow, ...]] = Part()
    jobs: Part[tuple[Job, ...]] = Part()
    waiting: Part[Mapping[str, tuple[Job, ...]]] = Part()
    workers: Part[tuple[WorkerRow, ...]] = Part()
    hosts: Part[tuple[HostRow, ...]] = Part()
    leases: Part[Mapping[str, Lease]] = Part()
    consuming: Part[int] = Part()
    server: Part[ServerState] = Part()
    devices: Part[Devices] = Part()
    host: Part[Host] = Part()
    celery: Part[CeleryWorkers] = Part()
    disagreements: Part[tuple[Disagreement, ...]] = Part()
    errors: tuple[tuple[str, str], ...] = ()
    next: str | None = None
    is_read: bool = False

    def at(self, clock: float, interval_s: float = 1.0) -> Parts:
        """The same parts with their ages by this process's monotonic clock."""
        after_s = max(STALE_S, 3 * interval_s)
        aged = {
            name: replace(part, age_s=max(0.0, clock - part.read_at), stale_after_s=after_s)
            for name in SOURCES
            if (part := getattr(self, name)).read_at is not None
        }
        return replace(self, **aged)


def parts_of(seen: Snapshot, clock: float) -> Parts:
    """The parts of a snapshot that was made at `clock` of the monotonic clock, with their ages and errors."""
    reasons = {trouble.part: trouble.message for trouble in seen.errors}
    found: dict[str, Any] = {name: getattr(seen, name, None) for name in SOURCES}
    found["waiting"] = seen.queued
    if seen.devices is not None and "devices" in reasons and not seen.devices.devices:
        found["devices"] = None
    return Parts(
        now=seen.read_at or time.time(),
        **{
            name: _part(found[name], seen.parts.get(source), reasons.get(name) or reasons.get(source), clock)
            for name, source in SOURCES.items()
        },
        errors=tuple(reasons.items()),
        next=seen.next,
        is_read=True,
    )


def _part(value: Any, source: SourcePart | None, reason: str | None, clock: float) -> Part[Any]:
    """A part of the screen; `source` is the part of the snapshot that it is from, None where only values are known."""
    if value is None:
        return Part(error=reason)
    return Part(value, clock) if source is None else Part(value, clock - (source.age_s or 0.0), error=source.error)


def is_partial(seen: Snapshot) -> bool:
    """Whether some parts of a snapshot are still being read for the first time."""
    return any(part.value is None and part.error is None for part in seen.parts.values())


class Reader(threading.Thread):
    """Reads again and again beside the terminal, so that what is slow to read does not make the keys slow."""

    def __init__(self, read: Callable[[], Snapshot], interval_s: float, notify: Callable[[], None]) -> None:
        super().__init__(name="reader", daemon=True)
        self.parts = Parts()
        self.failure: Exception | None = None
        self._read, self._interval_s, self._notify = read, interval_s, notify
        self._wake = threading.Event()
        self._is_over = False

    def run(self) -> None:
        """Read at each interval until stopped."""
        while not self._is_over:
            self._wake.clear()
            began = time.monotonic()
            try:
                seen = self._read()
            except Exception as error:  # noqa: BLE001 - raised again by the thread that owns the terminal
                self.failure = error
                self._notify()
                return
            self.parts = parts_of(seen, time.monotonic())
            self._notify()
            interval_s = min(self._interval_s, _PARTIAL_S) if is_partial(seen) else self._interval_s
            self._wake.wait(max(0.0, interval_s - (time.monotonic() - began)))

    def read_now(self) -> None:
        """Do not wait for the next interval."""
        self._wake.set()

    def stop(self) -> None:
        """Read no more; does not wait for a reading that hangs."""
        self._is_over = True
        self._wake.set()
