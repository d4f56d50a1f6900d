"""Following jobs to their end: waiting and cancelling. Ctrl-C leaves the jobs as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from mistudio_cli.errors import NotFound, TimedOut
from mistudio_cli.jobs.wait_reasons import Reasons
from mistudio_cli.terminal import humanize, output
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import Refused, Unreachable

LOOK_EVERY_S = 0.2

#: Redis may be restarted under a waiting command for so long.
REDIS_PATIENCE_S = 30.0


def watch(ledger: Ledger, job_ids: Sequence[str], timeout_s: float | None = None) -> Iterator[list[Job]]:
    """The jobs' records again and again, until all have ended. TimedOut when that takes longer than `timeout_s`."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        jobs = _read_patiently(ledger, job_ids)
        yield jobs
        if all(job.state.ended for job in jobs):
            return
        if deadline is not None and time.monotonic() >= deadline:
            live = [f"{job.id} ({job.state})" for job in jobs if not job.state.ended]
            raise TimedOut(f"Not over after {timeout_s:g} s: {', '.join(live)}.", "See: mistudio jobs ls")
        time.sleep(LOOK_EVERY_S)


def wait_for(ledger: Ledger, job_ids: Sequence[str], timeout_s: float | None = None) -> list[Job]:
    """The records of these jobs once all have ended; a terminal sees how far they are, and anybody what keeps them."""
    jobs: list[Job] = []
    reasons = Reasons(ledger)
    try:
        for jobs in watch(ledger, job_ids, timeout_s):
            reasons.look(jobs)
            output.talk_over(" | ".join(_at(job) for job in jobs if not job.state.ended))
    finally:
        output.talk_over("")
    return jobs


def ask_to_cancel(ledger: Ledger, job: Job) -> Job:
    """Ask for the job's end and say what that does. Returns its record after asking."""
    if job.state.ended:
        output.talk(f"{job.id} is over already: {job.state}.")
        return job
    requested = ledger.request_cancel(job.id)
    if requested.state is State.CANCELLED:
        output.talk(f"{job.id} was {job.state}: cancelled before it started.")
    elif not requested.state.ended:
        output.talk(f"{job.id} is running: its worker stops it after a checkpoint.")
    return requested


def wait_for_stop(ledger: Ledger, requested: Sequence[Job], timeout_s: float) -> list[Job]:
    """The records of jobs that were asked to end, once they have, saying how each ended."""
    began, ended = time.monotonic(), list(requested)
    waited_for = {job.id for job in requested if not job.state.ended}
    for ended in watch(ledger, [job.id for job in requested], timeout_s):
        for job in ended:
            if job.state.ended and job.id in waited_for:
                waited_for.remove(job.id)
                seconds = time.monotonic() - began
                output.talk(f"{job.id} {job.state} after {seconds:.1f} s: {humanize.one_line(job.reason)}.")
    return ended


def _at(job: Job) -> str:
    return f"{job.kind} {job.name}: {humanize.note(job) if job.state is State.RUNNING else job.state}"


def _read_patiently(ledger: Ledger, job_ids: Sequence[str]) -> list[Job]:
    deadline, is_said = time.monotonic() + REDIS_PATIENCE_S, False
    while True:
        try:
            jobs = ledger.many(job_ids)
        except (Unreachable, Refused) as error:  # it refuses while it loads its data
            if time.monotonic() > deadline:
                raise
            if not is_said:
                output.talk(humanize.one_line(f"Redis does not answer ({error}); trying for {REDIS_PATIENCE_S:g} s."))
            is_said = True
            time.sleep(LOOK_EVERY_S)
            continue
        if None in jobs:
            raise NotFound(f"Job {job_ids[jobs.index(None)]} was removed meanwhile.", "See: mistudio jobs ls")
        return [job for job in jobs if job]


def why(job: Job) -> str:
    """What to say after the state of an ended job."""
    return "" if job.state is State.SUCCEEDED else f": {humanize.note(job) or humanize.one_line(job.reason)}"
