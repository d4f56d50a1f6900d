"""Small tensors on their way from a device to the host: they are read when they have arrived, and no step waits.

On a card they are copied to pinned memory on a stream of their own. That is tried once a process, on numbers that are
known; where it fails, the copy waits for the device, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

import torch


class Transfer(Protocol):
    """A float32 tensor that was sent to the host."""

    def has_arrived(self) -> bool:
        """Whether reading it would not wait for the device."""

    def values(self) -> list[list[float]]:
        """Its rows; waits until they are there."""


class BlockingTransfer:
    """One that has arrived when it is made: on a CPU, or where the device has to be waited for."""

    def __init__(self, rows: torch.Tensor) -> None:
        """Take over (n, m) `rows` of any device."""
        self._rows = rows.cpu()

    def has_arrived(self) -> bool:
        """See `Transfer`."""
        return True

    def values(self) -> list[list[float]]:
        """See `Transfer`."""
        return self._rows.tolist()


class PinnedTransfer:
    """One from a CUDA device, by pinned memory and a stream on which nothing else is done."""

    def __init__(self, rows: torch.Tensor) -> None:
        """Begin to copy (n, m) `rows`, once all that the device was given before is done."""
        stream = _stream(rows.device)
        stream.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(stream):
            self._host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            self._host.copy_(rows, non_blocking=True)
            self._done = stream.record_event()
        rows.record_stream(stream)

    def has_arrived(self) -> bool:
        """See `Transfer`."""
        return self._done.query()

    def values(self) -> list[list[float]]:
        """See `Transfer`."""
        self._done.synchronize()
        return self._host.tolist()


class CopyChoice(NamedTuple):
    """How tensors get to the host, and why so."""

    send: Callable[[torch.Tensor], Transfer]
    reason: str


@cache
def choice(device: str) -> CopyChoice:
    """How tensors of that device get to the host; decided once a process."""
    if torch.device(device).type != "cuda":
        return CopyChoice(BlockingTransfer, "metrics are read at once")
    return try_transfers(PinnedTransfer, device)


def try_transfers(send: Callable[[torch.Tensor], Transfer], device: str) -> CopyChoice:
    """That way, if known numbers arrive by it as they were; else a copy that waits, and what was wrong."""
    known = torch.arange(12, dtype=torch.float32).view(3, 4)
    try:
        found = send(known.to(device)).values()
    except Exception as error:  # noqa: BLE001 - whatever a driver has to say
        return CopyChoice(BlockingTransfer, f"metrics wait for the device ({type(error).__name__}: {error})")
    if found != known.tolist():
        return CopyChoice(BlockingTransfer, "metrics wait for the device: pinned memory received other numbers")
    return CopyChoice(send, "metrics are copied to pinned memory on a stream of their own")


def describe_fallback(device: str) -> str | None:
    """Why a card has to be waited for when metrics are read; None where it has not, or there is no card."""
    made = choice(device)
    return made.reason if torch.device(device).type == "cuda" and made.send is BlockingTransfer else None


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
