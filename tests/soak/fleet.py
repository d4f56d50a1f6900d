"""A home with two real workers, and the questions that tests of killing and replacing ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks import kinds
from tasks.jobs import kind as jobs
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_retry import patient
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tests.conftest import PATIENCE_S, until
from tests.soak.processes import Being, Role
from tests.soak.reader import ledger_of
from tests.soak.strikes import Siege
from tests.supervisor.conftest import EXTRA, MISTUDIO, Home, ending

QUEUES = ("training", "high_priority")


@dataclass
class Fleet:
    """One worker for trainings, with one slot, and one for quick jobs."""

    home: Home
    ledger: Ledger
    siege: Siege
    environment: dict[str, str]
    _count: int = 0

    def __call__(self, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as typed in this home."""
        return subprocess.run(
            [MISTUDIO, *words.split()],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )

    def begin(self, words: str) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        pipe = subprocess.PIPE
        return subprocess.Popen([MISTUDIO, *words.split()], env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def start(self) -> None:
        """Have both workers run."""
        for queue in QUEUES:
            started = self(f"workers start --queues {queue}")
            assert started.returncode == 0, started.stderr

    def rows(self, name: str = "worker-training") -> list[dict[str, Any]]:
        """What `workers status --json` says of the workers of that name."""
        result = json.loads(self("workers status --json").stdout)
        return [row for row in result["workers"] if row["name"].startswith(f"{name}@")]

    def submit(self, kind: str, **values: object) -> Job:
        """Submit a job, as Python code would."""
        self._count += 1
        name = f"{kind}-{self._count}-{os.urandom(3).hex()}" if kind == "nap" else None
        return submit(self.ledger, Store(self.home.places.store), kind, dict(values), name=name)[-1]

    def under_way(self, job: Job, attempt: int = 1) -> Being:
        """The job's runner, once that attempt has done some of its work."""

        def done() -> bool:
            now = self.ledger.need(job.id)
            return now.attempt == attempt and now.progress is not None and now.progress.done > 0

        until(done, f"attempt {attempt} of {job.id} to be under way")
        return next(being for being in self.siege.everybody() if being.job == job.id)

    def nap(self) -> tuple[Job, Being]:
        """A job under way that ends only when `wake` is called, and its runner."""
        wake, marks = (self.home.places.home / f"{what}-{self._count}" for what in ("wake", "marks"))
        job = self.submit("nap", ticks=24_000, until=str(wake), marks=str(marks))
        return job, self.under_way(job)

    def first_tick(self, job: Job, attempt: int) -> int:
        """The tick with which an attempt at a nap began."""
        marks = (line.split() for line in Path(job.params["marks"]).read_text().splitlines())
        return next(int(tick) for made_by, _, tick in marks if int(made_by) == attempt)

    def wake(self, job: Job) -> None:
        """Let that nap end."""
        Path(job.params["until"]).touch()

    def ended(self, job: Job) -> Job:
        """Its record when it has ended."""
        until(lambda: patient(self.ledger).need(job.id).state.ended, f"{job.id} to end")
        return self.ledger.need(job.id)

    def reasons(self, job: Job) -> list[str]:
        """Why it went from state to state."""
        return [event["reason"] for event in self.ledger.events(job.id)]

    def now(self, being: Being) -> Being:
        """The same process as it is now."""
        return next(other for other in self.siege.everybody() if other.pid == being.pid)

    def around(self, runner: Being) -> dict[Role, Being]:
        """The processes around a runner, by what they are."""
        everybody = {being.pid: being for being in self.siege.everybody()}
        slot = everybody[runner.parent]
        found = {Role.RUNNER: runner, Role.SLOT: slot, Role.WORKER: everybody[slot.parent]}
        others = [being for being in everybody.values() if being.role in (Role.SUPERVISOR, Role.REDIS)]
        return {**found, **{being.role: being for being in others}}


@contextmanager
def kinds_of_the_tests() -> Iterator[pytest.MonkeyPatch]:
    """Submit the tests' own kinds of job from this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "__path__", [*kinds.__path__, str(EXTRA / "kinds")])
        jobs.kinds.cache_clear()
        yield patch
    jobs.kinds.cache_clear()


@contextmanager
def fleet_up() -> Iterator[Fleet]:
    """A fleet that runs, and is gone afterwards."""
    with kinds_of_the_tests(), tempfile.TemporaryDirectory(prefix="ms-") as folder:
        for home in ending(Path(folder) / "home"):
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "CELERY_"))},
                "MISTUDIO_HOME": str(home.places.home),
                "PYTHONPATH": str(EXTRA),
                "NO_COLOR": "1",
            }
            siege = Siege(home.places, [MISTUDIO, "workers", "start", "--queues", QUEUES[0]], environment)
            with ledger_of(home.places) as ledger:
                fleet = Fleet(home, ledger, siege, environment)
                fleet.start()
                yield fleet
