"""What a worker replies to Celery is held against the ledger: what differs for ten seconds is a cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery

from mistudio_cli.monitor.celery_workers import CeleryWorker, CeleryWorkers, inspect
from mistudio_cli.monitor.collector import celery_part
from mistudio_cli.monitor.collector import collector as collecting
from mistudio_cli.monitor.collector.collector import CELERY, LEDGER, SUPERVISOR, Collector
from mistudio_cli.monitor.health.causes import HealthCause, health_of
from mistudio_cli.monitor.health.disagreements import LASTING_S, Disagreements
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Client
from tests.conftest import until
from tests.fixtures.stack import Stack

TOPICS = ("active", "reserved", "stats", "queues")
LONG_S = 30.0


def real(stack: Stack) -> CeleryWorkers:
    """What the worker replies now, beside what the ledger says of it; again where it was late."""
    with closing(Client(stack.ledger.client.address, LONG_S)) as client:

        def whole() -> CeleryWorkers | None:
            seen = inspect(client, TOPICS)
            is_whole = seen.workers and all(set(worker.replies) == set(TOPICS) for worker in seen.workers)
            return seen if is_whole else None

        found = until(whole, "the worker to reply to everything within Celery's second")
    assert isinstance(found, CeleryWorkers)
    return found


def worker_in(seen: CeleryWorkers) -> CeleryWorker:
    (worker,) = seen.workers
    return worker


def lasting(
    readings: Sequence[CeleryWorkers], times: Sequence[float], configured: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The sentences after these readings, made at these times."""
    found = Disagreements()
    for seen, at in zip(readings, times, strict=True):
        found.update(replace(seen, read_at=at), configured or {})
    return [each.sentence for each in found.lasting]


def test_a_worker_at_work_and_one_at_rest_agree_with_the_ledger(stack: Stack) -> None:
    stack.start_worker()
    readings = [real(stack)]
    job = stack.submit("nap", ticks=100_000)
    stack.under_way(job)
    readings += [real(stack), real(stack), real(stack)]
    assert worker_in(readings[-1]).jobs == (job.id,)
    configured = {worker_in(readings[-1]).name: QUEUE_NAMES}
    assert lasting(readings, [0.0, 15.0, 30.0, 45.0], configured) == []


def test_a_queue_that_was_cancelled_in_a_worker_is_named_until_it_is_consumed_again(
    stack: Stack, foreign_app: Celery
) -> None:
    stack.start_worker()
    name = worker_in(real(stack)).name
    assert "ok" in foreign_app.control.cancel_consumer("training", reply=True, timeout=LONG_S, limit=1)[0][name]
    gone = [real(stack), real(stack)]
    sentence = f"Queues of {name}: 6 configured, 5 consumed by Celery: not training"
    configured = {name: QUEUE_NAMES}
    assert lasting(gone, [0.0, LASTING_S - 0.1], configured) == []
    assert lasting(gone, [0.0, LASTING_S], configured) == [sentence]
    assert "ok" in foreign_app.control.add_consumer("training", reply=True, timeout=LONG_S, limit=1)[0][name]
    assert lasting([*gone, real(stack)], [0.0, LASTING_S, LASTING_S + 5], configured) == []


def test_a_job_of_the_ledger_that_its_worker_does_not_run_is_a_disagreement(stack: Stack) -> None:
    """As after a slot that vanished: here the claim is made in the worker's name."""
    worker = stack.start_worker("--queues", "training")
    name = worker_in(real(stack)).name
    job = stack.submit("blink", note="a")
    claimed = stack.ledger.claim(job.id, name, name.partition("@")[2], worker.pid)
    assert claimed is not None
    sentence = f"Jobs of {name}: 1 running by the ledger, 0 active by Celery"
    assert lasting([real(stack), real(stack)], [0.0, LASTING_S]) == [sentence]
    stack.ledger.finish(claimed, State.SUCCEEDED, "done")
    assert lasting([real(stack), real(stack)], [0.0, LASTING_S]) == []


def test_a_job_that_its_worker_runs_and_the_ledger_gave_to_another_is_a_disagreement(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("nap", ticks=100_000)
    stack.under_way(job)
    name = worker_in(real(stack)).name
    stack.ledger.client.call("HSET", f"mistudio:job:{job.id}", "worker_pid", 1)
    sentence = f"Jobs of {name}: 0 running by the ledger, 1 active by Celery"
    assert lasting([real(stack), real(stack)], [0.0, LASTING_S]) == [sentence]


def reading(jobs: str = "", active: str = "", **more: object) -> CeleryWorkers:
    """A worker with these jobs by the ledger and by Celery, a letter each."""
    replies = {"active": [{"id": each} for each in active], "queues": [{"name": "training"}]}
    worker = CeleryWorker("w@h", replies=replies, queues=("training",), jobs=tuple(jobs), **more)  # type: ignore[arg-type]
    return CeleryWorkers(0.0, 1, 0, (worker,))


def test_jobs_that_start_and_end_between_two_looks_are_no_disagreement() -> None:
    """Each reading differs, but by other jobs each time, or beside a long one that both have."""
    times = [0.0, 5.0, 10.0, 15.0]
    assert lasting([reading(jobs) for jobs in "abcd"], times) == []
    assert lasting([reading(active=active) for active in "abcd"], times) == []
    assert lasting([reading("l" + jobs, "l") for jobs in "abcd"], times) == []
    assert lasting([reading("lx", "l") for _ in times], times) == [
        "Jobs of w@h: 2 running by the ledger, 1 active by Celery"
    ]


def test_readings_that_are_far_apart_say_nothing_of_what_was_between() -> None:
    assert lasting([reading("a"), reading("a")], [0.0, 60.0]) == []
    assert lasting([reading("a"), reading("a"), reading("a")], [0.0, 60.0, 70.0]) != []


def test_what_a_worker_did_not_reply_and_what_is_foreign_is_not_compared() -> None:
    odd = CeleryWorkers(0.0, 1, 0, (CeleryWorker("w@h", replies={"active": "x", "queues": 7}, jobs=("a",)),))
    assert lasting([odd, odd], [0.0, LASTING_S]) == []
    assert lasting([reading("a", foreign=True)] * 2, [0.0, LASTING_S]) == []


def test_a_collector_makes_causes_of_them_with_the_time_and_the_command(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that does not reply among them; the times of the readings are the test's."""
    now = [1000.0]
    mute = CeleryWorkers(0.0, 1, 0, (CeleryWorker("m@h", mute=True), *reading("a").workers))
    monkeypatch.setattr(celery_part, "inspect", lambda client, topics: replace(mute, read_at=now[0]))
    monkeypatch.setattr(collecting, "_EVERY_S", {})
    parts = (SUPERVISOR, LEDGER, CELERY)
    collector = Collector(lambda: ledger, Places(tmp_path, tmp_path), parts, patience_s=LONG_S)

    def causes() -> tuple[HealthCause, ...]:
        return health_of(collector.collect(LONG_S)).causes

    assert causes() == ()
    now[0] += LASTING_S
    found = until(causes)
    assert [(cause.code, cause.worker, cause.since) for cause in found] == [
        ("worker_mute", "m@h", 1000.0),
        ("disagreement", "w@h", 1000.0),
    ]
    assert found[1].command == "mistudio workers inspect active --worker w@h"
    assert not any(cause.is_critical for cause in found)
