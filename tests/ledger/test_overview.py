"""The overview: everything that is watched, in one round trip, and the same with and without scripts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from tasks.fleet import acl
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress, State
from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import Card
from tasks.ledger.overview import Overview, Wanted
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_connection import Client
from tasks.redis_client.redis_url import Address
from tests.conftest import RedisServer

HEARTBEAT = WorkerHeartbeat("all-queues@elsewhere", "elsewhere", 7, ("datasets", "training"), 3, 1000.0)
ALL = Wanted(running=10, recent=4, queued=3, runs=5)


@pytest.fixture
def busy(ledger: Ledger) -> Ledger:
    """A ledger with some of everything."""
    ledger.heartbeat(HEARTBEAT)
    ledger.client.call("HSET", "mistudio:hosts", "lab:/home", json.dumps({"host": "lab"}))
    for end in (None, State.SUCCEEDED, State.FAILED, State.CANCELLED):
        claim = ledger.claim(submit(ledger).id, HEARTBEAT.name, HEARTBEAT.host, HEARTBEAT.pid)
        assert claim is not None
        ledger.report(claim, Progress("train", 1, 10, "step", 0.5))
        if end is None:
            ledger.lease_device(claim, [Card("GPU-a", "cuda:0", 10, 0)], 1)
        else:
            ledger.finish(claim, end, "so it ended")
    for priority in (1, 9, 5, 5):
        submit(ledger, priority=priority)
    submit(ledger, queue="datasets")
    ledger.queues.pause("datasets")
    return ledger


def submit(ledger: Ledger, queue: str = "training", **changes: object) -> Job:
    return ledger.submit(Job(new_job_id(), "train", "a", queue, {}, **changes))


def trips_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commands in each round trip from now on."""
    trips: list[int] = []
    exchange = Client._exchange

    def counted(self: Client, packed: list[bytes]) -> list:
        if self is client:
            trips.append(len(packed))
        return exchange(self, packed)

    monkeypatch.setattr(Client, "_exchange", counted)
    return trips


def without_times(seen: Overview) -> Overview:
    return dataclasses.replace(seen, read_at=0.0, server_info=())


def test_everything_takes_one_round_trip(busy: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(60):
        submit(busy)
    busy.client.call("SCRIPT", "FLUSH")
    trips = trips_of(busy.client, monkeypatch)
    seen = overview.read(busy.client, Wanted(200, 50, 20))
    assert len(trips) == 1
    assert (len(seen.running), len(seen.recent), len(seen.queued["training"])) == (1, 50, 20)


def test_it_says_what_the_single_questions_say(busy: Ledger) -> None:
    before = busy.now()
    seen = overview.read(busy.client, ALL)
    assert before <= seen.read_at <= busy.now()
    assert seen.counts == busy.queues.counts()
    assert list(seen.heartbeats) == busy.heartbeats()
    assert (seen.leases, list(seen.holders)) == (busy.leases(), busy.holders())
    page = busy.page(limit=4)
    assert (seen.recent, seen.next) == (page.jobs, page.next)
    assert [job.state for job in seen.running] == [State.RUNNING]
    for queue, jobs in seen.queued.items():
        full = busy.many(busy.queues.order(queue, 3))
        assert list(jobs) == [dataclasses.replace(job, params={}) for job in full if job]
    assert list(seen.hosts) == ["lab:/home"]


def test_the_last_page_has_no_next(busy: Ledger) -> None:
    jobs = len(busy.page(limit=100).jobs)
    assert overview.read(busy.client, Wanted(recent=jobs)).next is None
    assert overview.read(busy.client, Wanted(recent=jobs - 1)).next is not None
    assert overview.read(busy.client, Wanted()).next is None


def test_ends_are_counted_by_outcome(busy: Ledger) -> None:
    count = overview.read(busy.client, ALL).counts["training"]
    assert (count.ended, count.succeeded, count.failed, count.cancelled) == ((3,) * 3, (1,) * 3, (1,) * 3, (1,) * 3)


def test_runs_are_those_that_succeeded_with_their_estimates(ledger: Ledger) -> None:
    for estimate_s, end in ((None, State.SUCCEEDED), (12.5, State.SUCCEEDED), (7.0, State.FAILED)):
        claim = ledger.claim(submit(ledger, estimate_s=estimate_s).id, HEARTBEAT.name, HEARTBEAT.host)
        assert claim is not None
        ledger.finish(claim, end, "so it ended")
    ledger.client.call("HSET", "mistudio:job:odd", "kind", "train", "finished_at", "no time")
    ledger.client.call("ZADD", "mistudio:by:state:succeeded", 1, "odd")
    found = overview.read(ledger.client, ALL).runs
    assert [(run.kind, run.estimate_s) for run in found] == [("train", 12.5), ("train", None)]
    assert all(0 <= run.seconds < 60 for run in found)


def test_a_job_that_never_ran_is_no_throughput(ledger: Ledger) -> None:
    ledger.request_cancel(submit(ledger).id)
    count = overview.read(ledger.client, ALL).counts["training"]
    assert (count.ended, count.cancelled) == ((0,) * 3, (0,) * 3)


@pytest.mark.parametrize("role", ["reader", "submitter"])
def test_each_role_reads_the_same(
    busy: Ledger, session_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """A reader has no right to scripts: it needs a second round trip, and reads the same."""
    expected = overview.read(busy.client, ALL)
    (found,) = (each for each in acl.ROLES if each.name == role)
    busy.client.call("ACL", "SETUSER", "one", *found.rules(Address(), "pw"))
    client = redis_connection.connect(session_redis.url.replace("://", "://one:pw@"))
    try:
        client.open()
        trips = trips_of(client, monkeypatch)
        assert without_times(overview.read(client, ALL)) == without_times(expected)
        assert len(trips) == (2 if role == "reader" else 1)
        busy.client.call("ACL", "LOG", "RESET")
        assert without_times(overview.read(client, ALL)) == without_times(expected)
        assert busy.client.call("ACL", "LOG") == [], "a refusal is not asked for again"
    finally:
        client.close()
        busy.client.call("ACL", "DELUSER", "one")


def test_another_prefix_is_another_ledger(busy: Ledger) -> None:
    other = Client(dataclasses.replace(busy.client.address, prefix="lab2"))
    seen = overview.read(other, ALL)
    other.close()
    assert (seen.heartbeats, seen.recent, seen.counts["training"].pending) == ((), (), 0)


def test_the_script_is_the_one_that_is_called() -> None:
    text = (Path(overview.__file__).parent / "overview.lua").read_bytes()
    assert hashlib.sha1(text).hexdigest() == overview.SCRIPT_SHA


def test_a_script_that_an_upgrade_replaced_under_the_process_is_done_without(
    busy: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = without_times(overview.read(busy.client, ALL))
    monkeypatch.setattr(overview, "SCRIPT_SHA", "0" * 40)
    assert without_times(overview.read(busy.client, ALL)) == expected
