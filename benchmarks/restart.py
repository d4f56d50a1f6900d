"""How long no worker holds a lock: after kill -9, and during `workers restart`."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Any

from benchmarks.fleets import BIN, Fleet, own_fleet, run_quietly
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.supervisor.states import FIRST_PAUSE_S
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import connect

PATIENCE_S = 60.0
LOOK_EVERY_S = 0.005


def measure() -> list[dict[str, Any]]:
    """Milliseconds without a consumer, the median over the six workers of `full`."""
    with own_fleet() as fleet:
        ledger = Ledger(connect(fleet.url))
        handovers = [_at_a_handover(fleet, ledger, queue) for queue in QUEUE_NAMES]
        kills = [_after_a_kill(fleet, ledger, queue) for queue in QUEUE_NAMES]  # a second death has a longer pause
        ledger.close()
    pause_ms = FIRST_PAUSE_S * 1000
    return [
        _row(f"no worker after kill -9 ({pause_ms:g} ms of it is a pause)", kills),
        _row("no worker during workers restart", handovers),
    ]


def _row(name: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "unit": "ms", "ours": round(statistics.median(values)), "longest": round(max(values))}


def _after_a_kill(fleet: Fleet, ledger: Ledger, queue: str) -> float:
    before = _worker(ledger, queue)
    began = time.perf_counter()
    os.kill(before.pid, signal.SIGKILL)
    _await_another(ledger, before)
    gap = (time.perf_counter() - began) * 1000
    _await_running(fleet)
    return gap


def _at_a_handover(fleet: Fleet, ledger: Ledger, queue: str) -> float:
    """From when the old worker is no consumer any more, as it says itself, to the first word of the new one."""
    before = _worker(ledger, queue)
    supervisor_client.restart(_settings(fleet), [before.name.partition("@")[0]])
    deadline = time.monotonic() + PATIENCE_S
    while before.pid in {worker.pid for worker in ledger.workers()}:
        _not_for_ever(deadline)
    gone = time.perf_counter()
    _await_another(ledger, before)
    gap = (time.perf_counter() - gone) * 1000
    _await_running(fleet)
    return gap


def _worker(ledger: Ledger, queue: str) -> WorkerHeartbeat:
    return next(worker for worker in ledger.workers() if worker.queues == (queue,))


def _await_another(ledger: Ledger, before: WorkerHeartbeat) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(worker.queues == before.queues and worker.pid != before.pid for worker in ledger.workers()):
        _not_for_ever(deadline)


def _await_running(fleet: Fleet) -> None:
    run_quietly([str(BIN / "mistudio"), "workers", "start", "full"], fleet.environment)


def _settings(fleet: Fleet) -> Any:
    from mistudio_cli import settings

    return settings.load({"home": fleet.environment["MISTUDIO_HOME"]})


def _not_for_ever(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"no other worker in {PATIENCE_S:g} s")
    time.sleep(LOOK_EVERY_S)
