"""The lock and the socket of a home's supervisor, which creates them again when somebody removes them."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from tasks.paths import Places, make_home, make_private

log = logging.getLogger("mistudio.supervisor")


class Door:
    """What a supervisor alone holds of its home. The folder of the home itself is never created again."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.is_lost = False  # somebody else holds this home now
        self.listener: socket.socket | None = None
        self._lock: IO[bytes] | None = None
        make_home(places.home)
        self._home = os.stat(places.home)
        self._make_folders()
        self._bound: tuple[int, int] | None = None

    def lock(self) -> bool:
        """Take the lock of the home; False when another supervisor holds it."""
        lock = self._lock_path.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        if self._lock is not None:
            self._lock.close()
        self._lock = lock
        self.sign()
        return True

    def sign(self) -> None:
        """Write into the lock who holds it: again after a fork."""
        self._write(b"%d" % os.getpid())

    def _write(self, who: bytes) -> None:
        assert self._lock is not None
        with suppress(OSError):  # on a full disk it holds without a word
            self._lock.truncate(0)
            self._lock.write(who)
            self._lock.flush()

    def listen(self) -> socket.socket:
        """Open the supervisor's socket, for its owner alone. Needs the lock."""
        self.places.make_sockets_folder()
        path = self.places.supervisor_socket
        path.unlink(missing_ok=True)  # of a supervisor that was killed
        listener = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(64)
        listener.setblocking(False)
        self.listener, self._bound = listener, _identity(str(path))
        return listener

    def has_home(self) -> bool:
        """Whether the home is still the folder that it was."""
        try:
            return os.path.samestat(os.stat(self.places.home), self._home)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # it cannot be looked at now, which says nothing

    def repair(self) -> bool:
        """Create again what was removed. Whether there is another socket to listen on from now on."""
        if not self.has_home() or self.is_lost:
            return False
        self._make_folders()
        if self._lock is None or _identity(str(self._lock_path)) != _identity(self._lock.fileno()):
            log.warning("the lock of %s was removed: taking it again", self.places.home)
            self.is_lost = not self.lock()
        if self.is_lost or _identity(str(self.places.supervisor_socket)) == self._bound:
            return False
        log.warning("the socket of %s was removed: listening again", self.places.home)
        if self.listener is not None:
            self.listener.close()
        self.listen()
        return True

    def shut(self) -> None:
        """Stop listening; the home is held until it is left."""
        if self.has_home() and self._bound and _identity(str(self.places.supervisor_socket)) == self._bound:
            self.places.supervisor_socket.unlink(missing_ok=True)
        self._write(b"")

    def close(self) -> None:
        """Leave the home."""
        if self.listener is not None and self.places.supervisor_socket.parent != self.places.run:
            with suppress(OSError):  # Redis may listen there still
                self.places.supervisor_socket.parent.rmdir()
        for held in (self.listener, self._lock):
            if held is not None:
                held.close()

    def _make_folders(self) -> None:
        for folder in (self.places.run, self.places.logs):
            make_private(folder, self.places.home)

    @property
    def _lock_path(self) -> Path:
        return self.places.run / "supervisor.lock"


def holder(places: Places) -> int | None:
    """The pid of the supervisor that holds this home; None when none does, 0 when it is about to leave."""
    try:
        with (places.run / "supervisor.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        content = (places.run / "supervisor.lock").read_bytes()
        return int(content) if content.isdigit() else 0
    except OSError:
        return None
    return None


def _identity(file: str | int) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino
