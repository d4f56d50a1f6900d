"""The warning about jobs that the master has accepted and no replica has acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_cli.terminal import output
from tasks.jobs.record import Job
from tasks.ledger.client import REPLICATED_WITHIN_S, Ledger


def warn_if_unreplicated(ledger: Ledger, jobs: Sequence[Job]) -> None:
    """Warn about these jobs, just submitted, unless replicas have acknowledged them or none are asked to."""
    if ledger.replicated is False and jobs:
        warn(jobs)


def warn(jobs: Sequence[Job]) -> None:
    """Warn that these jobs are accepted, and lost if the master fails before a replica has them."""
    which = f"job {jobs[0].id} was" if len(jobs) == 1 else f"{len(jobs)} jobs, {jobs[0].id} to {jobs[-1].id}, were"
    output.talk(
        f"Warning: {which} accepted by the master alone: no replica acknowledged that within "
        f"{REPLICATED_WITHIN_S:g} s, and it is lost if the master fails now."
    )
    output.talk("  Check the replicas: mistudio doctor (without any on purpose: ?replicas=0 in the URL)")
