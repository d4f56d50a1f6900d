"""A worker's heartbeat continues while its message loop waits for something, and says since when."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery.signals import worker_ready

from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.messaging.app import make_app
from tasks.paths import Places
from tasks.system import call_deadline
from tasks.worker import heartbeat
from tasks.worker.heartbeat import Heartbeat
from tasks.worker.worker_name import WorkerName
from tests.conftest import PATIENCE_S, RedisServer, until

if TYPE_CHECKING:
    from tasks.worker.slot_locks import WorkerLock

NAME = "w@h"


class RecordingName(WorkerName):
    """Keeps what the ledger has of the worker after each heartbeat."""

    def __init__(self, worker_lock: WorkerLock, places: Places) -> None:
        super().__init__(worker_lock, places)
        self.sent: list[dict[str, float]] = []

    def send(self, ledger: Ledger, heartbeat: WorkerHeartbeat, **how: Any) -> tuple[float, str]:
        answer = super().send(ledger, heartbeat, **how)
        self.sent.append(last(ledger))
        return answer


class Worker:
    """What the heartbeat sees of Celery's worker: a message loop that runs when a test says so."""

    def __init__(self, redis: RedisServer) -> None:
        self.app, self.consumer = make_app(redis.url), None
        self.timer = SimpleNamespace(call_repeatedly=self._call)
        heartbeat = WorkerHeartbeat(NAME, "h", os.getpid(), ("training",), 1, 0.0)
        worker_lock = cast("WorkerLock", SimpleNamespace(release=lambda: None, token="a", predecessors=()))
        self.name = RecordingName(worker_lock, Places.from_environment())
        self.heartbeat = Heartbeat(self, heartbeat, self.name, worker_lock)
        self.loop: Callable[[], None] = lambda: None

    def _call(self, _seconds: float, loop: Callable[[], None]) -> SimpleNamespace:
        self.loop = loop
        return SimpleNamespace(cancel=lambda: None)


@pytest.fixture
def worker(
    session_redis: RedisServer, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    made = Worker(session_redis)
    made.heartbeat.start(made)
    yield made
    made.heartbeat.stop(made)
    for opened in (made.heartbeat._ledger, made.heartbeat._ledger_beside):
        if opened is not None:
            opened.close()


def last(ledger: Ledger) -> dict[str, float]:
    return json.loads(ledger.client.call("HGET", "mistudio:workers", NAME) or "{}")


def test_it_says_when_the_message_loop_last_ran(worker: Worker, ledger: Ledger) -> None:
    assert last(ledger) == {}, "it waits until the worker consumes"
    worker_ready.send(sender=None)
    sent = worker.name.sent
    until(lambda: len(sent) > 1)
    first, *later = sent
    assert first["loop_at"] == first["seen_at"]
    for other in later:
        assert other["seen_at"] > first["seen_at"]
        assert other["loop_at"] == first["loop_at"], "the loop has not run since"
    worker.loop()
    until(lambda: sent[-1]["loop_at"] > first["loop_at"])
    again = next(other for other in sent if other["loop_at"] > first["loop_at"])
    assert again["loop_at"] == again["seen_at"]


def test_a_worker_that_ends_is_forgotten(worker: Worker, ledger: Ledger) -> None:
    worker_ready.send(sender=None)
    until(lambda: last(ledger))
    worker.heartbeat.stop(worker)
    until(lambda: last(ledger) == {}, "its last call to Redis")


def test_a_store_that_hangs_makes_no_worker_seem_gone(
    worker: Worker, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, answers = threading.Event(), threading.Event()
    monkeypatch.setattr(heartbeat, "HEARTBEAT_EVERY_S", 0.05)
    monkeypatch.setattr(heartbeat, "_STORE_PATIENCE_S", 0.05)
    monkeypatch.setattr(heartbeat, "clear_away_one", lambda *_: hangs.set() or answers.wait())
    worker_ready.send(sender=None)
    assert hangs.wait(PATIENCE_S)
    before = last(ledger)["seen_at"]
    until(lambda: last(ledger)["seen_at"] > before + 1, "more heartbeats")
    answers.set()
    until(lambda: not any(thread.is_alive() for thread in call_deadline._hanging.values()), "it to look to the end")
