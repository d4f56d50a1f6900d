"""Changing jobs and queues one at a time, and the sentence on what became of it: for commands and for `top`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mistudio_cli.terminal.humanize import count_of
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger

if TYPE_CHECKING:
    from mistudio_cli.submission.retrying import Begun


def set_priority(ledger: Ledger, job: Job, priority: int) -> str:
    """Change the priority of a job that has not started. UserError for any other."""
    ledger.queues.set_priority(job.id, priority)
    return f"{job.id} has priority {priority} now; it had {job.priority}."


def pause_queue(ledger: Ledger, name: str) -> str:
    """Start no more jobs of a queue."""
    outcome = "is paused" if ledger.queues.pause(name) else "was paused already"
    return f"{name} {outcome}; {_queued(ledger, name)}. Resume: mistudio queue resume {name}"


def resume_queue(ledger: Ledger, name: str) -> str:
    """Start jobs of a queue again."""
    outcome = "is resumed" if ledger.queues.resume(name) else "was not paused"
    return f"{name} {outcome}; {_queued(ledger, name)}."


def describe_retries(begun: Begun) -> Iterator[str]:
    """A sentence for each job that was submitted, those needed first included."""
    for job in begun.jobs:
        why = f"another try of {job.retry_of}; {begun.how(job)}" if job.retry_of else "needed first"
        yield f"{job.id} {job.kind} {job.name} in {job.queue}, {why}"


def _queued(ledger: Ledger, name: str) -> str:
    return f"{count_of(ledger.queues.counts()[name].pending)} queued"
