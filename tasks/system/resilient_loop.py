"""The loop of a process that must not end: an exception in one round is logged and counted, and the loop continues."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

#: Of consecutive failures the first is logged with its traceback, then one in this many.
_LOGGED_EACH = 100


class Rounds:
    """Counts the faults of rounds that are called by one name: `faults` in all, `in_a_row` since one went well."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self.faults = self.in_a_row = 0
        self._name, self._log = name, log

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Take one round; whatever it raises ends with it."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a process that others rely on must outlive what it did not foresee
            self.faults += 1
            if self.in_a_row % _LOGGED_EACH == 0:
                self._log.exception("%s failed, and is tried again (%d faults so far)", self._name, self.faults)
            self.in_a_row += 1
        else:
            self.in_a_row = 0
