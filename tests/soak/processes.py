"""The live processes of a home, read from /proc. One look costs a few milliseconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

_PROC = Path("/proc")


class Role(StrEnum):
    """What a process is to its home."""

    SUPERVISOR = "supervisor"
    REDIS = "redis"
    WORKER = "worker"  # a worker's main process
    SLOT = "slot"
    RUNNER = "runner"
    HELPER = "helper"  # anything else below a slot


@dataclass(frozen=True)
class Being:
    """A living process; `lock` is its worker's name, `job` what a runner runs, `birth` is in ticks since boot.

    It is the same whatever its `state` is at the moment.
    """

    pid: int
    birth: int
    parent: int
    state: str = field(compare=False)
    role: Role
    worker_lock: str = ""
    job: str = ""

    def __str__(self) -> str:
        worker, job = f" of {self.worker_lock}" if self.worker_lock else "", f" at {self.job}" if self.job else ""
        return f"{self.role} {self.pid}{worker}{job}"

    @property
    def lives(self) -> bool:
        """Whether it lives now, and is the same."""
        result = _stat(self.pid)
        return result is not None and result[2] == self.birth and result[1] != "Z"


class Census:
    """Counts the processes of one home, and remembers what they were when they were first seen."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self._known: dict[tuple[int, int], tuple[bytes, Role | None, str, str]] = {}

    def __call__(self) -> dict[int, Being]:
        """Everybody who lives, by pid."""
        found: dict[int, Being] = {}
        now: dict[tuple[int, int], tuple[bytes, Role | None, str, str]] = {}
        for pid, parent, state, birth in _everybody():
            command = _read(pid, "cmdline")
            known = self._known.get((pid, birth))
            if known is None or known[0] != command:
                result = self._recognise(pid, parent, command, found)
                if (
                    result[0] is None and known is not None
                ):  # it ends, or became another program, and is still who it was
                    result = known[1:]
                known = (command, *result)
            now[pid, birth] = known
            _, role, worker_lock, job = known
            if role is not None:
                found[pid] = Being(pid, birth, parent, state, role, worker_lock, job)
        self._known = now
        return found

    def _recognise(
        self, pid: int, parent: int, command: bytes, above: dict[int, Being]
    ) -> tuple[Role | None, str, str]:
        """What it is, at which lock, with which job; it is known by who is `above` it, and by what it runs."""
        words = command.decode(errors="replace").split("\0")
        boss = above.get(parent)
        job = words[words.index("tasks.runner") + 1] if "tasks.runner" in words else ""
        if "mistudio_cli.supervisor" in words:
            return (Role.SUPERVISOR if self._home in words else None), "", ""
        if boss is not None and boss.role in (Role.SLOT, Role.RUNNER, Role.HELPER):
            if not command or boss.role is not Role.SLOT:
                return (Role.HELPER if command else None), boss.worker_lock, ""
            return (Role.RUNNER if job else Role.HELPER), boss.worker_lock, job
        if "tasks.worker" in words and self._is_here(pid):
            is_slot = boss is not None and boss.role is Role.WORKER
            return (Role.SLOT if is_slot else Role.WORKER), words[words.index("--name") + 1], ""
        if job and self._is_here(pid):
            return Role.RUNNER, "", job
        is_server = any(word.startswith(f"{self._home}/redis") or f"{self._home}/run/redis" in word for word in words)
        return (Role.REDIS if is_server and b"redis-server" in command else None), "", ""

    def _is_here(self, pid: int) -> bool:
        return f"MISTUDIO_HOME={self._home}".encode() in _read(pid, "environ").split(b"\0")


def above(being: Being, everybody: dict[int, Being]) -> Iterator[Being]:
    """Its ancestors of this home, the nearest first."""
    boss = everybody.get(being.parent)
    while boss is not None:
        yield boss
        boss = everybody.get(boss.parent)


def _everybody() -> Iterator[tuple[int, int, str, int]]:
    """pid, parent, state and birth of all that live, the oldest first: pids wrap around, and parents are older."""
    result = [(int(name), _stat(int(name))) for name in os.listdir(_PROC) if name.isdecimal()]
    alive = [(pid, *stat) for pid, stat in result if stat is not None and stat[1] not in "ZX"]
    yield from sorted(alive, key=lambda found: (found[3], found[0]))


def _stat(pid: int) -> tuple[int, str, int] | None:
    """Parent, state and birth; None when it is gone."""
    words = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(words[1]), words[0].decode(), int(words[19])) if words else None


def _read(pid: int, what: str) -> bytes:
    with suppress(OSError):
        return (_PROC / str(pid) / what).read_bytes()
    return b""
