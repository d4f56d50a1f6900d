"""`workers inspect` shows what `celery inspect` does, and as soon as the workers have replied."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli.errors import NotFound
from mistudio_cli.monitor import celery_workers
from mistudio_cli.monitor.celery_workers import CeleryWorkers, inspect
from mistudio_cli.views import celery_view
from tasks.fleet import celery_inspect
from tasks.fleet.celery_inspect import TOPICS, ask
from tasks.redis_client.redis_connection import Client
from tests.conftest import PATIENCE_S, RedisServer, patient_client, until
from tests.fixtures.stack import Stack

CELERY = str(Path(sys.executable).parent / "celery")

FOREIGN = """
import time
from celery import Celery
app = Celery("foreign", broker={url!r})
app.conf.update(worker_prefetch_multiplier=4, task_default_queue="theirs")

@app.task(name="theirs.sleep")
def sleep(seconds, secret):
    time.sleep(seconds)
"""


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[Client]:
    client = patient_client(own_redis.url)
    yield client
    client.close()


@contextmanager
def foreign_worker(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A plain Celery worker on the same Redis, which does one task and holds two more."""
    (stack.folder / "theirs.py").write_text(FOREIGN.format(url=stack.redis.url))
    environment = {**os.environ, "PYTHONPATH": str(stack.folder)}
    words = ["-A", "theirs", "worker", "-c", "1", "-n", "theirs@elsewhere", "--without-gossip", "--without-mingle"]
    with (stack.folder / "theirs.log").open("ab") as log:
        worker = subprocess.Popen([CELERY, *words], cwd=stack.folder, env=environment, stdout=log, stderr=log)
    send = "import theirs; [theirs.sleep.delay(600, 'hf_secret') for _ in range(3)]"
    subprocess.run([sys.executable, "-c", send], cwd=stack.folder, env=environment, check=True, timeout=PATIENCE_S)
    try:
        yield worker
    finally:
        for process in [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # those below it end by themselves
                process.kill()
        worker.wait(PATIENCE_S)


def celerys_own(stack: Stack, command: str) -> dict[str, Any]:
    done = subprocess.run(
        [CELERY, "-b", stack.redis.url, "inspect", command, "--json", "--timeout", "3"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=stack.folder,
    )
    return json.loads(done.stdout)


def replies(seen: CeleryWorkers, topic: str) -> dict[str, Any]:
    return {worker.name: worker.replies.get(topic) for worker in seen.workers}


def comparable(topic: str, result: dict[str, Any]) -> dict[str, Any]:
    """Without what changes from one moment to the next."""
    if topic != "stats":
        return {worker: reply if topic != "registered" else sorted(reply) for worker, reply in result.items()}
    return {worker: (stats["pid"], stats["pool"], stats["prefetch_count"]) for worker, stats in result.items()}


def keys_of_celery(client: Client) -> set[str]:
    """Without the product's own, which a worker writes whenever it is time."""
    return {key for key in client.call("KEYS", "*") if not key.startswith("mistudio:")}


def have_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for workers that are there as a test waits: a busy one may need more than a second for its reply."""
    monkeypatch.setattr(celery_workers, "WAIT_S", PATIENCE_S / 2)


def test_every_topic_shows_the_rows_of_celery_inspect(
    stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.start_worker(slots=2)
    job = stack.submit("nap", ticks=100_000)
    stack.under_way(job)
    with foreign_worker(stack):
        until(lambda: len(replies(inspect(client, ["reserved"]), "reserved").get("theirs@elsewhere") or ()) == 2)
        have_patience(monkeypatch)
        for topic, command in TOPICS.items():
            seen = inspect(client, [topic])
            theirs = until(lambda command=command: len(own := celerys_own(stack, command)) == 2 and own, topic)  # type: ignore[misc]
            assert isinstance(theirs, dict)
            assert comparable(topic, replies(seen, topic)) == comparable(topic, theirs), topic
            assert [(worker.foreign, worker.mute) for worker in seen.workers] == [(False, False), (True, False)]
            assert (seen.receivers, seen.unnamed) == (2, 0)
        (active,) = replies(inspect(client, ["active"]), "active")["theirs@elsewhere"]
        assert active["name"] == "theirs.sleep"
        shown = json.dumps(celery_view.as_json(inspect(client, ["active"]), "active"))
        assert "hf_secret" not in shown
        rows = celery_view.rows(inspect(client, ["active"]), "active")[1]
        assert [row[1:4] for row in rows if row[0] == "theirs@elsewhere"] == [["foreign", active["id"], "theirs.sleep"]]
        assert job.id in [row[2] for row in rows]
    assert stack.ledger.need(job.id).state == "running"


def test_it_ends_when_all_have_replied_and_leaves_nothing_behind(stack: Stack, client: Client) -> None:
    stack.start_worker()
    before = keys_of_celery(client)
    began = time.monotonic()
    result = ask(client, list(TOPICS), wait_s=PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S / 2, "it did not wait for more"
    assert [sorted(reply) for reply in result.by_worker.values()] == [sorted(TOPICS)]
    assert keys_of_celery(client) - before - {"_kombu.binding_deadlines"} == set()


def test_a_worker_that_heartbeats_and_does_not_reply_is_mute_and_costs_a_second(
    stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, waits = stack.start_worker(), list[float]()
    batch = Client.batch

    def noted(self: Client, commands: Iterable[Any]) -> list[Any]:
        commands = list(commands)
        waits.extend(float(command[-1]) for command in commands if command[0] == "BRPOP")
        return batch(self, commands)

    monkeypatch.setattr(Client, "batch", noted)
    worker.send_signal(signal.SIGSTOP)
    try:
        (row,) = inspect(client, ["active"]).workers
    finally:
        worker.send_signal(signal.SIGCONT)
    assert sum(waits) <= celery_inspect.WAIT_S + 0.1, "what Redis is asked to wait, whatever the machine adds"
    assert (row.mute, row.foreign, row.replies) == (True, False, {})
    assert [cells[1:3] for cells in celery_view.rows(inspect_of(row), "active")[1]] == [["mute", "n/a"]]


def inspect_of(row: Any) -> CeleryWorkers:
    return CeleryWorkers(0.0, 1, 0, (row,))


def test_one_worker_is_asked_by_its_name(stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.start_worker()
    (name,) = [heartbeat.name for heartbeat in stack.ledger.workers()]
    with foreign_worker(stack):
        until(lambda: len(inspect(client, ["stats"]).workers) == 2)
        have_patience(monkeypatch)
        for wanted in (name, "theirs@elsewhere"):
            assert [row.name for row in inspect(client, ["stats"], wanted).workers] == [wanted]
    monkeypatch.undo()
    with pytest.raises(NotFound, match="nobody@nowhere"):
        inspect(client, ["stats"], "nobody@nowhere")


def test_without_workers_nothing_is_waited_for(stack: Stack, client: Client) -> None:
    began = time.monotonic()
    assert ask(client, ["active"], wait_s=60.0).receivers == 0
    assert time.monotonic() - began < 30
    assert inspect(client, ["active"]).workers == ()


def test_garbage_in_the_place_of_a_reply_is_passed_over(client: Client) -> None:
    for line in (
        "",
        "[]",
        "null",
        '{"body": 5}',
        '{"body": "W10=", "headers": {"ticket": "active"}}',
        '{"headers": {}}',
    ):
        assert celery_inspect._read_reply(line) == []
