"""Who holds the memory of a card: the processes that the driver lists, each with its name and user, or its job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.accelerators.devices import Device, GpuProcess
from tasks.parsing.redact import MASK, names_secret, redact
from tasks.parsing.safe_text import visible

_GB = 1e9
#: Of a command line.
_LONGEST_COMMAND = 300
#: Processes that are named; the others hold less.
_SHOWN = 4


@dataclass(frozen=True)
class CardProcess:
    """A process on a device: bytes it holds (None: the driver does not say), and what this machine knows of it.

    `job` is the job that it works for. In a container the driver reports the host's pids: then no more is known.
    """

    pid: int
    memory: int | None
    user: str | None = None
    command: str | None = None
    job: str | None = None


def processes_of(card: Device) -> list[CardProcess] | None:
    """The processes on a device. None: they could not be read."""
    if card.processes is None:
        return None
    return [
        CardProcess(process.pid, process.memory, *describe_process(process.pid), job_of(process.pid))
        for process in card.processes
    ]


def memory_of_others(card: Device, processes: Sequence[CardProcess] | None) -> int | None:
    """Bytes in use on a device that no job holds. None: not known, as where a process or its memory is not seen."""
    if card.memory_used is None or processes is None:
        return None
    if any(process.memory is None or process.user is None for process in processes):
        return None
    return max(0, card.memory_used - sum(process.memory or 0 for process in processes if process.job))


def job_of(pid: int) -> str | None:
    """The job in whose process group that process is: the group's leader is the runner."""
    import psutil

    try:
        words = psutil.Process(os.getpgid(pid)).cmdline()
    except (psutil.Error, OSError):
        return None
    return words[-1] if "tasks.runner" in words else None


def user_of(pid: int) -> str | None:
    """The user of a process that is no job's; None of a job's, and where it cannot be seen, as from a container."""
    import psutil

    try:
        user = psutil.Process(pid).username()
    except psutil.Error:
        return None
    return None if job_of(pid) else user


def describe_process(pid: int) -> tuple[str | None, str | None]:
    """User and command line of a process, its secrets masked; None for what cannot be seen, as from a container."""
    import psutil

    try:
        process = psutil.Process(pid)
        user, words = process.username(), process.cmdline() or [process.name()]
    except (psutil.Error, OSError):
        return None, None
    return user, shown_command(words)


def shown_command(words: Sequence[str]) -> str:
    """A command line for a list: on one line, without control characters, not longer than fits, its secrets masked."""
    masked, is_secret = [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        masked.append(MASK if is_secret else f"{flag}={MASK}" if equals and names_secret(flag) else word)
        is_secret = word.startswith("-") and not equals and names_secret(word)
    text = visible(redact(" ".join(masked)))
    return text if len(text) <= _LONGEST_COMMAND else f"{text[:_LONGEST_COMMAND]}…"


def describe_memory(card: Device) -> str:
    """How many GB of a card are free and which processes hold how much, those with most first; "" where not known."""
    parts = []
    if card.memory_total is not None and card.memory_used is not None:
        free = max(0, card.memory_total - card.memory_used)
        parts.append(f"{free / _GB:.1f} of {card.memory_total / _GB:.1f} GB were free")
    if card.processes:
        parts.append(_describe_processes(card.processes))
    return ", and ".join(parts)


def _describe_processes(processes: Sequence[GpuProcess]) -> str:
    largest = sorted(processes, key=lambda process: -(process.memory or 0))
    named, others = largest[:_SHOWN], largest[_SHOWN:]
    described = [f"{_describe_holder(process.pid)} held {_gigabytes(process.memory)}" for process in named]
    if others:
        described.append(f"{len(others)} more held {_gigabytes(sum(process.memory or 0 for process in others))}")
    return ", ".join(described)


def _describe_holder(pid: int) -> str:
    """The job of a process; of one that is no job's its pid, and its name and user where they can be read."""
    import psutil

    try:
        if os.getpgid(pid) == os.getpgrp():
            return "this job"
        process = psutil.Process(pid)
        name, user = process.name(), process.username()
    except (psutil.Error, OSError):  # in a container the driver reports the host's pids
        return f"process {pid}"
    job = job_of(pid)
    return f"job {job}" if job else f"process {pid} ({name}, user {user})"


def _gigabytes(amount: int | None) -> str:
    """n/a where the driver reports no memory, as on WSL2."""
    return "n/a" if amount is None else f"{amount / _GB:.1f} GB"
