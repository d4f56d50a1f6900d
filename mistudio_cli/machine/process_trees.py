"""What trees of processes use: memory with and without the jobs below a worker, and processor time."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: The first look at the processor time of a tree has nothing to compare with; it watches at least this long.
_FIRST_LOOK_S = 0.2


@dataclass(frozen=True)
class Use:
    """Of one worker with all below it; None where it cannot be read.

    Memory is in bytes, shared pages divided among those who share (Linux PSS); `jobs_pss_bytes` is what of it the jobs'
    own processes hold. 100 % of the processor is one core.
    """

    pss_bytes: int | None = None
    jobs_pss_bytes: int | None = None
    cpu_percent: float | None = None


@dataclass(frozen=True)
class _Look:
    """All processes at one moment: who is below whom, and the seconds each has computed."""

    at: float
    children: dict[int, list[int]]
    seconds: dict[int, float]

    def tree(self, top: int) -> list[int]:
        found = [top]
        for pid in found:  # grows while it is walked
            found += self.children.get(pid, [])
        return found


_before: _Look | None = None
_held: dict[int, tuple[float, int, int]] = {}


def read_uses(pids: Sequence[int], memory_age_s: float = 0.0) -> dict[int, Use]:
    """What each of these workers uses now; its share of the processor is since the last reading.

    Reading memory is slow; a live view takes figures up to `memory_age_s` old.
    """
    global _before
    first = _before if _before is not None and all(pid in _before.seconds for pid in pids) else _look()
    memory = {pid: _memory(pid, first, memory_age_s) for pid in pids}
    time.sleep(max(0.0, _FIRST_LOOK_S - (time.monotonic() - first.at)))
    _before = now = _look()
    return {pid: _use(memory[pid], _share(pid, first, now)) for pid in pids}


def _use(memory: tuple[int, int] | None, share: float | None) -> Use:
    return Use(*memory, share) if memory is not None else Use(cpu_percent=share)


def _look() -> _Look:
    import psutil

    children, seconds = defaultdict(list), {}
    at = time.monotonic()
    for process in psutil.process_iter(["ppid", "cpu_times"]):
        if (spent := process.info["cpu_times"]) is not None:
            children[process.info["ppid"]].append(process.pid)
            seconds[process.pid] = spent.user + spent.system
    return _Look(at, children, seconds)


def _share(top: int, first: _Look, now: _Look) -> float | None:
    if top not in first.seconds or top not in now.seconds:
        return None
    spent = sum(now.seconds[pid] - first.seconds.get(pid, 0.0) for pid in now.tree(top) if pid in now.seconds)
    return 100 * max(0.0, spent) / (now.at - first.at)


def _memory(top: int, look: _Look, max_age_s: float) -> tuple[int, int] | None:
    """Bytes of the whole tree, and of the jobs' processes in it; None when the worker is gone or another user's."""
    held_at, *held = _held.get(top, (float("-inf"), 0, 0))
    if time.monotonic() - held_at > max_age_s:
        try:
            held = [_pss(top), 0]
        except (OSError, ValueError):
            return None
        below = look.tree(top)[1:]
        jobs = [pid for pid in below if _is_of_a_job(pid, top)]
        held = [held[0] + _sum(below), _sum(jobs)]
        _held[top] = (time.monotonic(), held[0], held[1])
    return held[0], held[1]


def _is_of_a_job(pid: int, worker: int) -> bool:
    """Runners have process groups of their own; a worker's slots are in that of their worker."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) != os.getpgid(worker)
    return False


def _sum(pids: Iterable[int]) -> int:
    total = 0
    for pid in pids:
        with suppress(OSError, ValueError):  # it has ended meanwhile
            total += _pss(pid)
    return total


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss")
