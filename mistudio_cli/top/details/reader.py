"""Reads details again and again while they are open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mistudio_cli.top.details.lines import Details

if TYPE_CHECKING:
    from mistudio_cli.top.reading import Parts

#: Reads the details of a row, by its pane and its id, beside what the screen shows of all.
ReadDetails = Callable[[str, str, "Parts"], Details]

#: Makes a reader of details: each has a connection of its own, for one that hangs must not hold up the next.
OpenDetails = Callable[[], ReadDetails]


class DetailsReader(threading.Thread):
    """Hands on the details of one row at each interval until stopped."""

    def __init__(self, read: Callable[[], Details], hand_on: Callable[[Details], None], interval_s: float) -> None:
        super().__init__(name="details", daemon=True)
        self._read, self._hand_on, self._interval_s = read, hand_on, interval_s
        self._stopped = threading.Event()

    def run(self) -> None:
        """Read until stopped."""
        while not self._stopped.is_set():
            began = time.monotonic()
            found = self._read()
            if self._stopped.is_set():
                return
            self._hand_on(found)
            self._stopped.wait(max(0.1, self._interval_s - (time.monotonic() - began)))

    def stop(self) -> None:
        """Read no more; does not wait for a reading that hangs."""
        self._stopped.set()
