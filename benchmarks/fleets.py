"""Two fleets to compare: `full` under mistudio's supervisor, and the six plain Celery command lines of the past."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mistudio_cli.fleet import supervisor_client
from mistudio_cli.redis import redis_server
from tasks.paths import Places
from tasks.queues import QUEUES

BIN = Path(sys.executable).parent

#: The limits that the plain command lines of the GPU queues had.
KIB_PER_CHILD = {"training": 4_000_000, "extraction": 2_000_000}

#: One app with six queues and no settings beyond the broker, as the command lines below had it.
PLAIN_APP = """
from celery import Celery
app = Celery("plain", broker={url!r}, backend={url!r})
"""


@dataclass
class Fleet:
    """Workers that are up: how long that took, and the processes they are."""

    url: str
    ready_s: float
    environment: dict[str, str]
    processes: list[psutil.Process] = field(default_factory=list)

    def pss_mb(self) -> float:
        """Proportional set size of all processes, in MB; RSS would count shared pages once for each."""
        return sum(process.memory_full_info().pss for process in self.processes) / 1e6


@contextmanager
def own_fleet() -> Iterator[Fleet]:
    """`mistudio workers start full` in an empty home: its Redis and supervisor are in the time too.

    Ready when the command returns, which is when each worker has answered.
    """
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    environment = {**os.environ, "MISTUDIO_HOME": str(folder)}
    environment.pop("CELERY_BROKER_URL", None)
    places = Places(folder, folder / "store")
    try:
        began = time.perf_counter()
        run_quietly([str(BIN / "mistudio"), "workers", "start", "full"], environment)
        fleet = Fleet(redis_server.own_url(places), time.perf_counter() - began, environment)
        fleet.processes = _descendants_of(places)
        yield fleet
    finally:
        stop = [str(BIN / "mistudio"), "workers", "stop", "--all", "--now"]
        try:
            run_quietly(stop, environment)
        except KeyboardInterrupt:  # it may have come before the supervisor had the request
            run_quietly(stop, environment)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def plain_fleet() -> Iterator[Fleet]:
    """Six `celery worker` command lines on a Redis that is up already; ready when all six answer a ping."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    places = Places(folder, folder / "store")
    url = redis_server.own_url(places)
    (folder / "plain.py").write_text(PLAIN_APP.format(url=url))
    server = redis_server.start(places)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        while not redis_server.answers(places):
            time.sleep(0.01)
        began = time.perf_counter()
        for queue in QUEUES:
            words = ["-Q", queue.name, "-c", str(queue.concurrency), f"--hostname={queue.worker}@%h"]
            words += [f"--max-memory-per-child={KIB_PER_CHILD[queue.name]}"] if queue.name in KIB_PER_CHILD else []
            command = [str(BIN / "celery"), "-A", "plain", "worker", *words]
            workers.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        _await_pings(url, len(workers))
        ready_s = time.perf_counter() - began
        mains = [psutil.Process(worker.pid) for worker in workers]
        processes = [process for main in mains for process in (main, *main.children(recursive=True))]
        yield Fleet(url, ready_s, dict(os.environ), processes)
    finally:
        try:
            end(workers)
        finally:
            end([server] if server is not None else [])
            shutil.rmtree(folder, ignore_errors=True)


def run_quietly(command: list[str], environment: dict[str, str]) -> None:
    """Run a command to its end; raises when it fails."""
    subprocess.run(command, env=environment, cwd="/", capture_output=True, check=True, timeout=120)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End these; whatever interrupts the waiting, Ctrl-C too, none is left."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    except BaseException:
        for process in processes:
            process.kill()
            process.wait()
        raise


def _await_pings(url: str, count: int) -> None:
    from celery import Celery

    app = Celery(broker=url)
    while len(app.control.ping(timeout=0.1, limit=count)) < count:
        continue
    app.close()


def _descendants_of(places: Places) -> list[psutil.Process]:
    status = supervisor_client.status(places)
    assert status is not None
    supervisor = psutil.Process(status["supervisor"]["pid"])
    children = supervisor.children(recursive=True)
    return [supervisor, *(child for child in children if "redis-server" not in child.name())]
