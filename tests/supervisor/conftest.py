"""Homes of the tests' own, whose supervisor, Redis and workers are real, and gone when the test ends."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli import settings
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.redis import redis_server
from mistudio_cli.settings import Settings
from mistudio_cli.supervisor.redis_keeper import RedisKeeper
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.queues import QUEUES
from tasks.system import process_identity
from tests.conftest import PATIENCE_S, RedisServer, patient_client, until
from tests.supervisor.manual_supervisor import World

EXTRA = Path(__file__).parent.parent / "extra"

#: The workers of the profile `full`, and their slots.
FULL = {queue.worker: queue.concurrency for queue in QUEUES}

MISTUDIO = str(Path(sys.executable).parent / "mistudio")


@dataclass(frozen=True)
class Home:
    """A home, and the questions a test asks of it."""

    settings: Settings

    @property
    def places(self) -> Places:
        return self.settings.places

    @property
    def supervisor(self) -> psutil.Process:
        """The supervisor that answers."""
        result = supervisor_client.status(self.places)
        assert result is not None
        return psutil.Process(result["supervisor"]["pid"])

    @property
    def redis(self) -> psutil.Process:
        """The home's own Redis."""
        server = redis_server.running(self.places)
        assert server is not None
        return server

    def redis_says(self, *command: object) -> Any:
        client = patient_client(redis_server.own_url(self.places))
        try:
            return client.call(*command)
        finally:
            client.close()

    def job(self, job_id: str) -> Job:
        client = patient_client(redis_server.own_url(self.places))
        try:
            return Ledger(client).need(job_id)
        finally:
            client.close()

    def worker(self, name: str = "all-queues") -> dict[str, Any]:
        result = supervisor_client.status(self.places)
        assert result is not None
        return next(worker for worker in result["workers"] if worker["name"].startswith(name + "@"))

    def full_name(self, worker: str) -> str:
        return f"{worker}@{socket.gethostname()}"

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Everything that belongs to this home and lives, with that word in its command line, this test apart."""
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                words = [*command, process.environ().get("MISTUDIO_HOME", ""), process.cwd()]
                lives = process_identity.is_alive(process)
            except psutil.Error:
                continue
            is_ours = any(word.startswith(str(self.places.home)) for word in words)
            if is_ours and lives and word in " ".join(command) and process.pid != os.getpid():
                found.append(process)
        return found


@pytest.fixture
def home(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home that does not exist yet."""
    monkeypatch.setenv("PYTHONPATH", str(EXTRA))
    monkeypatch.setenv("MISTUDIO_CPU_JOBS", "8")  # naps need no processor, and may share it
    yield from ending(short_tmp / "home")


@pytest.fixture(params=["deep", "odd"])
def strange_home(request: pytest.FixtureRequest) -> Iterator[Home]:
    """Homes whose path is longer than a unix socket's may be, or full of what has to be quoted."""
    top = Path(tempfile.mkdtemp(prefix="ms-"))
    yield from ending(top / ("d" * 60) / ("e" * 60) if request.param == "deep" else top / 'über 50% "new" #1')
    shutil.rmtree(top, ignore_errors=True)


def ending(folder: Path) -> Iterator[Home]:
    home = Home(settings.load({"home": str(folder)}))
    yield home
    try:
        supervisor_client.shutdown(home.places, 0.0, redis=True)
    except supervisor_client.NotRunning:
        redis_server.stop(home.places)
    try:
        until(lambda: not home.processes(), "everything to end")
    finally:
        for process in home.processes():
            process.kill()
        if home.places.redis_socket.parent != home.places.run:
            shutil.rmtree(home.places.redis_socket.parent, ignore_errors=True)


Keep = Callable[[], RedisKeeper]


@pytest.fixture
def keep(home: Home) -> Iterator[Keep]:
    """Makes keepers of this home's Redis, which answers."""
    yield from keeping(home)


def keeping(home: Home) -> Iterator[Keep]:
    keepers = []

    def keep() -> RedisKeeper:
        keepers.append(keeper := RedisKeeper(home.places, time.monotonic))
        keeper.wanted = True
        keeper.tick()
        until(keeper.answers, "Redis to answer")
        return keeper

    yield keep
    redis_server.stop(home.places)
    for keeper in keepers:
        keeper.let_go()
        if keeper._started is not None:
            keeper._started.wait(PATIENCE_S)


@pytest.fixture
def world(short_tmp: Path, ledger: Ledger, session_redis: RedisServer) -> Iterator[World]:
    world = World(short_tmp / "h", ledger, session_redis.url)
    yield world
    for child in list(world.supervisor.worker_set._everyone()):
        if child.process is not None:
            child.process.kill_tree()
            until(lambda process=child.process: process.poll() is not None)
    world.supervisor.heartbeat_monitor.close()
