"""What people do while a home is struck at: chooses which jobs and queues they pause, cancel, retry or move."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from mistudio_cli.errors import Code
from tasks.errors import UserError
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.storage.store import Store
from tasks.submission.plan import ArtifactCatalog
from tasks.submission.retry import plan_retry
from tests.conftest import PATIENCE_S
from tests.soak.job_mix import NAP_QUEUES, PRIORITIES
from tests.soak.reader import Visitor
from tests.supervisor.conftest import MISTUDIO

EVERY_S = 0.7

#: What the record of a job says whose end they asked for.
REQUESTED, PURGED = "cancelled in the chaos", "purged in the chaos"

#: A purge ends all that is queued: it is left out when that is more than a few.
_FEW = 6

_LIVE = (State.WAITING, State.QUEUED, State.RUNNING)
_ENDED = (State.FAILED, State.CANCELLED, State.SUCCEEDED)


class Acts(Visitor):
    """One act each time, drawn by chance; `done` counts those whose answer was received.

    There are no more of them than `jobs` were taken on: most shall be let alone, on a slow machine too.
    """

    def __init__(self, places: Places, seed: int, environment: dict[str, str], jobs: Callable[[], int]) -> None:
        super().__init__("acts", places, EVERY_S)
        self.done: Counter[str] = Counter()
        self.tried_again: dict[str, str] = {}  # a job to the one that tries it again
        self._chance, self._environment, self._jobs = random.Random(seed), environment, jobs
        self._resume_at: dict[str, float] = {}
        self._acts: dict[Callable[[Ledger, Store], None], int] = {
            self._cancel: 8,
            self._retry: 5,
            self._move: 4,
            self._set_priority: 4,
            self._pause: 2,
            self._purge: 1,
        }

    def visit(self, ledger: Ledger, store: Store) -> None:
        """Resume queues that were paused for long enough, then do something."""
        for queue in [queue for queue, at in self._resume_at.items() if at < time.monotonic()]:
            if self._command("resume", queue):
                del self._resume_at[queue]
        if self.done.total() > self._jobs():
            return
        (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
        act(ledger, store)

    def resume_all(self, ledger: Ledger) -> None:
        """Leave no queue paused."""
        for queue in QUEUE_NAMES:
            ledger.queues.resume(queue)

    def _cancel(self, ledger: Ledger, _: Store) -> None:
        job = self._one_of(ledger, _LIVE)
        if job is not None:
            ledger.request_cancel(job.id, REQUESTED)
            self.done[f"cancel of one {job.state}"] += 1

    def _retry(self, ledger: Ledger, store: Store) -> None:
        job = self._one_of(ledger, _ENDED)
        if job is None:
            return
        try:
            *before, again = plan_retry(ArtifactCatalog(ledger, store), job)
            ledger.submit_all([*before, dataclasses.replace(again, max_attempts=job.max_attempts)])
        except UserError:  # what it made is there, or another makes it
            self.done["retry refused"] += 1
            return
        self.tried_again[again.id] = job.id
        self.done[f"retry of one {job.state}"] += 1

    def _move(self, ledger: Ledger, _: Store) -> None:
        to_top = self._chance.random() < 0.5
        to = None if to_top else self._chance.choice(NAP_QUEUES)
        self._replace(
            ledger, "move to the top" if to_top else "move", lambda job: ledger.queues.move(job, to, top=to_top)
        )

    def _set_priority(self, ledger: Ledger, _: Store) -> None:
        priority = self._chance.choice(PRIORITIES)
        self._replace(ledger, "set-priority", lambda job: ledger.queues.set_priority(job, priority))

    def _replace(self, ledger: Ledger, what: str, change: Callable[[str], None]) -> None:
        job = self._one_of(ledger, (State.QUEUED, State.WAITING))
        if job is None:
            return
        try:
            change(job.id)
        except UserError:  # it was started meanwhile
            what += " too late"
        self.done[what] += 1

    def _pause(self, _: Ledger, __: Store) -> None:
        queue = self._chance.choice(QUEUE_NAMES)
        if queue not in self._resume_at and self._command("pause", queue):
            self._resume_at[queue] = time.monotonic() + self._chance.uniform(1.0, 5.0)

    def _purge(self, ledger: Ledger, _: Store) -> None:
        counts = ledger.queues.counts()
        few = [queue for queue, count in counts.items() if 0 < count.pending <= _FEW]
        if few:
            ledger.queues.purge(self._chance.choice(few), PURGED)
            self.done["purge"] += 1

    def _command(self, verb: str, queue: str) -> bool:
        """As a person types it; False when Redis was away."""
        command = [MISTUDIO, "queue", verb, queue]
        result = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=PATIENCE_S)
        if result.returncode not in (0, Code.UNREACHABLE):
            self.trouble.append(f"queue {verb} {queue}: {result.returncode} {result.stderr}")
        self.done[verb] += result.returncode == 0
        return result.returncode == 0

    def _one_of(self, ledger: Ledger, states: tuple[State, ...]) -> Job | None:
        jobs = ledger.page(Filter(states=(self._chance.choice(states),))).jobs
        return self._chance.choice(jobs) if jobs else None
