"""Who holds a device: joins leases to the processes that the driver reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.accelerators.card_processes import job_of, user_of
from tasks.accelerators.devices import Device
from tasks.ledger.device_lease import Lease


@dataclass(frozen=True)
class Holder:
    """A job that leases a device: bytes it holds there (None: not to be seen) and was expected to (None: unknown)."""

    job: str
    memory: int | None
    expected: int | None


def holders_of(card: Device, leases: Mapping[str, Lease] | None) -> list[Holder] | None:
    """The jobs that lease that device, those of other containers included, oldest first. None: no leases were read."""
    if leases is None:
        return None
    here = sorted(job for job, lease in leases.items() if lease.key == card.key)
    held = _held(card) if here else {}
    return [Holder(job, held.get(job), leases[job].expected) for job in here]


def other_processes_of(card: Device) -> list[tuple[int, str, int | None]]:
    """Pid, user and bytes (None: the driver does not say) of the processes on a device that are no job's."""
    found = [(process.pid, user_of(process.pid), process.memory) for process in card.processes or ()]
    return [(pid, user, memory) for pid, user, memory in found if user is not None]


def _held(card: Device) -> dict[str, int]:
    """Bytes by job. In a container the driver reports the host's pids, so that no job is found by them."""
    held: dict[str, int] = {}
    for process in card.processes or ():
        job = job_of(process.pid)
        if job is not None and process.memory is not None:
            held[job] = held.get(job, 0) + process.memory
    return held
