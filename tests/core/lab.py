"""A home with a real Redis and a real worker, for the tests of what becomes of jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tasks.jobs.kind import Job
from tasks.ledger.client import Ledger
from tasks.messaging.app import make_app
from tasks.redis_client.redis_connection import connect
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tests.conftest import RedisServer, until

EXTRA = Path(__file__).parent.parent / "extra"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """A home with a Redis and one worker, and the questions a test asks of them."""

    def __init__(self, redis: RedisServer, folder: Path) -> None:
        self.redis, self.folder = redis, folder
        self.app = make_app(redis.url)
        self.ledger = Ledger(connect(redis.url))
        self.store = Store(folder / "home" / "store")
        self.worker: subprocess.Popen[bytes] | None = None

    def start_worker(self, *flags: str, slots: int = 2, **variables: str) -> subprocess.Popen[bytes]:
        self.worker = self.popen("--slots", str(slots), *flags, **variables)
        pid = self.worker.pid
        until(lambda: any(heartbeat.pid == pid for heartbeat in self.ledger.workers()), 30, self.log())
        return self.worker

    def popen(self, *flags: str, name: str = "all-queues", **variables: str) -> subprocess.Popen[bytes]:
        """A worker's process, which may not consume yet."""
        with (self.folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "tasks.worker", "--name", name, *flags],
                cwd=self.folder,
                env=self.environment(**variables),
                stdout=log,
                stderr=log,
            )

    def environment(self, **variables: str) -> dict[str, str]:
        """What a worker of this home is started with."""
        return {
            **os.environ,
            "MISTUDIO_CPU_JOBS": "8",  # naps need no processor, and may share it
            "MISTUDIO_STORE": str(self.store.root),
            **variables,
            "MISTUDIO_HOME": str(self.folder / "home"),
            "CELERY_BROKER_URL": self.redis.url,
            "PYTHONPATH": str(EXTRA),
        }

    def stop_worker(self, signum: signal.Signals = signal.SIGTERM) -> None:
        if self.worker is not None and self.worker.poll() is None:
            self.worker.send_signal(signum)
            self.worker.wait(60)

    def submit(self, kind: str, /, name: str | None = None, after: tuple[str, ...] = (), **values: object) -> Job:
        return submit(self.ledger, self.store, kind, dict(values), name=name, after=after)[-1]

    def ended(self, job: Job) -> Job:
        until(lambda: self.ledger.need(job.id).state.ended, 60, f"{self.ledger.need(job.id)}\n{self.log()}")
        return self.ledger.need(job.id)

    def under_way(self, job: Job) -> psutil.Process:
        """The job's runner, once it has done some of its work."""
        until(lambda: (result := self.ledger.need(job.id).progress) and result.done > 0, 30, self.log())
        runner = self.runner(job)
        assert runner is not None, self.log()
        return runner

    def runner(self, job: Job) -> psutil.Process | None:
        """The process that does a job's work, if there is one."""
        return next((p for p in psutil.process_iter(["cmdline"]) if job.id in (p.info["cmdline"] or ())), None)

    def reasons(self, job: Job) -> list[str]:
        return [event["reason"] for event in self.ledger.events(job.id)]

    def log(self) -> str:
        path = self.folder / "worker.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def left_in_tmp(self) -> list[str]:
        return self.store.work_folders()
