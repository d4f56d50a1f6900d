"""How long a device works on what it is given: by the host's clock on a CPU, by CUDA's events on a card.

A card does its work after the host has gone on, so the host's clock would count one step's time for another, unless it
waited for the card at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch


class Timer(Protocol):
    """Marks moments in a device's work."""

    def mark(self) -> Any:
        """The moment at which the device has done all that it was given until now."""

    def seconds(self, begin: Any, end: Any, wait: bool) -> float | None:
        """Between two marks; None where the device has not come to the second yet and `wait` is not wanted."""


class HostTimer:
    """For a device that has done its work when a call returns."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.mark = clock

    def seconds(self, begin: float, end: float, wait: bool) -> float | None:
        """See `Timer`."""
        return end - begin


class EventTimer:
    """For a CUDA device: events of its current stream."""

    def __init__(self, event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True)) -> None:
        """`event` makes one that can be recorded."""
        self._event = event

    def mark(self) -> Any:
        """See `Timer`."""
        event = self._event()
        event.record()
        return event

    def seconds(self, begin: Any, end: Any, wait: bool) -> float | None:
        """See `Timer`."""
        if wait:
            end.synchronize()
        return begin.elapsed_time(end) / 1000 if end.query() else None
