"""A value that is read on a thread of its own, so that a driver or a disk that hangs delays nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundReading(Generic[T]):
    """The newest value of `read`, of which at most one call is under way.

    `has_returned` is whether any call has. `what` names the value in the error for a call that has not returned
    `patience_s` seconds after it began.
    """

    def __init__(self, what: str, read: Callable[[], T], patience_s: float, clock: Callable[[], float]) -> None:
        self._what, self._read, self._patience_s, self._clock = what, read, patience_s, clock
        self._thread: threading.Thread | None = None
        self._began_at = 0.0
        self.has_returned = False
        self._value: T | None = None
        self._error: Exception | None = None

    def begin(self) -> None:
        """Read again, unless a call is still under way."""
        if self.is_under_way:
            return
        self._began_at = self._clock()
        self._thread = threading.Thread(target=self._run, name=f"reads {self._what}", daemon=True)
        self._thread.start()

    @property
    def is_under_way(self) -> bool:
        """Whether a call has not returned yet."""
        return self._thread is not None and self._thread.is_alive()

    def newest(self) -> T | None:
        """What the last call returned, None before that. Raises what it raised, and TimeoutError when one hangs."""
        if self.is_under_way and self._clock() - self._began_at > self._patience_s:
            raise TimeoutError(f"{self._what} does not answer")
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value, self._error = self._read(), None
        except Exception as error:  # noqa: BLE001 - it is raised where the value is wanted
            self._value, self._error = None, error
        self.has_returned = True
