"""Which workers the ledger knows: those that sent a heartbeat lately."""

from __future__ import annotations

import dataclasses
import json

from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat


def test_a_worker_is_known_until_it_is_silent(ledger: Ledger) -> None:
    heartbeat = WorkerHeartbeat("worker-datasets@h", "h", 1, ("datasets",), 4, 0.0)
    ledger.heartbeat(heartbeat)
    assert [(w.name, w.queues, w.slots) for w in ledger.workers()] == [("worker-datasets@h", ("datasets",), 4)]
    assert ledger.workers(within_s=-1) == []
    ledger.forget_worker(heartbeat.name)
    assert ledger.workers() == []


def test_a_worker_that_has_been_silent_for_a_day_is_forgotten_when_another_begins(ledger: Ledger) -> None:
    ages_s = {"of today": 80_000, "of a day before": 90_000}
    for name, age_s in ages_s.items():
        line = json.dumps(dataclasses.asdict(WorkerHeartbeat(name, "h", 1, (), 1, 0.0, ledger.now() - age_s)))
        ledger.client.call("HSET", "mistudio:workers", name, line)
    ledger.client.call("HSET", "mistudio:workers", "damaged", "{")
    assert ledger.take_name("new@h", {"token": "t", "predecessors": []}, 60) is None
    assert set(ledger.client.call("HKEYS", "mistudio:workers")) == {"of today", "damaged"}
