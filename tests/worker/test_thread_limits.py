"""Jobs side by side on the CPU divide its cores instead of each starting a thread for every one of them."""

from __future__ import annotations

import psutil
import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.queues import QUEUE_NAMES
from tasks.system import cgroups
from tasks.worker import thread_limits
from tests.fixtures.stack import Stack

CORES = cgroups.visible_cpus()


def limits_of(runner: psutil.Process) -> tuple[str | None, str | None]:
    environment = runner.environ()
    return environment.get("OMP_NUM_THREADS"), environment.get("RAYON_NUM_THREADS")


def test_runners_side_by_side_divide_the_cores_and_one_alone_has_them_all(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [stack.submit("nap", name=f"nap-{number}", ticks=100_000) for number in range(2)]
    stack.start_worker("--queues", "training", slots=2)
    share = str(max(1, int(cgroups.usable_cpus() // 2)))
    assert [limits_of(stack.under_way(job)) for job in jobs] == [(share, share)] * 2
    for job in jobs:
        stack.ledger.request_cancel(job.id)
        stack.ended(job)
    alone = stack.under_way(stack.submit("nap", name="alone", ticks=100_000))
    assert limits_of(alone) == (
        (None, None) if cgroups.usable_cpus() == CORES else (str(int(cgroups.usable_cpus())),) * 2
    )


def test_what_the_user_says_of_threads_counts(stack: Stack) -> None:
    jobs = [stack.submit("nap", name=f"nap-{number}", ticks=100_000) for number in range(2)]
    stack.start_worker("--queues", "training", slots=2, OMP_NUM_THREADS="7")
    assert {limits_of(stack.under_way(job))[0] for job in jobs} == {"7"}


@pytest.mark.parametrize(
    ("slots", "heavy", "light", "threads_of_each"),
    [(8, 1, 9, None), (8, 2, 0, "8"), (8, 5, 3, "3"), (2, 5, 0, "8"), (1, 5, 0, None), (64, 40, 0, "1")],
)
def test_the_cores_are_divided_by_the_heavy_jobs_that_may_run_at_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, slots: int, heavy: int, light: int, threads_of_each: str | None
) -> None:
    monkeypatch.setattr(thread_limits, "usable_cpus", lambda: 16.0)
    monkeypatch.setattr(thread_limits, "visible_cpus", lambda: 16)
    for name, value in {"SLOTS": slots, "QUEUES": "training", "CPU_JOBS": 64}.items():
        monkeypatch.setenv(f"MISTUDIO_{name}", str(value))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for kind, queue, count in (("train", "training", heavy), ("download", "datasets", light)):
        for _ in range(count):
            ledger.submit(Job(new_job_id(), kind, "a", queue, {}))
    assert thread_limits.bounds(ledger).get("OMP_NUM_THREADS") == threads_of_each


@pytest.mark.parametrize(
    ("trainings", "tokenizings", "threads_of_each"), [(8, 0, None), (8, 1, "8"), (1, 9, "3"), (0, 9, "4")]
)
def test_trainings_that_wait_their_turn_take_no_core_of_the_one_that_runs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, trainings: int, tokenizings: int, threads_of_each: str | None
) -> None:
    monkeypatch.setattr(thread_limits, "usable_cpus", lambda: 16.0)
    monkeypatch.setattr(thread_limits, "visible_cpus", lambda: 16)
    monkeypatch.setenv("MISTUDIO_SLOTS", "8")
    monkeypatch.setenv("MISTUDIO_QUEUES", ",".join(QUEUE_NAMES))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for kind, queue, count in (("train", "training", trainings), ("tokenize", "processing", tokenizings)):
        for _ in range(count):
            ledger.submit(Job(new_job_id(), kind, "a", queue, {}))
    assert thread_limits.bounds(ledger).get("OMP_NUM_THREADS") == threads_of_each


def test_a_job_alone_in_a_container_starts_no_thread_for_cores_it_may_not_use(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_limits, "usable_cpus", lambda: 2.5)
    monkeypatch.setattr(thread_limits, "visible_cpus", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert thread_limits.bounds(ledger) == {"OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "2"}
