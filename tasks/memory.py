"""How much memory a job's processes hold and how much they may: the only place that reads either."""

from __future__ import annotations

import dataclasses
import os
import time

import psutil

from tasks.job import JobKind

GB = 1e9

#: How often a job's memory is looked at; where a look takes long, less often, so that it costs little.
LOOK_EVERY_S = 2.0
_LOOK_SHARE = 0.05

#: Parameters of which less means less memory.
_LESS = ("batch", "width", "expansion", "top")


class MemoryWatch:
    """Looks at the processes of one job every few seconds, if MISTUDIO_JOB_MEMORY_GB says what they may hold."""

    def __init__(self, pid: int, kind: JobKind) -> None:
        told = os.environ.get("MISTUDIO_JOB_MEMORY_GB")
        self._may_hold = float(told) * GB if told else None
        self._pid, self._kind = pid, kind
        self._next_look = 0.0

    def too_much(self) -> tuple[str, str] | None:
        """What the job holds and what mends it, when that is more than it may. None else, and between the looks."""
        began = time.monotonic()
        if self._may_hold is None or began < self._next_look:
            return None
        held = held_bytes(self._pid, self._may_hold)
        ended = time.monotonic()
        self._next_look = ended + max(LOOK_EVERY_S, (ended - began) / _LOOK_SHARE)
        if held <= self._may_hold:
            return None
        told = f"It held {held / GB:.2f} GB, more than the {self._may_hold / GB:g} GB a job may hold here"
        return told, _mend(self._kind)


def held_bytes(pid: int, enough: float = 0) -> int:
    """What a process and all below it hold in bytes, pages they share counted once (PSS) where the platform tells.

    While even their resident sizes add up to no more than `enough`, that sum: it costs much less to read.
    """
    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.Error:  # it has ended
        return 0
    resident = sum(map(_resident, tree))
    return resident if resident <= enough else sum(map(_proportional, tree))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        told = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return getattr(told, "pss", 0) or told.uss


def _mend(kind: JobKind) -> str:
    has = {spec.name for spec in dataclasses.fields(kind.params)}
    less = [f"--{name}" for name in _LESS if name in has]
    return f"Use a smaller {' or '.join(less)}, or raise --job-memory-gb." if less else "Raise --job-memory-gb."
