"""What this machine says of itself: cores, memory, disk, and the memory of process trees."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: The first reading of the load has nothing to compare with; it watches this long.
_FIRST_LOOK_S = 0.1


@dataclass(frozen=True)
class Host:
    """One machine. Memory and disk are in bytes; the disk is the one that holds the store."""

    name: str
    cpus: int
    cpu_percent: float
    load_1m: float
    memory_total: int
    memory_available: int
    disk_total: int
    disk_free: int


_looked = False
_held: dict[int, tuple[float, int | None]] = {}


def read_host(store: Path) -> Host:
    """This machine now; the share of busy cores is since the last reading. OSError when it cannot be read."""
    import psutil

    global _looked
    busy = psutil.cpu_percent(interval=None if _looked else _FIRST_LOOK_S)
    _looked = True
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(nearest_folder(store))
    return Host(
        name=socket.gethostname(),
        cpus=os.cpu_count() or 1,
        cpu_percent=busy,
        load_1m=os.getloadavg()[0],
        memory_total=memory.total,
        memory_available=memory.available,
        disk_total=disk.total,
        disk_free=disk.free,
    )


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def tree_memory(pids: Sequence[int], max_age_s: float = 0.0) -> dict[int, int | None]:
    """Memory in bytes of each process with all below it, shared pages divided among those who share (Linux PSS).

    None where it cannot be read: the process is gone or another user's, or the system has no such figure. Reading it
    is slow; a live view takes figures up to `max_age_s` old.
    """
    now = time.monotonic()
    for pid in pids:
        if pid not in _held or now - _held[pid][0] > max_age_s:
            _held[pid] = (now, _tree_memory(pid))
    return {pid: _held[pid][1] for pid in pids}


def _tree_memory(pid: int) -> int | None:
    import psutil

    try:
        top = psutil.Process(pid)
        return sum(_pss(process.pid) for process in (top, *top.children(recursive=True)))
    except (psutil.Error, OSError, ValueError):
        return None


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss")
