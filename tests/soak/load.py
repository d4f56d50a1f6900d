"""A steady stream of short jobs, and what must be true of them when all have ended."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mistudio_cli import redis_server
from tasks.job import Job, State
from tasks.ledger import Ledger
from tasks.places import Places
from tasks.problem import Problem
from tasks.store import Store
from tasks.submit import submit
from tasks.wire import Refused, Unreachable, connect

EVERY_S = 0.2
NAPS, BLINKS = 3, 6  # at most so many that have not ended


@contextmanager
def ledger_of(places: Places) -> Iterator[Ledger]:
    """The home's own ledger."""
    ledger = Ledger(connect(redis_server.own_url(places)))
    yield ledger
    ledger.close()


class Load(threading.Thread):
    """Submits naps and blinks, as many as the workers end, until it is told to end."""

    def __init__(self, places: Places, seed: int) -> None:
        super().__init__(name="load", daemon=True)
        self.submitted: dict[str, str] = {}  # id to kind; only those whose acceptance was heard
        self.trouble: list[str] = []
        self._places, self._chance = places, random.Random(seed)
        self._ending = threading.Event()
        self._number = 0

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Submit no more."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Submit again and again; while Redis is away, wait."""
        store = Store(self._places.store)
        with ledger_of(self._places) as ledger:
            while not self._ending.wait(EVERY_S):
                try:
                    self._submit_some(ledger, store)
                except (Unreachable, Refused):  # whether it was accepted is not known: its name is used up
                    continue
                except Problem as problem:
                    self.trouble.append(str(problem))

    def _submit_some(self, ledger: Ledger, store: Store) -> None:
        counts = ledger.queues.counts()
        if counts["training"].pending + counts["training"].running < NAPS:
            ticks = self._chance.randint(3, 24)
            self._submit(ledger, store, "nap", ticks=ticks)
        if counts["high_priority"].pending + counts["high_priority"].running < BLINKS:
            self._submit(ledger, store, "blink", note=f"note-{self._number + 1}")

    def _submit(self, ledger: Ledger, store: Store, kind: str, **values: object) -> None:
        self._number += 1
        name = f"{kind}-{self._number}" if kind == "nap" else None
        (job,) = submit(ledger, store, kind, dict(values), name=name)
        self.submitted[job.id] = kind


def faults(ledger: Ledger, store: Store, submitted: Sequence[str]) -> Iterator[str]:
    """What is wrong with the jobs of a home in which all is said and done."""
    jobs = {job_id: ledger.get(job_id) for job_id in ledger.find("", 1_000_000)}
    for job_id in submitted:
        if jobs.get(job_id) is None:
            yield f"job {job_id} was accepted, and there is no record of it"
    for job in jobs.values():
        if job is not None:
            yield from (f"{job.kind} {job.id}: {fault}" for fault in _faults_of(job, ledger, store))


def _faults_of(job: Job, ledger: Ledger, store: Store) -> Iterator[str]:
    if job.state is not State.SUCCEEDED:
        yield f"{job.state}, {job.reason}, attempt {job.attempt}"
        return
    events = ledger.events(job.id)
    claims = Counter(event["attempt"] for event in events if event["reason"] == "claimed")
    if claims != Counter(range(1, job.attempt + 1)):
        yield f"attempts {job.attempt}, claims {dict(claims)}"
    if [event["state"] for event in events if State(event["state"]).ended] != [State.SUCCEEDED]:
        yield f"it ended more than once: {[event['state'] for event in events]}"
    arrows = list(zip(["", *(event["state"] for event in events)], (event["state"] for event in events), strict=False))
    if strange := [arrow for arrow in arrows if arrow not in _ARROWS]:
        yield f"its states went {strange}"
    if job.artifact is not None:
        yield from _faults_of_artifact(job, store)
    elif job.result != {"note": job.params["note"]}:
        yield f"its result is {job.result}"


#: From which state to which; no claim but of a job that waits in its queue.
_ARROWS = {("", "queued"), ("queued", "running"), ("running", "queued"), ("running", "succeeded")}


def _faults_of_artifact(job: Job, store: Store) -> Iterator[str]:
    family, _, name = (job.artifact or "").partition("/")
    manifest = store.find_manifest(family, name)
    if manifest is None or manifest["job"] != job.id:
        yield f"its artifact is {manifest and manifest['job']}'s"
    elif not 1 <= manifest["attempt"] <= job.attempt:
        yield f"attempt {job.attempt}, but the artifact is of attempt {manifest['attempt']}"
    elif (store.path(family, name) / "dream.txt").read_text() != "z" * job.params["ticks"]:
        yield "its artifact is not whole"
