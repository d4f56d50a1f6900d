"""Readings of this host: cores, memory, disk."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.system.call_deadline import within

#: The first reading of the load has nothing to compare with; it watches this long.
_FIRST_LOOK_S = 0.1


@dataclass(frozen=True)
class Disk:
    """The disk that holds the store, in bytes."""

    total: int
    free: int


@dataclass(frozen=True)
class Host:
    """One machine. Memory and disk are in bytes; the disk is the one that holds the store, None where not read."""

    name: str
    cpus: int
    cpu_percent: float
    load_1m: float
    memory_total: int
    memory_available: int
    disk_total: int | None = None
    disk_free: int | None = None


#: Seconds of all cores together that a share is measured over; fewer are too few ticks of the clock to count.
_LEAST_SPAN_S = 0.5


@dataclass(frozen=True)
class _Look:
    """What the cores had done by a look at them, in seconds of all together, and the share that was busy until then."""

    busy_s: float
    total_s: float
    percent: float | None = None  # not known at the first one


_last_look: _Look | None = None


def read_disk(store: Path, patience_s: float) -> Disk:
    """The disk of the store. OSError, TimeoutError among them: a mount whose server is gone may never answer."""
    used = within(patience_s, f"the disk of {store}", lambda: shutil.disk_usage(nearest_folder(store)))
    return Disk(used.total, used.free)


def read_load() -> Host:
    """This machine without its disk; the share of busy cores is since the last reading. OSError."""
    import psutil

    memory = psutil.virtual_memory()
    return Host(
        name=socket.gethostname(),
        cpus=os.cpu_count() or 1,
        cpu_percent=_busy_percent(),
        load_1m=os.getloadavg()[0],
        memory_total=memory.total,
        memory_available=memory.available,
    )


def _busy_percent() -> float:
    """The share of busy cores since the last look, which is repeated where it was just before.

    `psutil.cpu_percent` compares with what the same thread saw: each reading here is on a thread of its own.
    """
    global _last_look
    if _last_look is None:
        _last_look = _look_at_cores()
        time.sleep(_FIRST_LOOK_S)
    before, now = _last_look, _look_at_cores()
    span_s = now.total_s - before.total_s
    if before.percent is not None and span_s < _LEAST_SPAN_S:
        return before.percent
    share = (now.busy_s - before.busy_s) / span_s if span_s > 0 else 0.0
    percent = 100.0 * min(1.0, max(0.0, share))
    _last_look = replace(now, percent=percent)
    return percent


def _look_at_cores() -> _Look:
    import psutil

    times = psutil.cpu_times()
    waiting_s = getattr(times, "iowait", 0.0)  # Linux
    in_guests_s = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # part of user and nice, too
    total_s = sum(times) - in_guests_s
    return _Look(total_s - times.idle - waiting_s, total_s)


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
