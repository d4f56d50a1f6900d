"""Readings of this host: cores, memory, disk."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
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


_looked = False


def read_disk(store: Path, patience_s: float) -> Disk:
    """The disk of the store. OSError, TimeoutError among them: a mount whose server is gone may never answer."""
    used = within(patience_s, f"the disk of {store}", lambda: shutil.disk_usage(nearest_folder(store)))
    return Disk(used.total, used.free)


def read_load() -> Host:
    """This machine without its disk; the share of busy cores is since the last reading. OSError."""
    import psutil

    global _looked
    busy = psutil.cpu_percent(interval=None if _looked else _FIRST_LOOK_S)
    _looked = True
    memory = psutil.virtual_memory()
    return Host(
        name=socket.gethostname(),
        cpus=os.cpu_count() or 1,
        cpu_percent=busy,
        load_1m=os.getloadavg()[0],
        memory_total=memory.total,
        memory_available=memory.available,
    )


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
