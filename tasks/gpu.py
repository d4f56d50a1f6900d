"""Which device a job runs on, and the leases that keep two jobs off one card."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tasks import devices
from tasks.job import JobKind, Progress
from tasks.ledger import Claim, Ledger
from tasks.queues import Resource, queue_named
from tasks.wire import Unreachable

#: The phase of a job that has not begun to work.
WAITING = "waiting for a GPU"

_ASK_EVERY_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Device:
    """Where a runner computes: torch's name for it inside the runner, and the environment that makes it so."""

    torch_name: str
    environment: dict[str, str] = field(default_factory=dict)


CPU = Device("cpu", {"CUDA_VISIBLE_DEVICES": ""})


def device_for(ledger: Ledger, claim: Claim, kind: JobKind, stop: Callable[[], bool]) -> Device | None:
    """The device for that job, leased if it is a GPU; waits while all are taken. None when told to stop meanwhile."""
    if queue_named(kind.queue).resource is not Resource.GPU or not _cards():
        _unless_away(lambda: ledger.use_device(claim, "cpu"))
        return CPU
    while not stop():
        index = _unless_away(lambda: ledger.lease_device(claim, _by_free_memory(), _jobs_per_gpu()))
        if index is not None:
            return Device("cuda", {"CUDA_VISIBLE_DEVICES": str(index), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
        _unless_away(lambda: ledger.report(claim, Progress(WAITING, 0, None, "")))
        time.sleep(_ASK_EVERY_S)
    return None


def _jobs_per_gpu() -> int:
    """How many jobs may share one GPU, as this slot's worker was told."""
    return int(os.environ.get("MISTUDIO_GPU_JOBS", "1"))


def _by_free_memory() -> list[int]:
    """Indices of this machine's GPUs that can be read, most free memory first: a lost one is offered to nobody."""
    free = {card.index: (card.memory_total or 0) - (card.memory_used or 0) for card in _cards() if card.problem is None}
    return sorted(free, key=lambda index: -free[index])


def _cards() -> tuple[devices.Device, ...]:
    return devices.read_devices().devices


def _unless_away(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Unreachable:
        return None
