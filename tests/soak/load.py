"""A steady stream of short jobs, and what must be true of them when all have ended."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tests.soak.invariants import faults_of, lives
from tests.soak.reader import Visitor

EVERY_S = 0.2
NAPS, BLINKS = 3, 6  # the most that have not ended


class Load(Visitor):
    """Submits naps and blinks, as many as the workers end, until it is asked to stop."""

    def __init__(self, places: Places, seed: int) -> None:
        super().__init__("load", places, EVERY_S)
        self.submitted: dict[str, str] = {}  # id to kind; only those whose acceptance was received
        self._chance = random.Random(seed)
        self._number = 0

    def visit(self, ledger: Ledger, store: Store) -> None:
        """Submit what there is room for."""
        counts = ledger.queues.counts()
        if counts["training"].pending + counts["training"].running < NAPS:
            ticks = self._chance.randint(3, 24)
            self._submit(ledger, store, "nap", ticks=ticks)
        if counts["high_priority"].pending + counts["high_priority"].running < BLINKS:
            self._submit(ledger, store, "blink", note=f"note-{self._number + 1}")

    def _submit(self, ledger: Ledger, store: Store, kind: str, **values: object) -> None:
        self._number += 1  # a name whose acceptance was not received is used up
        name = f"{kind}-{self._number}" if kind == "nap" else None
        (job,) = submit(ledger, store, kind, dict(values), name=name)
        self.submitted[job.id] = kind


def faults(ledger: Ledger, store: Store, submitted: Sequence[str]) -> Iterator[str]:
    """What is wrong with the jobs of a home in which all is said and done, and all should have gone well."""
    jobs = lives(ledger)
    for job_id in submitted:
        if job_id not in jobs:
            yield f"job {job_id} was accepted, and there is no record of it"
    for life in jobs.values():
        job = life.job
        if job.state is not State.SUCCEEDED:
            yield f"{job.kind} {job.id}: {job.state}, {job.reason}, attempt {job.attempt}"
        elif job.kind == "blink" and job.result != {"note": job.params["note"]}:
            yield f"{job.kind} {job.id}: its result is {job.result}"
        yield from faults_of(life, store)
