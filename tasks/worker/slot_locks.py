"""A worker's locks on this machine: one for the worker's name, one for each of its slots.

The files are in `run/seats/NAME/`. The lock of a name belongs to the one worker that takes jobs under it; a worker that
only drains has released it, so that the next may take it. The numbered slot files are locked by the slots while they
work: an old worker and a new one together never run more jobs than the name has slots. A worker's slots
share the lock of its busy file, by which it knows whether any of them works. Locks belong to processes and vanish with
them; the notes beside them say who they are. Files that somebody removes are created again.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from tasks.paths import Places, make_home, make_private
from tasks.queues import share
from tasks.system import process_identity
from tasks.system.fault_counter import Faults

_LOOK_EVERY_S = 0.02
_LOOK_FOR_A_SLOT_EVERY_S = 0.1

#: How many earlier workers of a name are known, and the size in bytes at which those before are forgotten.
_TOKENS_READ, _SIGNED_BYTES = 8, 4096

#: The exit code of a worker that could not begin its jobs.
CANNOT_START_JOBS = 71


class WorkerPhase(StrEnum):
    """What a worker does with the lock of its name."""

    WAITING = "waiting"  # ready, but another worker holds it
    ACTIVE = "sitting"  # holds it and takes jobs
    DRAINING = "leaving"  # has released it, and finishes its last jobs


@dataclass(frozen=True)
class WorkerInfo:
    """A living worker by its own note; `supervisor` is the pid of whoever started it, if one did."""

    name: str
    queues: tuple[str, ...]
    slots: int
    phase: WorkerPhase
    pid: int
    birth: str
    supervisor: int | None


class WorkerLock:
    """The locks of one worker, made in its main process and shared by its slots."""

    def __init__(self, places: Places, name: str, queues: tuple[str, ...], slots: int) -> None:
        make_home(places.home)
        self._folder, self._home = make_private(places.worker_lock(name)), places.home
        self._lock = self._open("lock")
        self._note = self._folder / f"{os.getpid()}.json"
        # Opened once, while there is room for it, and shared with the slots: it may be removed, or the disk be full.
        self._busy = self._open(self._note.with_suffix(".busy").name)
        self._phase: WorkerPhase | None = None
        self._mutex = threading.RLock()  # what the worker says of itself, and what its guard says again
        self.faults = Faults()
        self._identity = {"name": name, "queues": queues, "slots": slots, **process_identity.describe(os.getpid())}
        self._identity["supervisor"] = int(os.environ.get("MISTUDIO_SUPERVISOR") or 0) or None
        self._slots = slots
        self.token, self.predecessors = os.urandom(8).hex(), tuple[str, ...]()

    def acquire(self, keep_waiting: Callable[[], bool]) -> bool:
        """Take the lock, waiting while another worker holds it. False when `keep_waiting` returns False."""
        self._write_note(WorkerPhase.WAITING)
        while not _try_lock(self._lock):
            if not keep_waiting():
                return False
            time.sleep(_LOOK_EVERY_S)
        self._write_token()
        self._write_note(WorkerPhase.ACTIVE)
        return True

    def _write_token(self) -> None:
        """Add this worker's token to those in the lock, whose workers take no more jobs: this one has the lock now."""
        with suppress(OSError):  # a full disk: no earlier worker is known then
            self._lock.seek(0)
            self.predecessors = tuple(self._lock.read().decode("ascii", "replace").split()[-_TOKENS_READ:])
            if self._lock.tell() > _SIGNED_BYTES:
                self._lock.truncate(0)
            self._lock.write(f"{self.token}\n".encode())

    def release(self) -> None:
        """Release the lock for whoever waits for it; running jobs keep their slots."""
        with self._mutex:
            self._write_note(WorkerPhase.DRAINING)
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # for the slots too, which inherited this lock

    def close(self) -> None:
        """Remove the note."""
        with self._mutex:
            self._phase = None
            _remove(self._note)

    def repair(self) -> bool:
        """Create the files again that were removed while this worker uses them. Returns whether some were."""
        with self._mutex:
            if self._phase is None:
                return False
            lost = [not self._note.exists(), self._phase is WorkerPhase.ACTIVE and not self._is_locked()]
            if lost[1]:
                self._lock_again()
            if lost[0]:
                self._write_note(self._phase)
            return any(lost) and self._note.exists()

    def _is_locked(self) -> bool:
        """Whether the lock that this worker holds is the one that others would find."""
        try:
            return os.path.samestat(os.fstat(self._lock.fileno()), (self._folder / "lock").stat())
        except OSError:
            return False

    def _lock_again(self) -> None:
        lock = self._open("lock")
        if _try_lock(lock):
            self._lock.close()
            self._lock = lock  # slots that are forked from now on inherit it
        else:
            lock.close()  # another worker was quicker

    def is_busy(self) -> bool:
        """Whether a slot of this worker holds a job, or waits for room to."""
        with self._busy_again() as busy:
            free = _try_lock(busy)
            fcntl.flock(busy, fcntl.LOCK_UN)  # a slot that is forked just now inherits the file, and must not keep it
            return not free

    @contextmanager
    def slot(self, queue: str = "") -> Iterator[bool]:
        """Hold a slot for one job, waiting while an older worker's jobs hold them all; False when the worker leaves.

        Of the slots, jobs of that queue hold no more than its share.
        """
        with self._busy_again() as busy, ExitStack() as held:
            fcntl.flock(busy, fcntl.LOCK_SH)
            for kind, count in self._needed(queue):
                if not self._hold(held, kind, count):
                    yield False
                    return
            yield True

    def _needed(self, queue: str) -> Iterator[tuple[str, int]]:
        """Which locks a job of that queue holds: one of the files of each name."""
        if own := share(queue, self._identity["queues"], self._slots):
            yield queue, own
        yield "slot", self._slots

    def _hold(self, held: ExitStack, kind: str, count: int) -> bool:
        """Lock one of these files, waiting for one to come free; False when the worker leaves meanwhile."""
        while (lock := self._free(kind, count)) is None:
            if not self._is_active():
                return False
            time.sleep(_LOOK_FOR_A_SLOT_EVERY_S)
        held.enter_context(lock)
        return True

    def _free(self, kind: str, count: int) -> IO[bytes] | None:
        for number in range(1, count + 1):
            lock = self._open(f"{kind}-{number}")
            if _try_lock(lock):
                return lock
            lock.close()
        return None

    def _open(self, name: str) -> IO[bytes]:
        """One of the files, created if it is not there."""
        try:
            return (self._folder / name).open("a+b", buffering=0)
        except FileNotFoundError:
            return (make_private(self._folder, self._home) / name).open("a+b", buffering=0)

    def _busy_again(self) -> IO[bytes]:
        """The busy file once more, for a lock of its own: the same one even after somebody removed its name."""
        number = self._busy.fileno()
        return open(f"/proc/self/fd/{number}" if os.path.exists("/proc/self/fd") else self._busy.name, "rb")

    def _is_active(self) -> bool:
        note = _read(self._note)
        return note is None or note["posture"] == WorkerPhase.ACTIVE  # one that was removed is written again

    def _write_note(self, phase: WorkerPhase) -> None:
        self._phase = phase
        part = self._note.with_suffix(".part")
        with suppress(OSError):  # a full disk: the locks hold without the note
            make_private(self._folder, self._home)
            part.write_text(json.dumps({**self._identity, "posture": phase}), encoding="utf-8")
            part.replace(self._note)


def living_workers(places: Places) -> list[WorkerInfo]:
    """The living workers of this home, by name; notes of the dead are removed."""
    found = []
    for note in sorted(places.worker_locks.glob("*/*.json")):
        content = _read(note)
        if content is None:
            continue
        if process_identity.find_process(content) is None:
            _remove(note)
            continue
        found.append(
            WorkerInfo(phase=WorkerPhase(content.pop("posture")), **{**content, "queues": tuple(content["queues"])})
        )
    return found


def _remove(note: Path) -> None:
    for file in (note, note.with_suffix(".busy")):
        file.unlink(missing_ok=True)


def _read(note: Path) -> dict[str, Any] | None:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
