"""The order of jobs in their queues: what decides it, what changes it, and that the messages follow."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.messaging.app import make_app
from tasks.queues import redis_lists, wire_priority
from tests.conftest import RedisServer

NOW = MaintenanceSettings(every_s=0, message_patience_s=-1)


def queued(ledger: Ledger, priority: int = 5, queue: str = "training", **changes: Any) -> str:
    return ledger.submit(Job(new_job_id(), "train", "a", queue, {}, priority=priority, **changes)).id


def messages(ledger: Ledger, queue: str = "training") -> list[str]:
    """Ids in the queue's lists in the order in which a worker takes them."""
    lists = [ledger.client.call("LRANGE", name, 0, -1) for name in redis_lists(queue)]
    return [json.loads(message)["headers"]["id"] for step in lists for message in reversed(step)]


def claim(ledger: Ledger, job_id: str, queue: str = "training", priority: int = 5) -> Any:
    return ledger.claim(job_id, "w@h", "h", 1, queue=queue, step=wire_priority(priority))


def test_priority_comes_before_age_and_the_messages_are_in_that_order(ledger: Ledger) -> None:
    low, first, second, high = (queued(ledger, priority) for priority in (0, 5, 5, 9))
    highest = queued(ledger, 10)  # shares the first step with 9
    assert ledger.need(low).priority == 0
    assert ledger.queues.order("training", 9) == [high, highest, first, second, low] == messages(ledger)
    assert [ledger.queues.place("training", job) for job in (high, low)] == [0, 4]


def test_a_message_is_what_celery_would_send(ledger: Ledger, session_redis: RedisServer) -> None:
    """Celery itself is the oracle, except for fields about the sender."""
    job = queued(ledger, 7)
    ours = json.loads(ledger.client.call("RPOP", redis_lists("training")[wire_priority(7)]))
    app = make_app(session_redis.url)
    app.send_task("mistudio.train", args=[job], task_id=job, queue="training", priority=wire_priority(7))
    theirs = json.loads(ledger.client.call("RPOP", redis_lists("training")[wire_priority(7)]))
    app.close()
    for part in ("content-type", "content-encoding"):
        assert ours[part] == theirs[part]
    for name, value in ours["headers"].items():
        assert name in ("origin", "digest") or theirs["headers"][name] == value, name
    for name, value in ours["properties"].items():
        assert name == "delivery_tag" or theirs["properties"][name] == value
    assert json.loads(ours["body"]) == json.loads(base64.b64decode(theirs["body"]))


def test_the_top_is_before_all_others_and_the_last_put_there_is_first(ledger: Ledger) -> None:
    urgent, plain, other = queued(ledger, 10), queued(ledger), queued(ledger)
    ledger.queues.move(other, top=True)
    ledger.queues.move(plain, top=True)
    assert ledger.queues.order("training", 9) == [plain, other, urgent]
    assert messages(ledger)[:3] == [plain, other, urgent]
    assert claim(ledger, plain) is None, "its old message is stale"
    assert claim(ledger, plain, priority=10) is not None


def test_a_moved_job_is_counted_listed_and_served_where_it_is_now(ledger: Ledger) -> None:
    job = queued(ledger)
    ledger.queues.move(job, "extraction")
    counts = ledger.queues.counts()
    assert (counts["training"].pending, counts["extraction"].pending) == (0, 1)
    assert ledger.need(job).queue == "extraction"
    assert claim(ledger, job) is None
    assert claim(ledger, job, "extraction") is not None
    ledger.finish(ledger.claim(queued(ledger), "w@h", "h"), State.SUCCEEDED, "done")
    assert ledger.queues.counts()["extraction"].running == 1


def test_only_what_has_not_started_has_a_place(ledger: Ledger) -> None:
    job = queued(ledger)
    claim(ledger, job)
    with pytest.raises(UserError, match="is running"):
        ledger.queues.set_priority(job, 9)
    with pytest.raises(UserError, match="There is no job"):
        ledger.queues.move("nobody", "extraction")


def test_another_priority_moves_a_job_and_its_old_message_starts_nothing(ledger: Ledger) -> None:
    first, second = queued(ledger, 8), queued(ledger, 5)
    ledger.queues.set_priority(first, 2)
    assert ledger.queues.order("training", 9) == [second, first]
    assert claim(ledger, first, priority=8) is None
    assert claim(ledger, first, priority=2) is not None


def test_a_job_that_went_back_keeps_its_age(ledger: Ledger) -> None:
    first, second = queued(ledger), queued(ledger)
    held = claim(ledger, first)
    third = queued(ledger)
    ledger.put_back(held, "shutdown", loss=False)
    assert ledger.queues.order("training", 9) == [first, second, third]
    assert messages(ledger)[0] == first


def test_a_paused_queue_starts_nothing_and_resumes_where_it_was(ledger: Ledger) -> None:
    first, second = queued(ledger), queued(ledger, 8)
    assert ledger.queues.pause("training")
    assert not ledger.queues.pause("training")
    third = queued(ledger, 9)
    assert messages(ledger) == []
    assert claim(ledger, first) is None, "a worker had its message already"
    assert ledger.need(first).state is State.QUEUED
    ledger.maintain(NOW)
    assert messages(ledger) == []
    assert ledger.queues.counts()["training"].paused_at is not None
    assert ledger.queues.resume("training")
    assert not ledger.queues.resume("training")
    assert list(dict.fromkeys(messages(ledger))) == [third, second, first]
    assert claim(ledger, first) is not None
    assert ledger.queues.counts()["training"].paused_at is None


def test_purge_cancels_what_is_queued_and_what_waits_for_it_and_nothing_else(ledger: Ledger) -> None:
    running = queued(ledger)
    claim(ledger, running)
    jobs = [queued(ledger) for _ in range(1200)]
    child = queued(ledger, parents=(jobs[7],), queue="extraction")
    elsewhere = queued(ledger, queue="extraction")
    assert ledger.queues.purge("training") == 1200
    assert ledger.need(running).state is State.RUNNING
    assert ledger.need(elsewhere).state is State.QUEUED
    assert ledger.need(jobs[-1]).reason == "purged by the user"
    assert ledger.need(child).state is State.CANCELLED
    assert ledger.queues.counts()["training"].pending == 0


def test_a_queue_that_was_not_served_for_long_has_one_job_served_next_of_all(ledger: Ledger) -> None:
    starving, next_one = queued(ledger, 0, "low_priority"), queued(ledger, 0, "low_priority")
    patient = MaintenanceSettings(every_s=0, served_within_s=600)
    ledger.maintain(patient)
    assert messages(ledger, "low_priority")[0] == starving
    assert ledger.client.call("LLEN", "low_priority") == 0
    for job in (starving, next_one):
        ledger.client.call("HSET", f"mistudio:job:{job}", "queued_at", ledger.now() - 601)
    ledger.maintain(patient)
    ledger.maintain(patient)
    assert ledger.client.call("LLEN", "low_priority") == 1, "one, and it lies where it is taken next"
    assert claim(ledger, starving, "low_priority", 10) is not None
    ledger.maintain(patient)
    assert ledger.client.call("LLEN", "low_priority") == 1, "the queue has just been served"


def test_jobs_that_ended_are_counted_by_the_time_since(ledger: Ledger) -> None:
    for age_s in (0, 100, 400, 1000):
        job = queued(ledger)
        ledger.finish(claim(ledger, job), State.SUCCEEDED, "done")
        ledger.client.call("ZADD", "mistudio:queue:training:ended", ledger.now() - age_s, job)
    assert ledger.queues.counts()["training"].ended == (1, 2, 3)


def test_children_of_one_parent_are_queued_in_the_order_of_their_submission(ledger: Ledger) -> None:
    parent = queued(ledger)
    waiting = [queued(ledger, parents=(parent,)) for _ in range(40)]
    held = claim(ledger, parent)
    assert held is not None
    ledger.finish(held, State.SUCCEEDED, "done")
    assert ledger.queues.order("training", 40) == waiting, "Redis keeps a parent's children in no order"
