"""Which device a job runs on, and the leases that keep jobs that would hinder each other off one card or processor."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TypeVar

from tasks.accelerators import devices
from tasks.errors import UserError
from tasks.jobs.kind import JobKind
from tasks.jobs.record import Progress
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.device_lease import ANY, Card, explain, read_gpu_option
from tasks.queues import Resource, queue_named
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.worker import thread_limits

log = logging.getLogger("mistudio.slot")

CPU = "cpu"

#: How the phase of a job begins that has not begun to work; why it waits follows.
WAITING, WAITING_ON_CPU = "waiting for a GPU", "waiting for the processor"

_ASK_EVERY_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """Where a runner computes: torch's name for it inside the runner, and the environment that makes it so."""

    torch_name: str
    environment: dict[str, str] = field(default_factory=dict)


def _read_devices() -> devices.Devices:
    """The devices; a driver that does not answer keeps no job from being cancelled."""
    return devices.read_devices(patience_s=_ASK_EVERY_S)


def device_for(
    ledger: Ledger,
    claim: Claim,
    kind: JobKind,
    stop: Callable[[], bool],
    *,
    option: str = ANY,
    need: Callable[[], int | None] = lambda: None,
    read: Callable[[], devices.Devices] = _read_devices,
) -> Placement | None:
    """The device for that job, leased; waits while none can be had. None when asked to stop meanwhile.

    `need` estimates the bytes of GPU memory that the job will hold; it is asked only where there is a GPU, until Redis
    answers. The CPU is for kinds that want no GPU, for the option "none", and for machines without any: never for one
    whose GPUs cannot be read, which are read again. Only what could have had a GPU leases the CPU: it would use all
    cores. UserError for an option that cannot be met here.
    """
    if queue_named(kind.queue).resource is not Resource.GPU:
        _unless_away(lambda: ledger.use_device(claim, CPU))
        return _on_cpu(ledger)
    chosen, needed = read_gpu_option(option), cache(need)

    def lease() -> tuple[Placement | None, str]:
        found = devices.Devices(reason=devices.NO_GPU) if chosen == () else read()
        if found.reason not in devices.ABSENT:
            return _lease_gpu(ledger, claim, _offered(found, chosen), needed)
        if chosen:
            raise _no_such_gpu(chosen[0], found.limit or found.reason)
        return _lease_cpu(ledger, claim)

    return _until(stop, ledger, claim, lease)


def _until(
    stop: Callable[[], bool],
    ledger: Ledger,
    claim: Claim,
    lease: Callable[[], tuple[Placement | None, str]],
) -> Placement | None:
    """The device, as soon as one can be leased; the job's record says what it waits for and why."""
    while not stop():
        leased, waits = lease()
        if leased is not None:
            return leased
        _unless_away(partial(ledger.report, claim, Progress(waits, 0, None, "")))
        time.sleep(_ASK_EVERY_S)
    return None


def _lease_cpu(ledger: Ledger, claim: Claim) -> tuple[Placement | None, str]:
    """This machine's processor, if so few jobs hold it that one more may; else the phase that says who does."""
    processor = Card(f"{socket.gethostname()}:{CPU}", CPU)
    answer = _unless_away(lambda: ledger.lease_device(claim, [processor], thread_limits.cpu_jobs()))
    if isinstance(answer, Card):
        return _on_cpu(ledger), ""
    return None, _waiting(WAITING_ON_CPU, explain(answer or (), None))


def _on_cpu(ledger: Ledger) -> Placement:
    return Placement(CPU, {"CUDA_VISIBLE_DEVICES": "", **thread_limits.bounds(ledger)})


def _card(device: devices.Device) -> Card:
    if device.in_instances or device.memory_total is None or device.memory_used is None:
        return Card(device.key, f"cuda:{device.label}")
    return Card(device.key, f"cuda:{device.label}", device.memory_total, device.memory_used)


def _offered(found: devices.Devices, chosen: tuple[int, ...] | None) -> list[devices.Device] | str:
    """The devices that may be leased, most free memory first, or why they cannot be read. A lost one is not offered.

    The index of a GPU that is cut into MIG instances stands for all of them.
    """
    if found.reason is not None:
        return found.reason.removeprefix(devices.UNREADABLE)
    there = {
        device.index: [other for other in found.devices if other.index == device.index] for device in found.devices
    }
    for index in chosen or ():
        if index not in there:
            limit = f" ({found.limit})" if found.limit else ""
            raise _no_such_gpu(index, f"its GPUs are {', '.join(map(str, there))}{limit}")
    candidates = [device for index in chosen or there for device in there[index]]
    readable = [device for device in candidates if device.problem is None]
    if not readable:
        return "; ".join(f"GPU {device.label}: {device.problem}" for device in candidates)
    return sorted(readable, key=lambda device: (device.memory_used or 0) - (device.memory_total or 0))


def _no_such_gpu(index: int, why: str) -> UserError:
    return UserError(f"{socket.gethostname()} has no GPU {index}: {why}.", "Submit the job again with another --gpu")


def _lease_gpu(
    ledger: Ledger, claim: Claim, offered: list[devices.Device] | str, needed: Callable[[], int | None]
) -> tuple[Placement | None, str]:
    """One of the devices, if it could be leased; else the phase that says why not, as far as that is known."""
    if isinstance(offered, str):
        return None, _waiting(WAITING, f"the GPUs cannot be read: {offered}")
    cards = [_card(device) for device in offered]
    try:
        need = needed()
    except (Unreachable, Refused) as error:
        return None, _waiting(WAITING, f"Redis could not be asked: {error}")
    answer = _unless_away(lambda: ledger.lease_device(claim, cards, _jobs_per_gpu(), need))
    if not isinstance(answer, Card):
        return None, _waiting(WAITING, explain(answer or (), need))
    device = offered[cards.index(answer)]
    # The UUID is this card in whatever order CUDA counts; of a card cut in instances it names none.
    visible = device.uuid if device.uuid and not device.in_instances else str(device.index)
    return Placement("cuda", {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}), ""


def _waiting(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


def _jobs_per_gpu() -> int:
    """How many jobs may share one GPU, as set for this slot's worker."""
    return int(os.environ.get("MISTUDIO_GPU_JOBS", "1"))


def _unless_away(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except (Unreachable, Refused) as error:
        log.warning("Redis could not be asked about a device: %s", error)
        return None
