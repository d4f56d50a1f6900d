"""Foreign messages: what others put into Redis neither ends a worker nor vanishes, and a bad day of Redis passes."""

from __future__ import annotations

import base64
import json
import re
import signal
import time
from collections.abc import Callable

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from tasks.jobs.kind import kind_named
from tasks.jobs.record import State
from tasks.ledger import dead_letters
from tasks.messaging.foreign_tasks import job_of_foreign_message
from tasks.queues import redis_lists
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

MESSAGE = {
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
    message = json.loads(json.dumps(MESSAGE))
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
    "tag is null": json.dumps({**MESSAGE, "properties": {**MESSAGE["properties"], "delivery_tag": None}}),
    "tag is a list": json.dumps({**MESSAGE, "properties": {**MESSAGE["properties"], "delivery_tag": []}}),
    "deep body": json.dumps({**MESSAGE, "body": base64.b64encode(b"[" * 100_000).decode()}),
    "bad body": json.dumps({**MESSAGE, "body": "!"}),
    "bad encoding": json.dumps({**MESSAGE, "properties": {**MESSAGE["properties"], "body_encoding": "rot13"}}),
    "pickle": json.dumps({**MESSAGE, "content-type": "application/x-python-serialize"}),
}


def put_aside(stack: Stack) -> list[dead_letters.DeadLetter]:
    return dead_letters.read(stack.ledger.client, 100)


def whole_log(stack: Stack) -> str:
    return (stack.folder / "worker.log").read_text()


def wait_for(condition: Callable[[], object], stack: Stack) -> None:
    """Wait; show the worker's log if it is in vain."""
    try:
        until(condition)
    except pytest.fail.Exception:
        pytest.fail(whole_log(stack)[-20_000:])


def test_what_is_no_message_is_put_aside_and_the_worker_continues(stack: Stack) -> None:
    worker = stack.start_worker()
    lists = [name for queue in ("datasets", "training", "low_priority") for name in redis_lists(queue)[::4]]
    for number, entry in enumerate(GARBAGE.values()):
        stack.ledger.client.call("RPUSH", lists[number % len(lists)], entry)
    wait_for(lambda: len(put_aside(stack)) == len(GARBAGE), stack)
    assert worker.poll() is None
    assert stack.ended(stack.submit("blink", note="after")).result == {"note": "after"}
    result = {refusal.what: refusal for refusal in put_aside(stack)}
    assert result["rm -rf /"].why.startswith("not JSON")
    assert {refusal.queue for refusal in result.values()} == {"datasets", "training", "low_priority"}
    assert whole_log(stack).count("put aside from") == len(GARBAGE)
    call = stack.ledger.client.call
    wait_for(lambda: call("HLEN", "unacked") == call("ZCARD", "unacked_index") == 0, stack)


def memory_limit(stack: Stack, size: str) -> None:
    stack.ledger.client.call("CONFIG", "SET", "maxmemory", size)


def test_a_redis_that_is_full_for_a_while_ends_no_worker_and_loses_no_job(stack: Stack) -> None:
    worker = stack.start_worker()
    worker.send_signal(signal.SIGSTOP)  # or it would have done them before Redis is full
    before = [stack.submit("blink", note=str(number)) for number in range(12)]
    memory_limit(stack, "1")
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: "could not acknowledge a message" in whole_log(stack), stack)
    wait_for(lambda: stack.ledger.queues.messages("high_priority") == 0, stack)
    memory_limit(stack, "0")
    assert [stack.ended(job).state for job in before] == [State.SUCCEEDED] * 12
    assert [stack.ended(job).attempt for job in before] == [1] * 12
    assert worker.poll() is None


def test_a_worker_that_must_connect_to_a_full_redis_keeps_trying(stack: Stack) -> None:
    worker = stack.start_worker()
    memory_limit(stack, "1")

    def cut_off() -> bool:
        stack.ledger.client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return "Cannot connect" in whole_log(stack)

    wait_for(cut_off, stack)  # an idle connection is opened again without Celery's notice
    wait_for(lambda: whole_log(stack).count("Cannot connect") >= 3, stack)
    memory_limit(stack, "0")
    assert stack.ended(stack.submit("blink", note="after")).state == State.SUCCEEDED
    assert worker.poll() is None
    assert "Frequent restarts" not in whole_log(stack)


def test_a_redis_that_takes_no_writes_for_a_while_counts_as_away(stack: Stack) -> None:
    worker = stack.start_worker()
    stack.ledger.client.call("CONFIG", "SET", "min-replicas-to-write", "1")
    wait_for(lambda: "Cannot connect" in whole_log(stack) and "NOREPLICAS" in whole_log(stack), stack)
    stack.ledger.client.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert stack.ended(stack.submit("blink", note="after")).state == State.SUCCEEDED
    assert worker.poll() is None


def test_a_plain_send_task_becomes_a_job_with_its_own_id(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    sent = foreign_app.send_task("mistudio.nap", kwargs={"ticks": 3, "name": "theirs"}, queue="training")
    assert sent.get(timeout=PATIENCE_S) == {"ticks": 3, "ran_in_last_attempt": 3}
    job = stack.ledger.need(sent.id)
    assert (job.state, job.name, job.attempt, job.priority) == (State.SUCCEEDED, "theirs", 1, 5)
    assert stack.store.manifest("saes", "theirs")["job"] == sent.id
    assert put_aside(stack) == []


def test_a_task_that_names_a_job_is_refused_to_its_sender_and_the_job_is_its_own(
    stack: Stack, foreign_app: Celery
) -> None:
    job = stack.submit("blink", note="its own")
    stack.start_worker()
    sent = foreign_app.send_task("mistudio.blink", args=[job.id], queue="high_priority")
    with pytest.raises(Exception, match="takes no arguments without a name"):
        sent.get(timeout=PATIENCE_S)
    assert foreign_app.AsyncResult(job.id).get(timeout=PATIENCE_S) == {"note": "its own"}
    assert stack.ended(job).attempt == 1


def test_a_task_that_comes_again_is_the_same_job(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    sent = [
        foreign_app.send_task("mistudio.blink", kwargs={"note": task_id}, queue="training", task_id=task_id)
        for task_id in ("once", "twice", "twice", "thrice", "thrice", "thrice")
    ]
    assert [result.get(timeout=PATIENCE_S) for result in sent] == [{"note": result.id} for result in sent]
    assert {job.id: job.attempt for job in stack.ledger.page().jobs} == {"once": 1, "twice": 1, "thrice": 1}
    assert put_aside(stack) == []


def test_a_task_that_another_slot_has_just_made_a_job_is_that_job(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def received() -> str | None:
        return job_of_foreign_message(stack.ledger, stack.store, kind_named("nap"), "same", (), {"ticks": 3})

    assert received() is None
    looks, get = iter([None]), stack.ledger.get
    monkeypatch.setattr(stack.ledger, "get", lambda job_id: next(looks, job_id) and get(job_id))
    assert received() == "same"
    assert next(looks, "looked") == "looked"
    assert put_aside(stack) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"kwargs": {"tick": 3}}, "nap has no parameter 'tick'. Did you mean ticks? See: mistudio submit nap --help"),
        ({"kwargs": {"ticks": "3"}}, "ticks of nap must be int, not '3'."),
        ({"args": [3]}, "mistudio.nap takes no arguments without a name, and the rest with one."),
        ({"kwargs": {"name": "../etc"}}, "'../etc' cannot be the name of an artifact."),
        ({"task_id": "a/b"}, "The task's id cannot be a job's."),
    ],
)
def test_what_cannot_become_a_job_is_refused_to_its_sender(
    stack: Stack, foreign_app: Celery, arguments: dict, why: str
) -> None:
    stack.start_worker()
    sent = foreign_app.send_task("mistudio.nap", queue="training", **arguments)
    with pytest.raises(Exception, match=re.escape(why)) as raised:
        sent.get(timeout=PATIENCE_S)
    assert type(raised.value).__name__ == "NotTaken"
    (refusal,) = put_aside(stack)
    assert (refusal.queue, refusal.why) == ("training", str(raised.value))
    assert stack.ledger.page().jobs == ()


def test_an_unknown_task_is_kept_and_its_sender_gets_the_reason(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    sent = foreign_app.send_task("mistudio.nonsense", args=["x"], queue="datasets")
    with pytest.raises(
        Exception, match=r"There is no task 'mistudio\.nonsense' here\. Tasks: mistudio\.activations, mistudio\.blink"
    ):
        sent.get(timeout=PATIENCE_S)
    (refusal,) = put_aside(stack)
    assert refusal.queue == "datasets"
    assert "mistudio.nonsense" in refusal.what
    assert "Traceback" not in stack.log()


def test_a_visibility_timeout_shorter_than_the_jobs_runs_nothing_twice(stack: Stack) -> None:
    """Two workers look each second for messages that have been in hand for two, and deliver them again."""
    go = stack.folder / "go"
    jobs = [stack.submit("nap", name=f"long-{number}", ticks=100_000, until=str(go)) for number in range(3)]
    messages = [
        json.loads(message) for message in stack.ledger.client.call("LRANGE", redis_lists("training")[4], 0, -1)
    ]
    assert len(messages) == 3
    sweep = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    workers = [
        stack.start_worker("--name", name, slots=1, TRANSPORT_OPTIONS=json.dumps(sweep)) for name in ("one", "two")
    ]
    for job in jobs[:2]:
        stack.under_way(job)
    long_in_hand = time.time() - 5.0  # of more than a minute, upkeep would forget them
    for message in messages:  # as if no worker had ever acknowledged them
        where = message["properties"]["delivery_info"]
        left = json.dumps([message, where["exchange"], where["routing_key"]])
        stack.ledger.client.call("HSET", "unacked", message["properties"]["delivery_tag"], left)
        stack.ledger.client.call("ZADD", "unacked_index", long_in_hand, message["properties"]["delivery_tag"])
    wait_for(lambda: stack.ledger.client.call("ZCARD", "unacked_index") == 0, stack)
    go.touch()
    assert [stack.ended(job).attempt for job in jobs] == [1, 1, 1]
    assert [stack.reasons(job) for job in jobs] == [["submitted", "claimed", "done"]] * 3
    wait_for(lambda: all(whole_log(stack).count(f"[{job.id}] received") >= 2 for job in jobs), stack)
    assert [stack.reasons(job) for job in jobs] == [["submitted", "claimed", "done"]] * 3
    workers[0].terminate()
    workers[0].wait(PATIENCE_S)


@pytest.mark.parametrize("terminate", [False, True])
def test_a_revoke_by_celerys_own_tools_cancels_the_job(stack: Stack, foreign_app: Celery, terminate: bool) -> None:
    stack.start_worker(slots=1)
    running, queued = stack.submit("nap", ticks=10_000), stack.submit("nap", name="next", ticks=1)
    runner = stack.under_way(running)
    foreign_app.control.revoke([running.id, queued.id, "not-a-job"], terminate=terminate)
    assert stack.ended(queued).state is State.CANCELLED
    assert stack.reasons(queued)[-1] == "revoked through Celery"
    ended = stack.ended(running)
    assert (ended.state, ended.attempt) == (State.CANCELLED, 1)
    assert ended.reason == "revoked through Celery; stopped on request"
    until(lambda: not runner.is_running())
    for job in (running, queued):
        wait_for(lambda job=job: foreign_app.AsyncResult(job.id).state == "REVOKED", stack)
    assert stack.ended(stack.submit("nap", name="last", ticks=1)).state is State.SUCCEEDED


def test_a_revoke_of_what_has_ended_changes_nothing(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    done = stack.ended(stack.submit("blink", note="done"))
    wait_for(lambda: foreign_app.AsyncResult(done.id).state == "SUCCESS", stack)
    (reply,) = foreign_app.control.terminate(done.id, reply=True, timeout=PATIENCE_S, limit=1)
    assert list(reply.values()) == [{"ok": "cancel requested: of none, all have ended"}]
    assert (stack.ledger.need(done.id).state, foreign_app.AsyncResult(done.id).state) == (State.SUCCEEDED, "SUCCESS")


def test_celerys_own_tools_see_the_jobs_that_run(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    job = stack.submit("nap", ticks=100_000)
    stack.under_way(job)
    (active,) = foreign_app.control.inspect(timeout=PATIENCE_S, limit=1).active().values()
    assert [(task["id"], task["name"]) for task in active] == [(job.id, "mistudio.nap")]
    stack.ledger.request_cancel(job.id)
    with pytest.raises(TaskRevokedError, match="cancelled by the user"):
        foreign_app.AsyncResult(job.id).get(timeout=PATIENCE_S)
