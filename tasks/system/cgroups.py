"""CPU and memory limits of this process: its affinity, and those of its cgroup (v2, and v1 where that is mounted)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")

#: v1 says "no limit" by the largest multiple of a page that fits into 63 bits.
_UNLIMITED_V1 = 1 << 62


@dataclass(frozen=True)
class Allowed:
    """What this process may use at most: cores, of which a container may have a fraction, and bytes. None: no limit."""

    cpus: float | None
    memory: int | None


def read_allowed(proc: Path = PROC, cgroups: Path = CGROUPS) -> Allowed:
    """The tightest limit of this process's group and its ancestors. Never raises: nothing there means no limit."""
    folders = list(_folders(proc, cgroups))
    cpus = [limit for folder in folders if (limit := _cpus(folder / "cpu.max")) is not None]
    memory = [int(word) for folder in folders if (word := _read(folder / "memory.max")).isdigit()]
    cpus += [limit for folder in _folders_v1(proc, cgroups, "cpu") if (limit := _cpus_v1(folder)) is not None]
    memory += [
        int(word)
        for folder in _folders_v1(proc, cgroups, "memory")
        if (word := _read(folder / "memory.limit_in_bytes")).isdigit() and int(word) < _UNLIMITED_V1
    ]
    return Allowed(min(cpus, default=None), min(memory, default=None))


def usable_cpus(proc: Path = PROC, cgroups: Path = CGROUPS) -> float:
    """How many cores this process may use, by its affinity and its groups' limits."""
    limit = read_allowed(proc, cgroups).cpus
    return visible_cpus() if limit is None else min(visible_cpus(), limit)


def visible_cpus() -> int:
    """How many cores a library that knows nothing of groups starts threads for."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folders(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The group's folder and those above it. In a container the group's path may be the host's, of which only the
    root can be seen.
    """
    lines = _read(proc / "self" / "cgroup").splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    yield from _upwards(cgroups, path)


def _folders_v1(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """The same in the hierarchy of a v1 controller, which is mounted by its name or with others as "cpu,cpuacct"."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            yield from _upwards(cgroups / names, path)
            if names != controller:
                yield from _upwards(cgroups / controller, path)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _cpus(path: Path) -> float | None:
    """`cpu.max` says how many microseconds of each period may be used, or "max"."""
    quota, _, period = _read(path).partition(" ")
    return round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() and int(period) else None


def _cpus_v1(folder: Path) -> float | None:
    """Cores by `cpu.cfs_quota_us`, which is -1 without a limit."""
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return round(int(quota) / int(period), 2) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
