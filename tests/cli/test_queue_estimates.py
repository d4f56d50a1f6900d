"""When the last queued job starts follows from the jobs: their progress, their estimates, their kind's runs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from mistudio_cli.monitor.queue_estimates import start_of_last
from mistudio_cli.monitor.snapshot import QueueRow
from tasks.jobs.record import Job, Progress, State
from tasks.ledger.overview import FinishedRun, Overview
from tasks.ledger.queue_state import QueueCount
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES

NOW = 10_000.0
ONE = WorkerHeartbeat("w@h", "h", 7, ("training",), 1, 0.0)
TWO = dataclasses.replace(ONE, slots=2)
ALL = dataclasses.replace(ONE, queues=QUEUE_NAMES, slots=8)
NONE = QueueCount(0, 0, 0, None, None, (0, 0, 0))

_ids = itertools.count()


def job(queue: str = "training", kind: str = "train", **changes: Any) -> Job:
    return Job(f"j{next(_ids)}", kind, "a", queue, {}, **changes)


def running(left_s: float | None, worker: str = "w@h", **changes: Any) -> Job:
    progress = None if left_s is None else Progress("training", 0, int(left_s), "s", 1.0)
    return job(state=State.RUNNING, progress=progress, worker=worker, started_at=NOW, **changes)


def runs(*seconds: float, kind: str = "train", estimate_s: float | None = None) -> tuple[FinishedRun, ...]:
    return tuple(FinishedRun(kind, each, estimate_s) for each in seconds)


def seen(*jobs: Job, more: int = 0, paused: tuple[str, ...] = (), **changes: Any) -> Overview:
    queued = {name: tuple(j for j in jobs if j.queue == name and j.state is State.QUEUED) for name in QUEUE_NAMES}
    counts = {
        name: dataclasses.replace(
            NONE, pending=len(queued[name]) + (more if queued[name] else 0), paused_at=1.0 if name in paused else None
        )
        for name in QUEUE_NAMES
    }
    active = tuple(j for j in jobs if j.state is State.RUNNING)
    return Overview(NOW, counts, queued=queued, running=active, **changes)


def eta(overview: Overview, *live: WorkerHeartbeat, queue: str = "training") -> float | None:
    return start_of_last(overview, live)[queue]


def test_an_empty_queue_has_nothing_to_wait_for() -> None:
    assert eta(seen()) == 0.0
    assert eta(seen(running(60.0)), ONE) == 0.0


def test_a_job_with_a_free_slot_starts_now() -> None:
    assert eta(seen(job()), ONE) == 0.0


def test_a_queue_whose_jobs_run_for_an_hour_takes_an_hour_whatever_has_just_ended() -> None:
    assert eta(seen(running(34 * 60), running(2 * 3600), job(), runs=runs(5.0)), TWO) == 34 * 60
    assert eta(seen(running(34 * 60), running(2 * 3600), job(), job(), runs=runs(3600.0)), TWO) == 34 * 60 + 3600


def test_a_running_job_without_progress_takes_what_its_kind_took() -> None:
    half = dataclasses.replace(running(None), started_at=NOW - 40)
    assert eta(seen(half, job(), runs=runs(100.0, 90.0, 5000.0)), ONE) == 60


def test_an_estimate_is_corrected_by_what_the_last_runs_took_of_theirs() -> None:
    waiting = (job(estimate_s=100.0), job())
    assert eta(seen(*waiting, runs=runs(30.0, 30.0, 90.0, estimate_s=10.0)), ONE) == 300
    assert eta(seen(*waiting), ONE) == 100, "without runs it is taken as it is"
    assert eta(seen(job(), job(), runs=runs(30.0, 30.0, 90.0, estimate_s=10.0)), ONE) == 30, "and without one, the runs"


def test_where_a_kind_has_neither_it_is_not_known() -> None:
    assert eta(seen(job(), job(), runs=runs(5.0, kind="extract")), ONE) is None
    assert eta(seen(running(None), job()), ONE) is None
    assert eta(seen(running(None), running(60.0), job()), TWO) == 60, "another slot is free before"


def test_an_eta_that_is_not_known_says_why() -> None:
    row = QueueRow("training", "ok", 1, 1, 5.0, 1, 1, (0, 0, 0), None)
    assert str(row.eta_unknown).startswith("ETA unknown: of a kind")
    for known in ({"eta_s": 5.0}, {"pending": 0}, {"state": "paused"}):
        assert dataclasses.replace(row, **known).eta_unknown is None


@pytest.mark.parametrize("live", [(), (dataclasses.replace(ONE, queues=("datasets",)),)])
def test_without_a_worker_or_while_paused_it_is_not_known(live: tuple[WorkerHeartbeat, ...]) -> None:
    assert eta(seen(job(), runs=runs(1.0)), *live) is None
    assert eta(seen(job(), runs=runs(1.0), paused=("training",)), ONE) is None


def test_a_worker_of_all_queues_serves_by_priority_and_then_by_rank() -> None:
    worker = dataclasses.replace(ALL, slots=1)
    jobs = (job("low_priority", "cleanup", priority=10), job("training"), job("datasets", "download"))
    taken = runs(10.0, kind="cleanup") + runs(100.0, kind="download") + runs(1000.0)
    starts = start_of_last(seen(*jobs, runs=taken), [worker])
    assert (starts["low_priority"], starts["datasets"], starts["training"]) == (0.0, 10.0, 110.0)


def test_a_queue_uses_no_more_slots_than_its_concurrency() -> None:
    assert eta(seen(job(), job(), runs=runs(50.0)), ALL) == 50


def test_jobs_that_were_not_listed_follow_at_the_pace_of_those_that_were() -> None:
    assert eta(seen(job(), job(), more=10, runs=runs(60.0)), TWO) == 10 * 60 / 2
    assert eta(seen(job(), job(), more=10), TWO) is None


def test_hundreds_of_jobs_cost_a_live_view_little() -> None:
    jobs = [job(name, priority=place % 10) for name in QUEUE_NAMES for place in range(50)]
    worker = [dataclasses.replace(ALL, name=f"w{number}@h") for number in range(20)]
    starts = start_of_last(seen(*jobs, runs=runs(60.0, 50.0)), worker)
    assert all(start is not None for start in starts.values())
