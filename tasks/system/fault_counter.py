"""Counts failures to begin a job, in memory that a worker shares with its slots."""

from __future__ import annotations

import mmap

_MOST_BYTES = 400


class Faults:
    """How many jobs in a row could not be begun, and why the last one could not. Made before the slots are forked."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1 + _MOST_BYTES)  # without a name anywhere, so nothing can remove it

    @property
    def in_a_row(self) -> int:
        """How many, since one was begun."""
        return self._shared[0]

    @property
    def last(self) -> str:
        """The reason of the last one."""
        return self._shared[1:].rstrip(b"\0").decode("utf-8", "replace")

    def add(self, reason: str) -> None:
        """One more could not be begun."""
        self._shared[1:] = reason.encode("utf-8", "replace")[:_MOST_BYTES].ljust(_MOST_BYTES, b"\0")
        self._shared[0] = min(255, self._shared[0] + 1)

    def clear(self) -> None:
        """One was begun."""
        self._shared[0] = 0
