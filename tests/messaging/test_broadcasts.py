"""What is published to Celery's control channel: by hand and at random, none of it ends a worker."""

from __future__ import annotations

import base64
import json
import os
import random

import pytest
from celery import Celery
from celery.worker.control import Panel

from tasks.jobs.record import State
from tests.conftest import until
from tests.fixtures.stack import Stack
from tests.messaging.test_foreign_messages import MESSAGE, put_aside, wait_for, whole_log

DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))
SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "5"))


def _broadcast(body: object, **changes: object) -> str:
    """A message to all workers, as `celery control` publishes it."""
    text = body if isinstance(body, str) else json.dumps(body)
    properties = {**MESSAGE["properties"], "body_encoding": "base64", "delivery_info": {"exchange": "celery.pidbox"}}
    encoded = base64.b64encode(text.encode()).decode()
    return json.dumps({**MESSAGE, "headers": {}, "properties": properties, "body": encoded, **changes})


BROADCASTS = {
    "deep": "[" * 100_000,
    "not JSON": "ping",
    "bytes": b"\xff\xfe",
    "a number": "7",
    "null": "null",
    "a list": "[1, 2]",
    "an object": "{}",
    "a deep body": _broadcast("[" * 100_000),
    "a body that is a list": _broadcast([1]),
    "an unknown method": _broadcast({"method": "no_such", "arguments": {}}),
    "no method": _broadcast({}),
    "arguments that are a list": _broadcast({"method": "ping", "arguments": [1]}),
    "arguments of the wrong type": _broadcast(
        {"method": "rate_limit", "arguments": {"task_name": 7, "rate_limit": []}}
    ),
    "a destination that is a number": _broadcast({"method": "ping", "destination": 7}),
    "a pattern that is none": _broadcast({"method": "ping", "pattern": "(", "matcher": "pcre"}),
    "a matcher that is none": _broadcast({"method": "ping", "pattern": "x", "matcher": "no-such"}),
    "a reply to nowhere": _broadcast({"method": "ping", "reply_to": {"no": "exchange"}}),
    "a clock that is a text": _broadcast({"method": "ping"}, headers={"clock": "late"}),
    "another content type": _broadcast({"method": "ping"}, **{"content-type": "application/x-python-serialize"}),
}


def test_no_broadcast_ends_a_worker(stack: Stack, foreign_app: Celery) -> None:
    worker = stack.start_worker()
    publish = stack.ledger.client.call
    for name, entry in BROADCASTS.items():
        until(lambda entry=entry: publish("PUBLISH", "/0.celery.pidbox", entry), f"a listener before {name}")
    wait_for(lambda: foreign_app.control.ping(timeout=2, limit=1), stack)
    assert worker.poll() is None, whole_log(stack)[-3000:]
    assert stack.ended(stack.submit("blink", note="after")).state is State.SUCCEEDED
    assert [refusal.queue for refusal in put_aside(stack)].count("/0.celery.pidbox") >= 3
    assert stack.ledger.workers()[0].pid == worker.pid


#: What Celery's remote control can be asked; to shut down is followed, and objgraph and memory profiles take minutes.
METHODS = sorted(set(Panel.data) - {"shutdown", "objgraph", "memdump", "memsample"})
ODDITIES = [None, True, -1, 10**30, 1e308, float("nan"), "", "x" * 5000, "\x1b[2J", "\ud800", "training/", "*"]
ODDITIES += [[], {}, [[]] * 50, {"a": {"b": [1]}}, ["no-such-job"], {"no": "such"}]


def at_random(dice: random.Random) -> str:
    """A broadcast of odd arguments, or one that is spoiled somewhere."""
    words = ("task_id", "task_name", "rate_limit", "soft", "hard", "n", "max", "queue", "exchange", "headers", "signal")
    names = dice.sample(words, dice.randrange(4))
    body = {"method": dice.choice(METHODS), "arguments": {name: dice.choice(ODDITIES) for name in names}}
    for key in dice.sample(("destination", "pattern", "matcher", "reply_to", "ticket", "arguments", "method"), 1):
        body |= {key: dice.choice(ODDITIES)} if dice.random() < 0.4 else {}
    entry = _broadcast(body, **({"headers": dice.choice(ODDITIES)} if dice.random() < 0.2 else {}))
    if dice.random() < 0.3:
        at = dice.randrange(len(entry))
        entry = entry[:at] + dice.choice(["[" * 500, "null", "9" * 500, '"', "}", ""]) + entry[at + dice.randrange(9) :]
    return entry


@pytest.mark.timeout(1800)
def test_no_broadcast_at_random_ends_a_worker(stack: Stack, foreign_app: Celery) -> None:
    """Its seed is MISTUDIO_TEST_SEED; `make soak` sends three thousand."""
    worker, dice = stack.start_worker(), random.Random(SEED)
    for number in range(3000 if DEEPER else 200):
        entry = at_random(dice)
        until(lambda entry=entry: stack.ledger.client.call("PUBLISH", "/0.celery.pidbox", entry), "a listener")
        if number % 100 == 99:
            wait_for(lambda: foreign_app.control.ping(timeout=2, limit=1), stack)
    assert worker.poll() is None, whole_log(stack)[-3000:]
    assert stack.ended(stack.submit("blink", note="after")).state is State.SUCCEEDED
    assert stack.ledger.workers()[0].pid == worker.pid
