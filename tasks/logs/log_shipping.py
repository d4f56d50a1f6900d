"""Sends logs of this host to where other hosts read them: tails to Redis while logs grow, parts of jobs' to the store.

Threads of their own do that, beside the work: what Redis or the store does not take is lost there, and stays here. Each
attempt has a note, locked while its slot lives, which says where its part of the job's log begins; a worker archives
the parts of slots that were killed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tasks.errors import UserError
from tasks.logs.log_masking import masked
from tasks.logs.log_parts import read_part
from tasks.logs.log_tails import TailWriter, attempt_key, worker_key
from tasks.paths import Places, make_private
from tasks.redis_client.redis_connection import Client, Refused, Unreachable
from tasks.redis_client.redis_url import Address
from tasks.storage.log_archive import archive
from tasks.system.resilient_loop import Rounds

log = logging.getLogger("mistudio.logs")

SHIP_EVERY_S = 1.0

_REDIS_TIMEOUT_S, _PAUSE_S = 2.0, 5.0

#: How long a slot waits for the last of a log to be sent, before its next job, and before it ends.
LAST_WAIT_S, SHUTDOWN_WAIT_S = 1.0, 5.0

#: A worker archives what killed slots left at every third round.
_LOOKS_PER_SEARCH = 3

#: Whoever reads an archive from some line on decompresses up to so much before it.
_BLOCK_BYTES = 1 << 18


class AttemptLog(threading.Thread):
    """Sends one attempt's part of its job's log, from where the file ends when this is made."""

    def __init__(self, redis: Address, places: Places, job_id: str, attempt: int) -> None:
        super().__init__(name=f"log-{job_id}", daemon=True)
        self._places, self._job_id, self._attempt = places, job_id, attempt
        self._path = places.job_log(job_id)
        self._start = _size(self._path)
        self._client = Client(redis, _REDIS_TIMEOUT_S)
        self._tail = TailWriter(self._client, attempt_key(self._client, job_id, attempt), self._start)
        self._is_over = threading.Event()
        self._lock = _take_note(places, job_id, attempt, self._start)

    def finish(self, wait_s: float = LAST_WAIT_S) -> None:
        """Archive the log and complete its tail; returns after `wait_s` though that takes longer."""
        self._is_over.set()
        self.join(wait_s)

    def run(self) -> None:
        """Send what is added until the attempt is over."""
        rounds, wait_s = Rounds(f"sending the log of job {self._job_id}", log), SHIP_EVERY_S
        while not self._is_over.wait(wait_s):
            with rounds.guarded():
                wait_s = _send(self._tail, self._path)
        with rounds.guarded():
            is_archived = archive_part(self._places, self._job_id, self._attempt, self._start)
            if self._tail.is_there or not is_archived:
                _send(self._tail, self._path, to_the_end=True)
                with suppress(Unreachable, Refused):
                    self._tail.close()
        self._client.close()
        if self._lock is not None:
            self._places.attempt_note(self._job_id, self._attempt).unlink(missing_ok=True)
            os.close(self._lock)


class WorkerLog(threading.Thread):
    """Sends the log of a worker, if it has one in a file, and archives the logs of attempts whose slots were killed."""

    def __init__(self, redis: Address, places: Places, worker: str, path: Path | None) -> None:
        super().__init__(name="worker-log", daemon=True)
        self._places, self._path = places, path
        self._client = Client(redis, _REDIS_TIMEOUT_S)
        self._tail = TailWriter(self._client, worker_key(self._client, worker))
        self._is_over = threading.Event()

    def finish(self) -> None:
        """Send the last of it."""
        self._is_over.set()
        self.join(LAST_WAIT_S)

    def run(self) -> None:
        """Send what is added until the worker ends."""
        rounds, looks, wait_s = Rounds("sending this worker's log", log), 0, SHIP_EVERY_S
        while not self._is_over.wait(wait_s):
            with rounds.guarded():
                if self._path is not None:
                    wait_s = _send(self._tail, self._path)
                    self._client.close()  # lines are rare, and an idle worker keeps few connections
                if looks % _LOOKS_PER_SEARCH == 0:
                    archive_left(self._places)
            looks += 1
        if self._path is not None:
            with rounds.guarded():
                _send(self._tail, self._path, to_the_end=True)


def archive_part(places: Places, job_id: str, attempt: int, start: int) -> bool:
    """Archive an attempt's part of a job's log; False, with a warning, when the store does not take it.

    Nothing is archived of an attempt that wrote nothing.
    """
    path = places.job_log(job_id)
    try:
        lines = read_part(path, start, job_id, attempt)
        first = next(lines, None)
        if first is not None:
            archive(places.store, job_id, attempt, _blocks(first, lines))
    except FileNotFoundError as error:
        if error.filename != str(path):
            log.warning("the log of job %s was not archived: %s", job_id, error)
        return error.filename == str(path)  # it has none
    except (OSError, UserError) as error:
        log.warning("the log of job %s was not archived: %s", job_id, error)
        return False
    return True


def archive_left(places: Places) -> None:
    """Archive the logs of attempts whose slots were killed. Notes that cannot be read are removed."""
    folder = places.attempt_note("", 0).parent
    for note in folder.iterdir() if folder.is_dir() else ():
        lock = _lock_of_dead(note)
        if lock is None:
            continue
        try:
            job_id, _, attempt = note.name.rpartition(".")
            start = os.read(lock, 32).decode("ascii", "replace")
            if attempt.isdecimal() and start.isdecimal() and archive_part(places, job_id, int(attempt), int(start)):
                log.info("archived the log of attempt %s at job %s, whose slot is gone", attempt, job_id)
            note.unlink(missing_ok=True)
        finally:
            os.close(lock)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _send(tail: TailWriter, path: Path, *, to_the_end: bool = False) -> float:
    """Send what was added, if that is possible now; the seconds until the next try."""
    try:
        tail.send(path, to_the_end=to_the_end)
    except (Unreachable, Refused):
        return _PAUSE_S
    except OSError:  # there is no file yet, or none that can be read
        pass
    return SHIP_EVERY_S


def _take_note(places: Places, job_id: str, attempt: int, start: int) -> int | None:
    """Note that an attempt begins here, and hold the lock of the note; None where it cannot be written."""
    note = places.attempt_note(job_id, attempt)
    draft = note.with_name(f".{note.name}")
    try:
        make_private(note.parent, places.home)
        lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, str(start).encode())
        draft.rename(note)
    except OSError:
        os.close(lock)
        return None
    return lock


def _lock_of_dead(note: Path) -> int | None:
    """The lock of a note whose slot is gone; None while it lives, and for a note that is being written or is gone."""
    if note.name.startswith("."):
        return None
    try:
        lock = os.open(note, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _blocks(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines, masked, a block at a time."""
    block, size = [first], len(first)
    for line in lines:
        block.append(line)
        size += len(line)
        if size > _BLOCK_BYTES:
            yield masked(b"".join(block))
            block, size = [], 0
    yield masked(b"".join(block))
