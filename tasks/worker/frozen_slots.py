"""Kills pool slots that stay stopped (SIGSTOP) longer than a lease.

A stopped slot renews no lease, so its job goes elsewhere; but it keeps its place in the pool as long as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from tasks.ledger.client import LEASE_TTL_S


class StoppedSlots:
    """The children of this process that were found stopped, and since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stopped_at: dict[psutil.Process, float] = {}

    def kill(self, patience_s: float = LEASE_TTL_S) -> list[str]:
        """Kill those that have been stopped for longer than that; returns a sentence for each.

        One that a debugger holds is let alone. Call it every few seconds.
        """
        now = self._clock()
        stopped = [child for child in psutil.Process().children() if _is_stopped(child)]
        self._stopped_at = {child: self._stopped_at.get(child, now) for child in stopped}
        messages = []
        for child, since in self._stopped_at.items():
            if now - since > patience_s:
                child.kill()
                messages.append(
                    f"slot {child.pid} had been stopped (SIGSTOP) for {now - since:.0f} s: killed, for a new one"
                )
        return messages


def _is_stopped(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
