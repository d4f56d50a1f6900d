"""A Redis that refuses in every way for as long as you like costs no descriptor, no daemon and no job.

MISTUDIO_TEST_REFUSALS_S is for how many seconds; `make soak` takes ten minutes.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import cast

import psutil
import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import AnyRoleClient, Client, Refused, Unreachable, parse_url
from tests.conftest import RedisServer, until
from tests.fixtures.proxy import Proxy, proxied
from tests.supervisor.conftest import Home
from tests.supervisor.refusals import REFUSALS
from tests.supervisor.test_workers import Cli

SECONDS = float(os.environ.get("MISTUDIO_TEST_REFUSALS_S", "0"))
SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "3"))

#: As `ulimit -n` of a small container; a worker at rest has about 25 open.
MOST_FILES, MAY_GROW = 128, 12

#: A job runs for two seconds, so that there is one in every refusal.
TICKS = 40

pytestmark = pytest.mark.timeout(max(300.0, 2 * SECONDS + 300))


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[Proxy]:
    with proxied(own_redis.socket) as before_redis:
        yield before_redis


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator[Client]:
    client = AnyRoleClient(parse_url(own_redis.url))
    client.call("CLIENT", "ID")
    yield client
    client.close()


class Fleet:
    """Two slots and a supervisor with few descriptors, and the jobs that were accepted."""

    def __init__(self, home: Home, admin: Client, marks: Path) -> None:
        self.home, self.ledger, self.marks = home, Ledger(admin), marks
        self.accepted: list[str] = []
        worker = home.worker()
        self.daemons = [home.supervisor, psutil.Process(worker["pid"])]
        self.begun = [self.files(daemon) for daemon in self.daemons]

    def files(self, daemon: psutil.Process) -> int:
        return daemon.num_fds()

    def submit(self) -> None:
        job_id = new_job_id()
        params = {"ticks": TICKS, "marks": str(self.marks / job_id)}
        job = Job(job_id, "nap", job_id, "training", params, artifact=f"saes/{job_id}")
        with suppress(Unreachable, Refused):
            self.ledger.submit(job)
        if self.ledger.get(job_id) is not None:
            self.accepted.append(job_id)

    def waiting(self) -> int:
        return sum(not job.state.ended for job in self.ledger.many(self.accepted) if job)

    def assert_whole(self) -> None:
        """Every daemon is the same as ever, with about as many descriptors as ever."""
        assert all(daemon.is_running() for daemon in self.daemons)
        now = [self.files(daemon) for daemon in self.daemons]
        assert all(after <= before + MAY_GROW for before, after in zip(self.begun, now, strict=True)), (self.begun, now)

    def assert_each_ran_once(self) -> None:
        for job in self.ledger.many(self.accepted):
            assert job is not None
            assert (job.state, job.attempt) == (State.SUCCEEDED, 1), (job, self.ledger.events(job.id))
            ticks = [line.split()[2] for line in (self.marks / job.id).read_text().splitlines()]
            assert ticks == [str(tick) for tick in range(TICKS)], (job, self.ledger.events(job.id))


@pytest.fixture
def fleet(home: Home, admin: Client, proxy: Proxy, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{proxy.port}/0")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, before[1]))  # what is started now inherits it
    try:
        started = Cli(home)("workers start minimal --concurrency 2")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert started.returncode == 0, started.stderr
    (short_tmp / "marks").mkdir()
    yield Fleet(home, admin, short_tmp / "marks")
    proxy.behave()
    Cli(home)("workers stop --now --all")


def test_no_refusal_costs_a_descriptor_a_daemon_or_a_job(
    fleet: Fleet, admin: Client, own_redis: RedisServer, proxy: Proxy
) -> None:
    rng, end = random.Random(SEED), time.monotonic() + SECONDS
    rounds = itertools.count()
    for number, name in zip(rounds, itertools.cycle(REFUSALS)):
        if number >= len(REFUSALS) and time.monotonic() > end:
            break
        fleet.submit()
        refusing = cast("AbstractContextManager[None]", REFUSALS[name](admin, own_redis, proxy))
        with refusing:
            time.sleep(rng.uniform(1.0, 1.5) if not SECONDS else rng.uniform(1, 8))
            if name not in ("stopped", "full"):
                fleet.submit()
        until(lambda: fleet.waiting() < 3, f"the jobs to continue after {name}")
        fleet.assert_whole()
    until(lambda: fleet.waiting() == 0, "all jobs to end")
    fleet.assert_each_ran_once()
    files = [fleet.files(daemon) for daemon in fleet.daemons]
    print(f"{number} refusals, {len(fleet.accepted)} jobs, each once; descriptors {fleet.begun} -> {files}")
