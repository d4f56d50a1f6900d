"""Among strangers: what others put into Redis neither ends a worker nor vanishes, and a bad day of Redis passes."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from tasks.jobs.kind import Job, State
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.queues import redis_lists
from tests.conftest import until
from tests.core.lab import Lab

BELL = {
    "body": "W10=",
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"task": "mistudio.blink", "id": "x", "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"},
    "properties": {
        "delivery_tag": "t",
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "datasets"},
    },
}


def without(*path: str) -> str:
    """A message that lacks one part."""
    message = json.loads(json.dumps(BELL))
    part = message
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps(message)


GARBAGE = {
    "text": "rm -rf /",
    "bytes": b"\xff\xfe\x00",
    "null": "null",
    "number": "7",
    "list": '["a", {}]',
    "object": "{}",
    "no date": '{"__type__": "datetime", "__value__": 5}',
    "deep": "[" * 100_000,
    "no tag": without("properties", "delivery_tag"),
    "no id": without("headers", "id"),
    "no headers": without("headers"),
    "no delivery": without("properties", "delivery_info"),
    "tag is null": json.dumps({**BELL, "properties": {**BELL["properties"], "delivery_tag": None}}),
    "tag is a list": json.dumps({**BELL, "properties": {**BELL["properties"], "delivery_tag": []}}),
    "deep body": json.dumps({**BELL, "body": base64.b64encode(b"[" * 100_000).decode()}),
    "bad body": json.dumps({**BELL, "body": "!"}),
    "bad encoding": json.dumps({**BELL, "properties": {**BELL["properties"], "body_encoding": "rot13"}}),
    "pickle": json.dumps({**BELL, "content-type": "application/x-python-serialize"}),
}


def put_aside(lab: Lab) -> list[dead_letters.DeadLetter]:
    return dead_letters.read(lab.ledger.client, 100)


def whole_log(lab: Lab) -> str:
    return (lab.folder / "worker.log").read_text()


def wait_for(condition: Callable[[], object], lab: Lab, seconds: float = 40.0) -> None:
    """Wait; tell the worker's log if it is in vain."""
    try:
        until(condition, seconds)
    except pytest.fail.Exception:
        pytest.fail(whole_log(lab)[-20_000:])


def test_what_is_no_message_is_put_aside_and_the_worker_goes_on(lab: Lab) -> None:
    worker = lab.start_worker()
    lists = [name for queue in ("datasets", "training", "low_priority") for name in redis_lists(queue)[::4]]
    for number, entry in enumerate(GARBAGE.values()):
        lab.ledger.client.call("RPUSH", lists[number % len(lists)], entry)
    wait_for(lambda: len(put_aside(lab)) == len(GARBAGE), lab)
    assert worker.poll() is None
    assert lab.ended(lab.submit("blink", note="after")).result == {"note": "after"}
    result = {refusal.what: refusal for refusal in put_aside(lab)}
    assert result["rm -rf /"].why.startswith("not JSON")
    assert {refusal.queue for refusal in result.values()} == {"datasets", "training", "low_priority"}
    assert whole_log(lab).count("put aside from") == len(GARBAGE)
    assert lab.ledger.client.call("HLEN", "unacked") == lab.ledger.client.call("ZCARD", "unacked_index") == 0


def memory_limit(lab: Lab, size: str) -> None:
    lab.ledger.client.call("CONFIG", "SET", "maxmemory", size)


def test_a_redis_that_is_full_for_a_while_ends_no_worker_and_loses_no_job(lab: Lab) -> None:
    worker = lab.start_worker()
    before = [lab.submit("blink", note=str(number)) for number in range(12)]
    memory_limit(lab, "1")
    wait_for(lambda: "could not acknowledge a message" in whole_log(lab), lab)
    wait_for(lambda: lab.ledger.queues.messages("high_priority") == 0, lab)
    memory_limit(lab, "0")
    assert [lab.ended(job).state for job in before] == [State.SUCCEEDED] * 12
    assert [lab.ended(job).attempt for job in before] == [1] * 12
    assert worker.poll() is None


def test_a_worker_that_must_connect_to_a_full_redis_goes_on_trying(lab: Lab) -> None:
    worker = lab.start_worker()
    memory_limit(lab, "1")

    def cut_off() -> bool:
        lab.ledger.client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return "Cannot connect" in whole_log(lab)

    wait_for(cut_off, lab)  # an idle connection is opened anew without Celery's notice
    wait_for(lambda: whole_log(lab).count("Cannot connect") >= 3, lab)
    memory_limit(lab, "0")
    assert lab.ended(lab.submit("blink", note="after")).state == State.SUCCEEDED
    assert worker.poll() is None
    assert "Frequent restarts" not in whole_log(lab)


def test_a_redis_that_takes_no_writes_for_a_while_counts_as_away(lab: Lab) -> None:
    worker = lab.start_worker()
    lab.ledger.client.call("CONFIG", "SET", "min-replicas-to-write", "1")
    wait_for(lambda: "Cannot connect" in whole_log(lab) and "NOREPLICAS" in whole_log(lab), lab)
    lab.ledger.client.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert lab.ended(lab.submit("blink", note="after")).state == State.SUCCEEDED
    assert worker.poll() is None


def test_a_plain_send_task_becomes_a_job_with_its_own_id(lab: Lab, stranger: Celery) -> None:
    lab.start_worker()
    sent = stranger.send_task("mistudio.nap", kwargs={"ticks": 3, "name": "theirs"}, queue="training")
    assert sent.get(timeout=60) == {"ticks": 3, "ran_in_last_attempt": 3}
    job = lab.ledger.need(sent.id)
    assert (job.state, job.name, job.attempt, job.priority) == (State.SUCCEEDED, "theirs", 1, 5)
    assert lab.store.manifest("saes", "theirs")["job"] == sent.id
    assert put_aside(lab) == []


def test_a_bell_by_plain_send_task_rings_for_the_job(lab: Lab, stranger: Celery) -> None:
    job = Ledger(lab.ledger.client).submit(Job("silent", "blink", "b", "high_priority", {"note": "heard"}))
    lab.start_worker()
    assert stranger.send_task("mistudio.blink", args=[job.id], queue="high_priority").get(timeout=60) == {
        "note": "heard"
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"kwargs": {"tick": 3}}, "nap has no parameter 'tick'. See: mistudio submit nap --help"),
        ({"kwargs": {"ticks": "3"}}, "ticks of nap must be int, not '3'."),
        ({"args": [3]}, "mistudio.nap takes a job's id, or no arguments without a name and the rest with one."),
        ({"kwargs": {"name": "../etc"}}, "'../etc' cannot be the name of an artifact."),
        ({"task_id": "a/b"}, "The task's id cannot be a job's."),
    ],
)
def test_what_cannot_become_a_job_is_refused_to_its_sender(
    lab: Lab, stranger: Celery, arguments: dict, why: str
) -> None:
    lab.start_worker()
    sent = stranger.send_task("mistudio.nap", queue="training", **arguments)
    with pytest.raises(Exception, match=re.escape(why)) as raised:
        sent.get(timeout=60)
    assert type(raised.value).__name__ == "NotTaken"
    (refusal,) = put_aside(lab)
    assert (refusal.queue, refusal.why) == ("training", str(raised.value))
    assert lab.ledger.page().jobs == ()


def test_an_unknown_task_is_kept_and_its_sender_told(lab: Lab, stranger: Celery) -> None:
    lab.start_worker()
    sent = stranger.send_task("mistudio.nonsense", args=["x"], queue="datasets")
    with pytest.raises(
        Exception, match=r"There is no task 'mistudio\.nonsense' here\. Tasks: mistudio\.activations, mistudio\.blink"
    ):
        sent.get(timeout=60)
    (refusal,) = put_aside(lab)
    assert refusal.queue == "datasets"
    assert "mistudio.nonsense" in refusal.what
    assert "Traceback" not in lab.log()


def test_a_visibility_timeout_shorter_than_the_jobs_runs_nothing_twice(lab: Lab) -> None:
    """Two workers look each second for messages that have been in hand for two, and deliver them again."""
    jobs = [lab.submit("nap", name=f"long-{number}", ticks=200) for number in range(3)]
    bells = [json.loads(message) for message in lab.ledger.client.call("LRANGE", redis_lists("training")[4], 0, -1)]
    assert len(bells) == 3
    sweep = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    workers = [
        lab.start_worker("--name", name, slots=1, TRANSPORT_OPTIONS=json.dumps(sweep)) for name in ("one", "two")
    ]
    for job in jobs[:2]:
        lab.under_way(job)
    long_in_hand = time.time() - 5.0  # of more than a minute, upkeep would forget them
    for message in bells:  # as if no worker had ever acknowledged them
        where = message["properties"]["delivery_info"]
        left = json.dumps([message, where["exchange"], where["routing_key"]])
        lab.ledger.client.call("HSET", "unacked", message["properties"]["delivery_tag"], left)
        lab.ledger.client.call("ZADD", "unacked_index", long_in_hand, message["properties"]["delivery_tag"])
    wait_for(lambda: lab.ledger.client.call("ZCARD", "unacked_index") == 0, lab)
    assert [lab.ended(job).attempt for job in jobs] == [1, 1, 1]
    assert [lab.reasons(job) for job in jobs] == [["submitted", "claimed", "done"]] * 3
    wait_for(lambda: all(whole_log(lab).count(f"[{job.id}] received") >= 2 for job in jobs), lab)
    assert [lab.reasons(job) for job in jobs] == [["submitted", "claimed", "done"]] * 3
    workers[0].terminate()
    workers[0].wait(60)


@pytest.mark.parametrize("terminate", [False, True])
def test_a_revoke_by_celerys_own_tools_cancels_the_job(lab: Lab, stranger: Celery, terminate: bool) -> None:
    lab.start_worker(slots=1)
    running, queued = lab.submit("nap", ticks=10_000), lab.submit("nap", name="next", ticks=1)
    runner = lab.under_way(running)
    stranger.control.revoke([running.id, queued.id, "not-a-job"], terminate=terminate)
    assert lab.ended(queued).state is State.CANCELLED
    assert lab.reasons(queued)[-1] == "revoked through Celery"
    ended = lab.ended(running)
    assert (ended.state, ended.attempt) == (State.CANCELLED, 1)
    assert ended.reason == "revoked through Celery; stopped on request"
    until(lambda: not runner.is_running(), 10)
    for job in (running, queued):
        wait_for(lambda job=job: stranger.AsyncResult(job.id).state == "REVOKED", lab)
    assert lab.ended(lab.submit("nap", name="last", ticks=1)).state is State.SUCCEEDED


def test_a_revoke_of_what_has_ended_changes_nothing(lab: Lab, stranger: Celery) -> None:
    lab.start_worker()
    done = lab.ended(lab.submit("blink", note="done"))
    wait_for(lambda: stranger.AsyncResult(done.id).state == "SUCCESS", lab)
    (reply,) = stranger.control.terminate(done.id, reply=True, timeout=10, limit=1)
    assert list(reply.values()) == [{"ok": "cancel requested: of none, all have ended"}]
    assert (lab.ledger.need(done.id).state, stranger.AsyncResult(done.id).state) == (State.SUCCEEDED, "SUCCESS")


def test_celerys_own_tools_see_the_jobs_that_run(lab: Lab, stranger: Celery) -> None:
    lab.start_worker()
    job = lab.submit("nap", ticks=100)
    lab.under_way(job)
    (active,) = stranger.control.inspect(timeout=5, limit=1).active().values()
    assert [(task["id"], task["name"]) for task in active] == [(job.id, "mistudio.nap")]
    lab.ledger.request_cancel(job.id)
    with pytest.raises(TaskRevokedError, match="cancelled by the user"):
        stranger.AsyncResult(job.id).get(timeout=60)
