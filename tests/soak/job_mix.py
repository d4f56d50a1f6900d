"""The jobs of a chaos run: what is mixed, and in what proportion."""

from __future__ import annotations

import dataclasses
import random
import threading
from pathlib import Path
from typing import Any

from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.storage.store import Store
from tasks.submission.plan import ArtifactCatalog, SubmitOptions, plan
from tests.soak.reader import Visitor

EVERY_S = 0.5

#: This many unfinished jobs are enough to keep all slots busy, and few enough that a purge leaves some over.
AT_ONCE = 40

#: A job under siege may lose its process more often than a job in peace ever does; see `Job.max_attempts`.
LOSSES = 50

#: A poison job crashes each time; it is given up when it has done so as often as a kind's jobs may by default.
CRASH = "crash"

#: Where the slots are that naps can be in; each queue's own kinds are there as well.
NAP_QUEUES = ("training", "extraction", "processing", "datasets")

PRIORITIES = (0, 3, 5, 5, 5, 7, 9, 10)

#: Kind of group to its share of all groups.
SHARES = {"nap": 40, "family": 10, "failing": 5, "poison": 2, "blink": 25, "describe": 12, "cleanup": 6}


class Mixture(Visitor):
    """Submits its jobs, not faster than they end; `through` is set when the last one is accepted."""

    def __init__(self, places: Places, seed: int, wanted: int) -> None:
        super().__init__("mixture", places, EVERY_S)
        self.accepted: set[str] = set()  # only those whose acceptance was received
        self.through = threading.Event()
        self._wanted, self._chance = wanted, random.Random(seed)
        self._marks = marks_of(places)
        self._marks.mkdir()
        self._number = 0

    def count(self) -> int:
        """How many were accepted so far."""
        return len(self.accepted)

    def visit(self, ledger: Ledger, store: Store) -> None:
        """Submit some, if there is room."""
        if self.count() < self._wanted and len(ledger.live_jobs()) < AT_ONCE:
            group = self._group(ArtifactCatalog(ledger, store))
            self.accepted.update(job.id for job in ledger.submit_all(group))
        if self.count() >= self._wanted:
            self.through.set()

    def _group(self, known: ArtifactCatalog) -> list[Job]:
        """Jobs that are submitted at once, drawn by chance."""
        (what,) = self._chance.choices(list(SHARES), list(SHARES.values()))
        made = known.store.names("saes")
        if what == "family":
            return self._family(known)
        if what == "describe" and made:
            return [self._plan(known, "describe", artifact=f"saes/{self._chance.choice(made)}")]
        if what == "cleanup":
            return [self._plan(known, "cleanup", hours=24.0)]
        if what in ("nap", "failing", "poison"):
            return [self._nap(known, {"nap": "well", "failing": "raise", "poison": CRASH}[what])]
        return [self._plan(known, "blink", note=f"note-{self._number}")]

    def _family(self, known: ArtifactCatalog) -> list[Job]:
        """A parent, its child and another, and a child of both: what becomes of the first becomes of all."""
        (end,) = self._chance.choices(("well", "raise", CRASH), (6, 2, 1))
        parent = self._nap(known, end)
        child = self._nap(known, parent=parent.name)
        other = self._plan(known, "blink", after=(parent.id,), note=f"note-{self._number}")
        last = self._nap(known, after=(other.id,), parent=child.name)
        return [parent, child, other, last]

    def _nap(self, known: ArtifactCatalog, end: str = "well", **values: Any) -> Job:
        name = f"nap-{self._number}"
        ticks = self._chance.randint(2, 50)
        job = self._plan(known, "nap", name, ticks=ticks, end=end, marks=str(self._marks / name), **values)
        return dataclasses.replace(job, queue=self._chance.choice(NAP_QUEUES))

    def _plan(
        self, known: ArtifactCatalog, kind: str, name: str | None = None, after: tuple[str, ...] = (), **values: Any
    ) -> Job:
        self._number += 1  # a name whose acceptance was not received is used up
        submit_options = SubmitOptions(self._chance.choice(PRIORITIES), after)
        job = plan(known, kind, values, name=name, submit_options=submit_options)[-1]
        return job if values.get("end") == CRASH else dataclasses.replace(job, max_attempts=LOSSES)


def marks_of(places: Places) -> Path:
    """Where naps leave their marks: a file for each name."""
    return places.home / "marks"
