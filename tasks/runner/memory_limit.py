"""Reads how much memory a job's processes hold and how much they may hold; no other module reads either.

It also holds the exceptions that a lack of memory raises.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tasks.accelerators.card_processes import describe_memory
from tasks.accelerators.devices import read_devices
from tasks.errors import UserError
from tasks.jobs.kind import JobKind, flag_of
from tasks.settings import current

GB = 1e9

#: How often a job's memory is looked at; where a look takes long, less often, so that it costs little.
LOOK_EVERY_S = 2.0
_LOOK_SHARE = 0.05

#: Parameters of which less means less memory, and of which more does.
_LESS, _MORE = ("batch", "width", "expansion", "top"), ("accumulate",)

#: What is said where there is too little memory, of a GPU or of the machine: by CUDA; by the system, torch and numpy.
_OF_A_GPU = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
#: What torch says was wanted, and of which of the visible devices.
_WANTED = re.compile(r"Tried to allocate (?P<amount>[\d.]+) (?P<unit>bytes|[KMGT]iB)")
_INDEX = re.compile(r"GPU (\d+) has")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_OF_THE_MACHINE = ("Cannot allocate memory", "can't allocate memory", "Storage size calculation", "array is too big")


class MemoryWatch:
    """Looks at the processes of one job every few seconds, if the setting job_memory_gb limits what they may hold."""

    def __init__(self, pid: int, kind: JobKind) -> None:
        gigabytes = current("job_memory_gb")
        self._may_hold = None if gigabytes is None else gigabytes * GB
        self._pid, self._kind = pid, kind
        self._next_look = 0.0

    def too_much(self) -> tuple[str, str] | None:
        """What the job holds and how to fix that, when it exceeds its limit. None otherwise, and between the looks."""
        began = time.monotonic()
        if self._may_hold is None or began < self._next_look:
            return None
        held = held_bytes(self._pid, self._may_hold)
        ended = time.monotonic()
        self._next_look = ended + max(LOOK_EVERY_S, (ended - began) / _LOOK_SHARE)
        if held <= self._may_hold:
            return None
        message = f"It held {held / GB:.2f} GB, more than the {self._may_hold / GB:g} GB a job may hold here"
        return message, _hint(self._kind)


def held_bytes(pid: int, enough: float = 0) -> int:
    """What a process and all below it hold in bytes, pages they share counted once (PSS) where the platform reports it.

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
        usage = process.memory_full_info()
    except psutil.Error:
        return _resident(process)
    return getattr(usage, "pss", 0) or usage.uss


@contextmanager
def enough_for(kind: JobKind) -> Iterator[None]:
    """Inside, UserError in place of what is raised where there is not enough memory."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        on_a_gpu, here = (any(words in str(error) for words in known) for known in (_OF_A_GPU, _OF_THE_MACHINE))
        if not (on_a_gpu or here or isinstance(error, MemoryError)):
            raise
        what = "GPU memory" if on_a_gpu else "memory"
        why = _describe_shortage(str(error)) if on_a_gpu else ""
        hint = f"{_ways(kind) or 'Run it where there is more'}."
        raise UserError(f"There is not enough {what} for this {kind.name} job{why}.", hint) from error


def _describe_shortage(error: str) -> str:
    """What was wanted of a GPU, by torch's words, and what was free and who held the rest, by the driver's."""
    found = _WANTED.search(error)
    wanted = f"it wanted {float(found['amount']) * _UNITS[found['unit']] / GB:.1f} GB more" if found else ""
    devices, named = read_devices().devices, _INDEX.search(error)
    index = int(named[1]) if named else 0
    state = describe_memory(devices[index]) if index < len(devices) else ""
    message = ", ".join(filter(None, (wanted, state)))
    return f": {message}" if message else ""


def _hint(kind: JobKind) -> str:
    ways = _ways(kind)
    return f"{ways}, or raise --job-memory-gb." if ways else "Raise --job-memory-gb."


def _ways(kind: JobKind) -> str:
    """How a job of that kind would hold less; nothing where none is known."""
    has = {spec.name for spec in dataclasses.fields(kind.params)}
    found = {
        how: " or ".join(flag_of(name, kind.params) for name in names if name in has)
        for how, names in (("a smaller", _LESS), ("a larger", _MORE))
    }
    ways = " or ".join(f"{how} {flags}" for how, flags in found.items() if flags)
    return f"Use {ways}" if ways else ""
