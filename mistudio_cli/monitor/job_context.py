"""The context of a job: its relatives, what it holds of a device, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistudio_cli.monitor.device_holders import Holder, holders_of
from tasks.jobs.record import Job, MetricPoint, State
from tasks.ledger.client import Ledger


@dataclass(frozen=True)
class Surroundings:
    """Parents by id, None for one whose record is removed; children in the order of submission.

    `holder` is None for a job that leases no device, `measured` the course of its metrics.
    """

    parents: dict[str, Job | None]
    children: Sequence[Job]
    holder: Holder | None
    measured: Sequence[MetricPoint] = ()


def surroundings_of(ledger: Ledger, jobs: Sequence[Job]) -> list[Surroundings]:
    """Of each of these jobs; as many round trips for many as for one."""
    ids = list(dict.fromkeys(parent for job in jobs for parent in job.parents))
    parents = dict(zip(ids, ledger.many(ids), strict=True))
    children, holders = ledger.children([job.id for job in jobs]), _holders(ledger, jobs)
    series = ledger.series([job.id for job in jobs])
    return [
        Surroundings({parent: parents[parent] for parent in job.parents}, below, holders.get(job.id), measured)
        for job, below, measured in zip(jobs, children, series, strict=True)
    ]


def _holders(ledger: Ledger, jobs: Sequence[Job]) -> dict[str, Holder]:
    """What each job that leases a device holds there, by its id; not to be seen on the devices of other machines."""
    running = [job.id for job in jobs if job.state is State.RUNNING]
    leases = {job: lease for job, lease in (ledger.leases() if running else {}).items() if job in running}
    found = {job: Holder(job, None, lease.expected) for job, lease in leases.items()}
    if leases:
        from tasks.accelerators.devices import read_devices

        for card in read_devices().devices:
            found |= {holder.job: holder for holder in holders_of(card, leases) or ()}
    return found
