"""Two installations with prefixes of their own share one database of Redis and see nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from tasks.fleet import damaged_entries
from tasks.jobs.record import State
from tasks.ledger import dead_letters
from tests.conftest import RedisServer, until
from tests.fixtures.stack import Stack


@pytest.fixture
def other(stack: Stack) -> Iterator[Stack]:
    """The installation `lab2` on the Redis of `lab`."""
    redis = SimpleNamespace(url=f"{stack.redis.url}&prefix=lab2", socket=stack.redis.socket)
    folder = stack.folder / "other"
    folder.mkdir()
    other = Stack(cast("RedisServer", redis), folder)
    yield other
    other.stop_worker()
    other.ledger.client.close()
    other.app.close()


def keys(stack: Stack) -> set[str]:
    return set(stack.ledger.client.call("KEYS", "*"))


def test_all_that_an_installation_writes_has_its_prefix(other: Stack) -> None:
    other.start_worker()
    assert other.ended(other.submit("blink", note="quick")).state is State.SUCCEEDED
    nap = other.submit("nap", ticks=100_000)
    other.under_way(nap)
    other.ledger.queues.pause("training")
    other.submit("nap", name="held", ticks=1)
    other.app.send_task("mistudio.blink", kwargs={"note": "sent"}, queue="low_priority")
    until(lambda: len(other.ledger.page().jobs) == 4, other.log())
    other.app.control.revoke(nap.id, terminate=True)
    assert other.ended(nap).state is State.CANCELLED
    other.ledger.client.call("LPUSH", "lab2:datasets", "no message")
    until(lambda: dead_letters.read(other.ledger.client), other.log())
    assert {key for key in keys(other) if not key.startswith("lab2:")} == set()
    assert {"lab2:datasets", "lab2:low_priority"} & keys(other) == set(), "all messages have been taken"
    assert any(key.startswith("lab2:held:training") for key in keys(other))
    assert damaged_entries.find(other.ledger.client) == []


def test_neither_sees_the_others_jobs_workers_and_messages(stack: Stack, other: Stack) -> None:
    mine, others = (each.submit("nap", name="same", ticks=3) for each in (stack, other))
    assert [job.id for job in stack.ledger.page().jobs] == [mine.id]
    assert [job.id for job in other.ledger.page().jobs] == [others.id]
    stack.start_worker()
    assert stack.ended(mine).state is State.SUCCEEDED
    assert other.ledger.need(others.id).state is State.QUEUED
    assert other.ledger.queues.messages("training") == 1
    assert other.ledger.workers() == []
    assert other.app.control.inspect(timeout=1).ping() is None
    other.start_worker("--name", "theirs")
    assert other.ended(others).state is State.SUCCEEDED
    assert [heartbeat.name.partition("@")[0] for heartbeat in stack.ledger.workers()] == ["all-queues"]
    theirs = [heartbeat.name for heartbeat in other.ledger.workers()]
    until(lambda: list(other.app.control.inspect(timeout=1).ping() or ()) == theirs)
    stack.ledger.client.call("LPUSH", "datasets", "no message")
    until(lambda: dead_letters.read(stack.ledger.client), stack.log())
    assert dead_letters.read(other.ledger.client) == []
