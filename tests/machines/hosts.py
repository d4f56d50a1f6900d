"""Workers on the hosts of a network, with one store and one Redis, and a watch over the folders of a job's attempts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tests.conftest import PATIENCE_S, patient_client, until
from tests.fixtures.stack import EXTRA
from tests.machines.network import Network

_LOOK_EVERY_S = 0.02


class Hosts:
    """Workers that share a store, by the name of their host."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.store = Store(folder / "store")
        self.store.root.mkdir()
        self.ledger = Ledger(patient_client(network.url))
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, host: str) -> dict[str, str]:
        """The variables of what runs on that host: a home of its own, the shared store and Redis."""
        return {
            **os.environ,
            "MISTUDIO_HOME": str(self.folder / host),
            "MISTUDIO_STORE": str(self.store.root),
            "CELERY_BROKER_URL": self.network.url_of_hosts,
            "PYTHONPATH": str(EXTRA),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, host: str) -> None:
        """Start a worker of all queues there, and wait until it consumes."""
        with self._log(host).open("ab") as log:
            self.workers[host] = subprocess.Popen(
                self.network.command(host, sys.executable, "-P", "-m", "tasks.worker", "--name", "w", "--slots", "2"),
                cwd=self.folder,
                env=self.environment(host),
                stdout=log,
                stderr=log,
            )
        until(lambda: any(heartbeat.host == host for heartbeat in self.ledger.workers()), self.log(host))

    def stop(self, host: str) -> None:
        """End its worker at once; what it runs is put back."""
        worker = self.workers.pop(host)
        worker.send_signal(signal.SIGQUIT)
        worker.wait(PATIENCE_S)

    def submit(self, kind: str, name: str, **values: object) -> Job:
        return submit(self.ledger, self.store, kind, dict(values), name=name)[-1]

    def run(self, kind: str, name: str, **values: object) -> Job:
        """Submit a job and wait for its success."""
        return self.succeeded(self.submit(kind, name, **values))

    def succeeded(self, job: Job, within_s: float = 240) -> Job:
        until(lambda: self.ledger.need(job.id).state.ended, self.story(job), seconds=within_s)
        ended = self.ledger.need(job.id)
        assert ended.state == "succeeded", self.story(job)
        return ended

    def story(self, job: Job) -> str:
        """What to look at when a test fails."""
        events = "\n".join(f"{event['at']:.1f} {event['reason']}" for event in self.ledger.events(job.id))
        return "\n".join([str(self.ledger.need(job.id)), events, *map(self.log, self.workers)])

    def log(self, host: str) -> str:
        """The end of its worker's log, and of those of its jobs."""
        texts = [path.read_text()[-2000:] for path in (self.folder / host / "logs").glob("jobs/*.log")]
        return "\n".join([f"-- {host}", self._log(host).read_text()[-3000:], *texts])

    def close(self) -> None:
        """Forget all; the network has ended the workers."""
        for worker in self.workers.values():
            worker.wait(20)
        self.ledger.client.close()

    def _log(self, host: str) -> Path:
        return self.folder / f"{host}.log"


class Watch(threading.Thread):
    """Looks at the folders of a job's attempts all the time; `faults` are what must never be seen."""

    def __init__(self, work_folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self._over = work_folder, threading.Event()
        self._gone: set[str] = set()
        self._seen: set[str] = set()
        self._newest = 0
        self.faults: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self.looks += 1
            self._look()

    def end(self) -> None:
        self._over.set()
        self.join()

    def _look(self) -> None:
        there = {path.name for path in self._folder.glob("[0-9]*-*") if path.suffix != ".part"}
        self._gone |= self._seen - there
        self._seen |= there
        if back := there & self._gone:
            self._fault(f"{sorted(back)} was made again")
        if there:
            self._look_at(self._folder / max(there, key=lambda name: int(name.partition("-")[0])))

    def _look_at(self, attempt: Path) -> None:
        steps = [int(path.name.rpartition("-")[2]) for path in attempt.glob("checkpoint-*[0-9]")]
        if not steps or not attempt.exists():  # it begins, or it was just superseded or published
            return
        if max(steps) < self._newest:
            self._fault(f"the newest checkpoint went back from {self._newest} to {max(steps)} in {attempt.name}")
        self._newest = max(self._newest, *steps)

    def _fault(self, sentence: str) -> None:
        if sentence not in self.faults:
            self.faults.append(sentence)


@contextmanager
def watched(work_folder: Path) -> Iterator[Watch]:
    """A watch while the block runs."""
    watch = Watch(work_folder)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()
