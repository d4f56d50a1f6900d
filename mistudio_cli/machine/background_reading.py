"""A value that is read on a thread of its own, so that a driver or a disk that hangs delays nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The last value that could be read, its age, and why the last attempt failed, if it did.

    `read_at` is in seconds since the epoch. All are None before the first call has returned.
    """

    value: T | None = None
    read_at: float | None = None
    age_s: float | None = None
    error: Exception | None = None


class BackgroundReading(Generic[T]):
    """The newest value of `read`, of which at most one call is under way.

    `has_returned` is whether any call has. `what` names the value in the error for a call that has not returned
    `patience_s` seconds after it began. The threads are daemons: none of them keeps the process from ending.
    """

    def __init__(
        self, what: str, read: Callable[[], T], patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._read, self._patience_s, self._clock = what, read, patience_s, clock
        self._thread: threading.Thread | None = None
        self._began_at = float("-inf")
        self.has_returned = False
        self._good: tuple[T, float, float] | None = None
        self._error: Exception | None = None

    def begin(self, every_s: float = 0.0) -> None:
        """Read again, unless a call is still under way or the last one began less than `every_s` ago."""
        if self.is_under_way or self._clock() - self._began_at < every_s:
            return
        self._began_at = self._clock()
        thread = threading.Thread(target=self._run, name=f"reads {self._what}", daemon=True)
        thread.start()
        self._thread = thread  # now others may wait for it

    @property
    def is_under_way(self) -> bool:
        """Whether a call has not returned yet."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Return when no call is under way, or after `seconds`."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def newest(self) -> T | None:
        """What the last call returned, None before that. Raises what it raised, and TimeoutError when one hangs."""
        now = self.reading()
        if now.error is not None:
            raise now.error
        return now.value

    def reading(self) -> Reading[T]:
        """The last good value; its error is that of a later call which failed, or a TimeoutError when one hangs."""
        hangs = self.is_under_way and self._clock() - self._began_at >= self._patience_s
        error = TimeoutError(f"{self._what} does not answer") if hangs else self._error
        if (good := self._good) is None:
            return Reading(error=error)
        value, read_at, at = good
        return Reading(value, read_at, max(0.0, self._clock() - at), error)

    def _run(self) -> None:
        try:
            # The value is as old as the question: what was asked for may change while the answer is on its way.
            read_at, at = time.time(), self._clock()
            self._good, self._error = (self._read(), read_at, at), None
        except Exception as error:  # noqa: BLE001 - it is raised where the value is wanted
            self._error = error
        self.has_returned = True
