"""The collector: reads each part on a thread of its own, and makes a snapshot of the last good values.

Commands collect once, and wait until each part has answered or its patience is over. A lasting view keeps a collector,
waits `DEADLINE_S` and shows what there is. A source that hangs costs its own part only, whose last good value stays,
with its age and the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mistudio_cli.machine.background_reading import BackgroundReading, Reading
from mistudio_cli.monitor.collector import sources
from mistudio_cli.monitor.collector.combined_parts import snapshot_of
from mistudio_cli.monitor.snapshot import Snapshot
from tasks.fleet.celery_inspect import WAIT_S
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Overview, Wanted
from tasks.paths import Places
from tasks.redis_client.redis_url import Address
from tasks.settings import current

if TYPE_CHECKING:
    from mistudio_cli.monitor.collector.celery_part import CeleryPart
    from mistudio_cli.monitor.health.disagreements import Disagreement

#: How long a snapshot of a lasting collector waits for its sources.
DEADLINE_S = 0.3

LEDGER, SUPERVISOR, DEVICES, HOST, DISK, PROCESSES = "ledger", "supervisor", "devices", "host", "disk", "processes"
CELERY = "celery"

ALL_PARTS = (SUPERVISOR, LEDGER, DEVICES, HOST, DISK, PROCESSES)
#: What a lasting view reads besides: workers are asked now and then, and a mute one costs the part a second.
LASTING_PARTS = (*ALL_PARTS, CELERY)
_EVERY_S = {CELERY: 5.0}
#: How often the other parts are read for who reads the ledger itself.
_AROUND_EVERY_S = 1.0
WORKER_PARTS = (SUPERVISOR, LEDGER, PROCESSES)

#: Parts that may take longer than the patience.
_LONGER_S = {CELERY: WAIT_S}

#: What fraction of the patience those who need the supervisor's answer wait for it.
_WAIT_FOR_SUPERVISOR = 0.3


class Collector:
    """The parts of one home. `open_ledger` is called on the ledger's own thread, and may raise; None: there is none.

    What workers hold in memory may be `memory_age_s` old. A source that takes longer than `patience_s` (the setting
    read_patience) counts as one that does not answer.
    """

    def __init__(
        self,
        open_ledger: Callable[[], Ledger] | None,
        places: Places,
        parts: Collection[str] = ALL_PARTS,
        *,
        wanted: Wanted = sources.SHOWN,
        memory_age_s: float = 0.0,
        patience_s: float | None = None,
    ) -> None:
        self._open_ledger, self._places, self._wanted, self._memory_age_s = open_ledger, places, wanted, memory_age_s
        self._patience_s: float = current("read_patience") if patience_s is None else patience_s
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()  # two parts need it
        self._beginning = threading.Lock()  # so that two who collect begin no part twice
        self._celery = self._celery_part() if CELERY in parts and open_ledger is not None else None
        self._began_at = time.monotonic()
        reads: dict[str, Callable[[], Any]] = {
            SUPERVISOR: partial(sources.read_supervisor, places, self._patience_s),
            LEDGER: self._read_ledger,
            DEVICES: self._read_devices,
            HOST: _read_load,
            DISK: self._read_disk,
            PROCESSES: self._read_processes,
        }
        if self._celery is not None:
            reads[CELERY] = self._celery.ask
        names = {DEVICES: "NVML cannot be read: NVML", DISK: f"the disk of {places.store}"}
        self._readings = {
            part: BackgroundReading(
                names.get(part, f"the {part}"), reads[part], self._patience_s + _LONGER_S.get(part, 0.0)
            )
            for part in parts
            if part not in (LEDGER, CELERY) or open_ledger is not None
        }

    def collect(self, wait_s: float = DEADLINE_S, parts: Collection[str] = LASTING_PARTS) -> Snapshot:
        """Begin to read every part, wait for these so long at most, and make a snapshot of what there is."""
        deadline = time.monotonic() + wait_s
        self.begin()
        for part, reading in self._readings.items():
            if part in parts:
                reading.wait(deadline - time.monotonic())
        return self._snapshot()

    def collect_around(self, read_ledger: Callable[[], Overview], wait_s: float = DEADLINE_S) -> Snapshot:
        """A snapshot of the ledger as that reads it now, and of the other parts, which may be a second old.

        Raises what `read_ledger` raises, and waits for the others so long at most.
        """
        deadline = time.monotonic() + wait_s
        others = [part for part in self._readings if part != LEDGER]
        self.begin(others, _AROUND_EVERY_S)
        read_at = time.time()
        overview = read_ledger()
        for part in others:
            self._readings[part].wait(deadline - time.monotonic())
        return self._snapshot(Reading(overview, read_at, 0.0))

    def _snapshot(self, ledger: Reading[Any] | None = None) -> Snapshot:
        """What there is, with that for the ledger where it is given."""
        found = {part: reading.reading() for part, reading in self._readings.items()}
        seen = snapshot_of(found if ledger is None else {**found, LEDGER: ledger}, self._places, self._address)
        return replace(seen, disagreements=self._disagreements_in(found))

    def _disagreements_in(self, found: Mapping[str, Reading[Any]]) -> tuple[Disagreement, ...]:
        if self._celery is None:
            return ()
        supervised = found[SUPERVISOR].value if SUPERVISOR in found else None
        return self._celery.disagreements(found[CELERY], (supervised or {}).get("workers", ()))

    def begin(self, parts: Collection[str] | None = None, every_s: float = 0.0) -> None:
        """Read these parts (None: every part) again, but for those being read, or begun less than `every_s` ago."""
        with self._beginning:
            self._began_at = time.monotonic()
            for part, reading in self._readings.items():
                if parts is None or part in parts:
                    reading.begin(max(every_s, _EVERY_S.get(part, 0.0)))

    def close(self) -> None:
        """Close the connections, after what is being read over them; a hung source is waited for like any other."""
        for part in (LEDGER, CELERY):
            if part in self._readings:
                self._readings[part].wait(self._longest_s(part))
        for opened in (self._ledger, self._celery):
            if opened is not None:
                opened.close()

    def wait_for(self, part: str) -> Any:
        """The value of a part that was begun, as soon as there is one. Raises why there is none within the patience."""
        reading = self._readings[part]
        reading.wait(self._began_at + self._longest_s(part) - time.monotonic())
        return reading.newest()

    def collect_once(self) -> Snapshot:
        """The same for one look: every part has been read, or has a reason why not, within the patience."""
        self.begin()
        began = time.monotonic()
        for part, reading in self._readings.items():
            reading.wait(began + self._longest_s(part) - time.monotonic())
        return self._snapshot()

    def _longest_s(self, part: str) -> float:
        """How long one who looks once waits for a part."""
        return self._patience_s + _LONGER_S.get(part, 0.0) + MARGIN_S

    @property
    def _address(self) -> Address | None:
        return None if self._ledger is None else self._ledger.client.address

    def _opened_ledger(self) -> Ledger:
        with self._opening:
            if self._ledger is None:
                assert self._open_ledger is not None
                self._ledger = self._open_ledger()
            return self._ledger

    def _read_ledger(self) -> Any:
        return sources.read_ledger(self._opened_ledger(), self._wanted, self._patience_s)

    def _celery_part(self) -> CeleryPart:
        from mistudio_cli.monitor.collector.celery_part import CeleryPart  # one look does not ask Celery

        return CeleryPart(self._opened_ledger, self._patience_s)

    def _read_devices(self) -> Any:
        began = time.monotonic()
        limits = self._supervised().get("gpu_limits")
        return sources.read_accelerators(limits, self._patience_s - (time.monotonic() - began))

    def _read_disk(self) -> Any:
        from mistudio_cli.machine.host import read_disk

        return read_disk(self._places.store, self._patience_s)

    def _read_processes(self) -> Any:
        return sources.read_processes(self._supervised().get("workers", ()), self._memory_age_s)

    def _supervised(self) -> dict[str, Any]:
        """What the supervisor said, as soon as it has; nothing when it takes too long."""
        supervisor = self._readings[SUPERVISOR]
        supervisor.wait(self._patience_s * _WAIT_FOR_SUPERVISOR)
        return supervisor.reading().value or {}


#: A source that gives up by itself after its patience says better why than one that is given up.
MARGIN_S = 0.1


def _read_load() -> Any:
    from mistudio_cli.machine.host import read_load

    return read_load()
