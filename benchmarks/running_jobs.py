"""Jobs of which some run, as far as the ledger knows, and advance once a second; nothing executes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, MetricPoint, Progress
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import connect

#: A digest of parameters that no worker has: these jobs are left alone.
_OF_NO_WORKER = "benchmark"


@contextmanager
def running_jobs(url: str, running: int, waiting: int) -> Iterator[None]:
    """That many trainings that advance, and others that wait for a paused queue."""
    with closing(connect(url)) as client:
        ledger, over = Ledger(client), threading.Event()
        jobs = [
            Job(new_job_id(), "train", f"pythia-160m-l6-topk-{number}", "training", {}, digest=_OF_NO_WORKER)
            for number in range(running + waiting)
        ]
        claims = [_claimed(ledger, ledger.submit(job), number) for number, job in enumerate(jobs[:running])]
        ledger.queues.pause("training")
        for job in jobs[running:]:
            ledger.submit(job)
        thread = threading.Thread(target=_advance, args=(ledger, claims, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _advance(ledger: Ledger, claims: list[Claim], over: threading.Event) -> None:
    steps = 0
    while not over.wait(1.0):
        steps += 25
        for claim in claims:
            ledger.renew(claim)
            values = {"loss": 100.0 / steps, "fvu": 10.0 / steps, "l0": 32.0}
            ledger.report(claim, Progress("training", steps, 20_000, "steps", 25.0), MetricPoint(steps, values))


def _claimed(ledger: Ledger, job: Job, number: int) -> Claim:
    claim = ledger.claim(job.id, f"worker-{number}@bench", "bench")
    assert claim is not None
    return claim
