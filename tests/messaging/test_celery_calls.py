"""Celery's other words, sent by apps and by its own tools: followed in whole, or refused with the reason."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature

from mistudio_cli.monitor.explain import explain, look_around
from mistudio_cli.monitor.snapshot import read_queues
from tasks.jobs.record import State
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.messaging import reroute
from tasks.messaging.remote_control import REFUSED
from tasks.queues import QUEUE_NAMES, redis_lists
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack


@pytest.fixture
def foreign_app(stack: Stack) -> Iterator[Celery]:
    with Celery("elsewhere", broker=stack.redis.url, backend=stack.redis.url, set_as_current=False) as app:
        yield app


def blink(app: Celery, note: str, **options: Any) -> Any:
    return signature("mistudio.blink", kwargs={"note": note}, app=app, immutable=True).set(
        queue="high_priority", **options
    )


ASKS_FOR_MORE: dict[str, tuple[Callable[[Celery], Any], str]] = {
    "chain": (lambda app: chain(blink(app, "first"), blink(app, "second"), app=app), "be followed by another task"),
    "chord": (lambda app: chord([blink(app, "a"), blink(app, "b")], blink(app, "z"), app=app), "be a part of a chord"),
    "link": (lambda app: blink(app, "one", link=[blink(app, "two")]), "call another task when it is done (link)"),
    "link_error": (lambda app: blink(app, "one", link_error=[blink(app, "two")]), "call another task when it fails"),
    "time_limit": (lambda app: blink(app, "one", time_limit=5), "have a time limit of its own"),
    "soft_time_limit": (lambda app: blink(app, "one", soft_time_limit=5), "have a time limit of its own"),
}


def test_what_could_be_followed_in_part_only_is_refused_and_its_sender_knows_why(
    stack: Stack, foreign_app: Celery
) -> None:
    stack.start_worker()
    for message, why in ASKS_FOR_MORE.values():
        sent = message(foreign_app).apply_async()
        with pytest.raises(Exception, match=re.escape(why)):
            sent.get(timeout=PATIENCE_S)
        refusal = dead_letters.read(stack.ledger.client)[0]
        assert refusal.why.startswith(f"A job cannot {why}")
        assert refusal.queue == "high_priority"
    requested = [job.params["note"] for job in stack.ledger.page().jobs]
    assert requested in ([], ["two"]), "but what link_error names is called, with the refusal"


def test_a_group_and_the_last_of_a_chain_ask_for_nothing_more(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    sent = group([blink(foreign_app, "a"), blink(foreign_app, "b")], app=foreign_app).apply_async()
    assert sent.get(timeout=PATIENCE_S) == [{"note": "a"}, {"note": "b"}]


def test_a_countdown_is_waited_for_and_what_expires_before_is_not_run(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()
    late = blink(foreign_app, "late").apply_async(countdown=3)
    never = blink(foreign_app, "never").apply_async(countdown=4, expires=1)
    assert late.get(timeout=PATIENCE_S) == {"note": "late"}
    until(lambda: never.state == "REVOKED", never.state)
    assert [job.id for job in stack.ledger.page().jobs] == [late.id]


def test_a_task_sent_without_a_queue_finds_that_of_its_kind_and_others_stay_where_they_are(
    stack: Stack, foreign_app: Celery
) -> None:
    foreign_app.send_task("theirs.own", args=[1])
    stack.ledger.client.call("RPUSH", "celery", "no message", '["deep"]', "[" * 5000, json.dumps({"headers": {}}))
    before = set(stack.ledger.client.call("LRANGE", "celery", 0, -1))
    sent = foreign_app.send_task("mistudio.blink", kwargs={"note": "found"})
    stack.start_worker()
    assert sent.get(timeout=PATIENCE_S) == {"note": "found"}
    assert set(stack.ledger.client.call("LRANGE", "celery", 0, -1)) == before


def test_what_is_called_celery_and_is_no_queue_is_let_alone(ledger: Ledger) -> None:
    ledger.client.call("SET", "celery", "somebody's")
    assert reroute.bring_home(ledger) == 0
    assert ledger.client.call("GET", "celery") == "somebody's"


def test_a_move_puts_a_message_where_its_priority_is_served(ledger: Ledger) -> None:
    message = {"headers": {"task": "mistudio.cleanup"}, "properties": {"delivery_info": {"routing_key": "celery"}}}
    ledger.client.call("RPUSH", "celery", json.dumps(message))
    assert reroute.bring_home(ledger) == 1
    (raw,) = ledger.client.call("LRANGE", redis_lists("low_priority")[4], 0, -1)
    assert json.loads(raw)["properties"]["delivery_info"] == {"routing_key": "low_priority"}


# -- remote control ---------------------------------------------------------------------------------------------------


def answer(app: Celery, command: str, **arguments: Any) -> dict[str, str]:
    (reply,) = app.control.broadcast(command, arguments=arguments, reply=True, timeout=PATIENCE_S, limit=1)
    return next(iter(reply.values()))


def test_commands_that_would_hold_in_part_are_refused_with_what_does_it_here(stack: Stack, foreign_app: Celery) -> None:
    worker = stack.start_worker()
    arguments: dict[str, dict[str, Any]] = {
        "rate_limit": {"task_name": "mistudio.nap", "rate_limit": "1/m"},
        "time_limit": {"task_name": "mistudio.nap", "soft": 1, "hard": 2},
        "autoscale": {"max": 10, "min": 5},
        "revoke_by_stamped_headers": {"headers": {"a": "b"}},
    }
    for command in REFUSED:
        result = answer(foreign_app, command, **arguments.get(command, {}))["error"]
        assert result.startswith(f"{command} is refused: ")
    assert stack.ended(stack.submit("blink", note="after")).state is State.SUCCEEDED
    assert worker.poll() is None


def test_a_cancelled_consumer_is_no_consumer_until_it_is_added_again(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker()

    def consumers() -> dict[str, int]:
        return {row.name: row.consumers for row in read_queues(stack.ledger).queues or ()}

    until(lambda: consumers() == dict.fromkeys(QUEUE_NAMES, 1))
    assert answer(foreign_app, "cancel_consumer", queue="datasets") == {"ok": "no longer consuming from datasets"}
    assert answer(foreign_app, "cancel_consumer", queue="high_priority") == {
        "ok": "no longer consuming from high_priority"
    }
    until(lambda: consumers()["high_priority"] == 0)
    job = stack.submit("blink", note="patient")
    assert explain(job, look_around(stack.ledger, job))[0].sentence == "No worker consumes its queue high_priority."
    assert consumers()["training"] == 1
    time.sleep(2)
    assert stack.ledger.need(job.id).state is State.QUEUED
    assert "ok" in answer(foreign_app, "add_consumer", queue="high_priority")
    assert stack.ended(job).state is State.SUCCEEDED
    until(lambda: consumers()["high_priority"] == 1)


def test_a_worker_consumes_no_queue_that_is_not_its_own(stack: Stack, foreign_app: Celery) -> None:
    stack.start_worker("--queues", "training,datasets")
    for command in ("add_consumer", "cancel_consumer"):
        result = answer(foreign_app, command, queue="theirs")["error"]
        assert result.startswith("this worker is for training, datasets")
    stack.ledger.client.call("RPUSH", "theirs", "somebody's")
    assert answer(foreign_app, "ping") == {"ok": "pong"}
    assert stack.ledger.client.call("LRANGE", "theirs", 0, -1) == ["somebody's"]


@pytest.mark.parametrize("module", ["tasks", "tasks.messaging.app", "tasks.worker"])
@pytest.mark.parametrize("words", [("worker", "-l", "info"), ("inspect", "active")])
def test_celerys_own_worker_is_refused_with_the_command_that_does_it(module: str, words: tuple[str, ...]) -> None:
    celery = str(Path(sys.executable).parent / "celery")
    done = subprocess.run([celery, "-A", module, *words], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "not started by celery itself but with: mistudio workers start" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_attributes_are_missing_as_usual() -> None:
    with pytest.raises(AttributeError, match=r"module 'tasks\.messaging\.app' has no attribute 'nosuch'"):
        _ = importlib.import_module("tasks.messaging.app").nosuch
