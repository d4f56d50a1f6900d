"""Signals while the screen is up: what they ask for is done by the loop, which is woken by each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Signals that end the program, after the terminal is given back.
ENDING = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_OTHERS = (signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Ended(BaseException):
    """Raised out of a write that a stopped terminal holds up, by a signal that ends the program."""


class Signals:
    """The signals that came since the last look, and a descriptor that is readable when one has come."""

    def __init__(self) -> None:
        self._came: list[int] = []
        #: Whether a write is under way, which may take as long as the terminal is stopped.
        self.is_writing: Callable[[], bool] = lambda: False
        self.wake_read, self._wake_write = os.pipe()
        for end in (self.wake_read, self._wake_write):
            os.set_blocking(end, False)

    def take(self) -> list[int]:
        """The signals that came, each once in the order they came."""
        came, self._came = self._came, []
        return list(dict.fromkeys(came))

    def check(self) -> None:
        """Raise Ended where a signal has come that ends the program."""
        if not ENDING.isdisjoint(self._came):
            raise Ended

    def wake(self) -> None:
        """Wake the loop, from any thread."""
        with suppress(OSError):  # full: it is awake; closed: it is over
            os.write(self._wake_write, b"\0")

    def drain(self) -> None:
        """Read away what woke the loop."""
        with suppress(OSError):
            while os.read(self.wake_read, 4096):
                pass

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen; what was before is restored afterwards."""
        before = {number: signal.signal(number, self._note) for number in (*ENDING, *_OTHERS)}
        old_fd = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self._came.append(number)
        if self.is_writing():
            self.check()

    @staticmethod
    def suspend() -> None:
        """Stop this process as Ctrl-Z would; returns when it is continued."""
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
