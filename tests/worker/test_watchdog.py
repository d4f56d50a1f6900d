"""A worker ends when it should, whatever Celery waits for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.jobs.record import State
from tasks.worker.watchdog import MAY_TIDY_S
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

#: A worker whose pool waits for ever, as it leaves: its slot works until it is asked to stop, and then sends no result.
WAITS_FOR_NOTHING = """
import os, sys, time
from pathlib import Path
from celery.worker import state
from tasks.paths import Places
from tasks.worker.slot_locks import WorkerLock
from tasks.worker.watchdog import Guard, ParentWatch
home = Path(sys.argv[1])
lock = WorkerLock(Places(home, home), "worker-training", ("training",), 1)
lock.acquire(lambda: True)
slot = os.fork()
if slot == 0:
    with lock.slot():
        print("works", os.getpid(), flush=True)
        sys.stdin.readline()
    time.sleep(600)
Guard(lock, ParentWatch()).start()
if sys.argv[2] == "draining":
    state.should_stop = 0
time.sleep(600)
"""

#: Starts a worker that writes to worker.log here, says its pid, and waits.
STARTS_A_WORKER = """
import subprocess, sys, time
argv = [sys.executable, "-P", "-m", "tasks.worker", "--name", "all-queues"]
with open("worker.log", "ab") as log:
    print(subprocess.Popen(argv, stdout=log, stderr=log).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def draining_worker(short_tmp: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], psutil.Process]]]:
    """Starts a worker whose slot works; returns both."""
    started: list[psutil.Process] = []
    workers: list[subprocess.Popen[str]] = []

    def start(result: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        argv = [sys.executable, "-c", WAITS_FOR_NOTHING, str(short_tmp), result]
        worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        slot = psutil.Process(int(worker.stdout.readline().split()[1]))
        workers.append(worker)
        started.extend((psutil.Process(worker.pid), slot))
        return worker, slot

    yield start
    for process in started:
        if process.is_running():
            process.kill()
    for worker in workers:
        worker.communicate()


def test_a_worker_that_leaves_ends_with_its_slots_once_none_has_a_job(
    draining_worker: Callable[[str], tuple[subprocess.Popen[str], psutil.Process]], short_tmp: Path
) -> None:
    worker, slot = draining_worker("draining")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(MAY_TIDY_S + 3)
    worker.communicate("end\n", timeout=PATIENCE_S)
    assert worker.returncode == 0
    until(lambda: not slot.is_running())
    assert list((short_tmp / "run" / "seats" / "worker-training").glob(f"{worker.pid}.*")) == []


def test_a_worker_that_was_not_asked_to_stop_may_be_idle(
    draining_worker: Callable[[str], tuple[subprocess.Popen[str], psutil.Process]],
) -> None:
    worker, _ = draining_worker("not draining")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.communicate("end\n", timeout=MAY_TIDY_S + 3)


def test_a_worker_whose_starter_died_while_redis_was_away_ends_all_the_same(stack: Stack) -> None:
    """Celery tries to connect for ever then, and looks at nothing else."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_WORKER], cwd=stack.folder, env=stack.environment(), stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    worker = psutil.Process(int(starter.stdout.readline()))
    until(lambda: any(heartbeat.pid == worker.pid for heartbeat in stack.ledger.workers()))
    stack.redis.kill()
    until(lambda: "Cannot connect" in stack.log())
    starter.kill()
    starter.communicate()
    until(lambda: not worker.is_running(), stack.log())


def test_a_job_that_ends_while_redis_never_returns_lets_its_worker_go_and_is_taken_up_where_it_was(
    stack: Stack, short_tmp: Path
) -> None:
    environment = stack.environment(MISTUDIO_TELL_FOR_S="3")
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_WORKER], cwd=stack.folder, env=environment, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    worker = psutil.Process(int(starter.stdout.readline()))
    enough = short_tmp / "enough"
    job = stack.submit("nap", ticks=100_000, until=str(enough))
    runner = stack.under_way(job)
    stack.redis.kill()
    starter.kill()
    starter.communicate()
    enough.touch()
    until(lambda: not runner.is_running() and not worker.is_running(), stack.log())
    stack.redis.start()
    stack.start_worker()
    ended = stack.ended(job)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)
    assert ended.result == {"ticks": 100_000, "ran_in_last_attempt": 0}
