"""Watches from the supervisor's loop, without ever blocking it, whether the home's own Redis answers."""

from __future__ import annotations

import socket
from pathlib import Path

#: How often Redis is asked while it answers.
ASK_EVERY_S = 2.0

#: A longer pause between two looks says nothing of Redis: this process, or the whole machine, was stopped.
_MOST_BETWEEN_LOOKS_S = 1.0


class RedisWatch:
    """A PING now and then; `silent_s` is for how long the present one has had no reply."""

    def __init__(self, path: Path) -> None:
        self.silent_s = 0.0
        self._path = path
        self._link: socket.socket | None = None
        self._looked_at = self._asked_at = float("-inf")
        self._is_waiting = False

    def look(self, now: float) -> float:
        """Take the reply if it has come, ask if it is time, and return `silent_s`."""
        passed, self._looked_at = now - self._looked_at, now
        if self._is_waiting and self._has_answered():
            self._is_waiting, self.silent_s = False, 0.0
        if self._is_waiting:
            self.silent_s += min(passed, _MOST_BETWEEN_LOOKS_S)
        elif now - self._asked_at >= ASK_EVERY_S:
            self._asked_at, self._is_waiting = now, True
        if self._is_waiting and self._link is None:
            self._ask()
        return self.silent_s

    def forget(self) -> None:
        """Begin again, for another server."""
        self._hang_up()
        self.silent_s, self._is_waiting, self._asked_at = 0.0, False, float("-inf")

    def _ask(self) -> None:
        link = socket.socket(socket.AF_UNIX)
        link.setblocking(False)
        try:
            link.connect(str(self._path))
            link.sendall(b"PING\r\n")
        except OSError:  # its socket's file is gone, or its backlog is full: asked again at the next look
            link.close()
            return
        self._link = link

    def _has_answered(self) -> bool:
        """Whether anything came: an error is an answer, too."""
        if self._link is None:
            return False
        try:
            came = self._link.recv(64)
        except BlockingIOError:
            return False
        except OSError:
            came = b""
        self._hang_up()
        return bool(came)

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
