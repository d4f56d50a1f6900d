"""What somebody removes under a running worker is created again; a worker that cannot begin jobs is replaced."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from mistudio_cli.supervisor.child import describe_exit
from tasks.jobs.record import State
from tasks.paths import Places
from tasks.system.fault_counter import Faults
from tasks.system.resilient_loop import Rounds
from tasks.worker.slot_locks import CANNOT_START_JOBS, WorkerLock, WorkerPhase, living_workers
from tasks.worker.watchdog import MAY_TIDY_S
from tests.conftest import PATIENCE_S, remove_in_use, until
from tests.fixtures.stack import Stack


def lock_folder(stack: Stack) -> Path:
    return Places(stack.folder / "home", stack.folder / "home" / "store").worker_lock("all-queues")


@pytest.mark.parametrize("pattern", ["*.busy", "*.json", "lock", "slot-*", "*"])
def test_jobs_run_on_after_files_of_the_lock_were_removed(stack: Stack, pattern: str) -> None:
    stack.start_worker()
    job = stack.nap("under-way")
    stack.under_way(job)
    for file in lock_folder(stack).glob(pattern):
        file.unlink(missing_ok=True)
    assert stack.ended(stack.submit("blink", note="after")).state is State.SUCCEEDED
    stack.wake(job)
    assert (stack.ended(job).state, stack.ended(job).attempt) == (State.SUCCEEDED, 1)


@pytest.mark.parametrize("what", ["run/seats", "run", "logs"])
def test_jobs_run_on_after_whole_folders_were_removed(stack: Stack, what: str) -> None:
    stack.start_worker()
    stack.ended(stack.submit("nap", name="before", ticks=1))
    remove_in_use(stack.folder / "home" / what)
    assert stack.ended(stack.submit("nap", name="after", ticks=1)).state is State.SUCCEEDED
    assert stack.ended(stack.submit("blink")).state is State.SUCCEEDED


def test_a_worker_asked_to_stop_waits_for_its_job_although_its_busy_file_was_removed(stack: Stack) -> None:
    worker = stack.start_worker(slots=1)
    job = stack.nap("long")
    stack.under_way(job)
    for file in lock_folder(stack).glob("*.busy"):
        file.unlink(missing_ok=True)
    worker.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(MAY_TIDY_S + 3)
    stack.wake(job)
    worker.wait(PATIENCE_S)
    assert (stack.ledger.need(job.id).state, stack.ledger.need(job.id).attempt) == (State.SUCCEEDED, 1)


def test_a_worker_that_cannot_begin_jobs_ends_and_says_why_and_loses_none(stack: Stack) -> None:
    worker = stack.start_worker(slots=1)
    until(lambda: lock_folder(stack).exists())
    (lock_folder(stack) / "slot-1").mkdir()
    jobs = [stack.submit("blink", name=f"blink-{number}") for number in range(3)]
    assert worker.wait(PATIENCE_S) == CANNOT_START_JOBS
    assert "3 jobs in a row could not be begun (IsADirectoryError" in stack.log()
    assert {stack.ledger.need(job.id).state for job in jobs} == {State.QUEUED}
    (lock_folder(stack) / "slot-1").rmdir()
    for job in jobs:
        stack.ledger.client.call("HSET", f"mistudio:job:{job.id}", "rung_at", 0)
    stack.start_worker(slots=1)
    assert {(stack.ended(job).state, stack.ended(job).attempt) for job in jobs} == {(State.SUCCEEDED, 1)}


def test_the_death_of_such_a_worker_has_a_name() -> None:
    assert describe_exit(CANNOT_START_JOBS) == "exit code 71: it could not begin jobs, and its log says why"


def test_who_repairs_a_lock_keeps_it(short_tmp: Path) -> None:
    worker_lock = WorkerLock(Places(short_tmp, short_tmp), "w", ("training",), 1)
    assert worker_lock.repair() is False, "it has not sat down yet"
    worker_lock.acquire(lambda: True)
    assert worker_lock.repair() is False
    shutil.rmtree(short_tmp / "run")
    assert worker_lock.repair() is True
    assert [other.phase for other in living_workers(Places(short_tmp, short_tmp))] == [WorkerPhase.ACTIVE]
    second = WorkerLock(Places(short_tmp, short_tmp), "w", ("training",), 1)
    assert second.acquire(lambda: False) is False
    worker_lock.close()
    for file in (worker_lock._lock, worker_lock._busy, second._lock, second._busy):
        file.close()


def test_faults_are_counted_in_a_row_with_the_last_reason() -> None:
    faults = Faults()
    for reason in ("x" * 1000, "ü: short"):
        faults.add(reason)
    assert (faults.in_a_row, faults.last) == (2, "ü: short")
    faults.clear()
    assert faults.in_a_row == 0


def test_a_fault_in_a_round_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds("the look", logging.getLogger("test"))
    for wrong in (True, True, False, True):
        with rounds.guarded():
            assert not wrong
    assert (rounds.faults, rounds.in_a_row) == (3, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "the look failed, and is tried again (1 faults so far)",
        "the look failed, and is tried again (3 faults so far)",
    ]
