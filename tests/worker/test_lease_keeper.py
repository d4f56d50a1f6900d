"""What a slot's keeper judges, by a clock that the test moves and a ledger that is real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.jobs.record import Job, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import Client, Refused, Unreachable, connect
from tasks.worker.lease_keeper import LeaseKeeper
from tests.conftest import RedisServer, until
from tests.fixtures.stack import Clock

HOUR = 3600


class Held:
    """A claimed job in a real ledger, and the clock of who keeps it."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis, self.clock = redis, Clock()
        self.ledger = Ledger(connect(redis.url))
        self.job = self.ledger.submit(Job("held", "train", "held", "training", {}))
        self._statuses: list[str] = []

    def keeper(self) -> LeaseKeeper:
        claim = self.ledger.claim(self.job.id, "worker", "host")
        assert claim is not None
        self.claim = claim
        return LeaseKeeper(_Overheard(connect(self.redis.url), self._statuses), claim, self.clock)

    def report(self, phase: str, done: int) -> None:
        assert self.ledger.report(self.claim, Progress(phase, done, None, "")) == "ok"

    def renewed_twice(self) -> None:
        """From now on: after the second time, what came before has been judged."""
        before = len(self._statuses)
        until(lambda: self._statuses[before:].count("ok") >= 2)

    def asked_in_vain(self) -> bool:
        return self._statuses[-1] == "away"


class _Overheard(Ledger):
    """A ledger that records its replies."""

    def __init__(self, client: Client, result: list[str]) -> None:
        super().__init__(client)
        self._statuses = result

    def renew(self, claim: Claim) -> str:
        try:
            status = super().renew(claim)
        except (Unreachable, Refused):
            status = "away"
            raise
        finally:
            self._statuses.append(status)
        return status


@pytest.fixture
def held(own_redis: RedisServer) -> Iterator[Held]:
    held = Held(own_redis)
    yield held
    held.ledger.close()


def test_a_job_that_stalls_each_time_is_given_up(held: Held) -> None:
    for _ in range(held.job.max_attempts):
        with held.keeper() as keeper:
            keeper.work_started()
            held.renewed_twice()
            held.clock.now += HOUR
            until(lambda keeper=keeper: keeper.stop_reason == "stall")
            assert keeper.record_outcome(held.ledger, "stopped on request") == "ok"
    job = held.ledger.need(held.job.id)
    assert (job.state, job.reason) == (State.FAILED, "no progress for 30 min after it began; stopped on request")


def test_waiting_for_a_gpu_is_no_stall_and_no_work(held: Held) -> None:
    with held.keeper() as keeper:
        held.report("waiting for a GPU", 0)
        held.renewed_twice()
        held.clock.now += 10 * HOUR
        held.renewed_twice()
        assert keeper.stop_reason == ""
        keeper.work_started()
        held.renewed_twice()
        held.clock.now += HOUR / 2
        held.renewed_twice()
        assert keeper.stop_reason == ""
        held.clock.now += 1
        until(lambda: keeper.stop_reason == "stall")


def test_progress_of_any_kind_is_no_stall(held: Held) -> None:
    with held.keeper() as keeper:
        keeper.work_started()
        for phase, done in (("loading", 0), ("training", 0), ("training", 1), ("measuring", 1)):
            held.report(phase, done)
            held.renewed_twice()
            held.clock.now += HOUR / 2
        held.renewed_twice()
        assert keeper.stop_reason == ""


def test_nothing_is_judged_while_redis_is_away(held: Held) -> None:
    with held.keeper() as keeper:
        keeper.work_started()
        held.report("training", 7)
        held.renewed_twice()
        held.redis.kill()
        until(held.asked_in_vain)
        held.clock.now += 10 * HOUR
        held.redis.start()
        held.renewed_twice()
        assert keeper.stop_reason == ""
        held.clock.now += HOUR
        until(lambda: keeper.stop_reason == "stall")


def test_a_redis_that_refuses_for_a_while_costs_no_job_its_lease(held: Held) -> None:
    with held.keeper() as keeper:
        keeper.work_started()
        held.renewed_twice()
        held.ledger.client.call("CONFIG", "SET", "maxmemory", "1")
        until(held.asked_in_vain)
        held.ledger.client.call("CONFIG", "SET", "maxmemory", "0")
        held.renewed_twice()
        assert keeper.stop_reason == ""


def test_too_much_memory_leaves_a_job_little_time_to_stop(held: Held) -> None:
    with held.keeper() as keeper:
        keeper.work_started()
        keeper.request_stop("memory", "It held 17.2 GB, more than the 16 GB a job may hold here", "Use less.")
        held.clock.now += 5
        assert not keeper.time_is_up
        held.clock.now += 1
        assert keeper.time_is_up
        keeper.record_outcome(held.ledger, keeper.how_killed)
    story = (
        "It held 17.2 GB, more than the 16 GB a job may hold here; killed: it did not stop within 5 s of the request."
    )
    assert held.ledger.need(held.job.id).reason == story + " Use less."
