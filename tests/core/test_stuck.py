"""A slot that was stopped for good does not keep its place, and a pool that waits for nothing keeps no worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks import stuck
from tasks.stuck import StoppedSlots
from tests.conftest import until
from tests.core.lab import Clock

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]

#: A worker whose pool waits for ever, as it leaves: its slot works until it is told to end, and then sends no result.
WAITS_FOR_NOTHING = """
import os, sys, time
from pathlib import Path
from celery.worker import state
from tasks.places import Places
from tasks.seat import Seat
from tasks.stuck import StuckWatch
home = Path(sys.argv[1])
seat = Seat(Places(home, home), "worker-training", ("training",), 1)
seat.take(lambda: True)
slot = os.fork()
if slot == 0:
    with seat.slot():
        print("works", os.getpid(), flush=True)
        sys.stdin.readline()
    time.sleep(600)
StuckWatch(seat).start()
if sys.argv[2] == "told":
    state.should_stop = 0
time.sleep(600)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(clock: Clock) -> StoppedSlots:
    return StoppedSlots(patience_s=15, clock=clock)


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    with subprocess.Popen(SLEEPER) as process:
        yield psutil.Process(process.pid)
        process.kill()


def stop(child: psutil.Process) -> None:
    child.suspend()
    until(lambda: child.status() == psutil.STATUS_STOPPED, 10)


def test_a_slot_stopped_for_longer_than_a_lease_is_killed(
    slots: StoppedSlots, clock: Clock, child: psutil.Process
) -> None:
    with subprocess.Popen(SLEEPER) as other:
        stop(child)
        assert slots.kill() == []
        clock.now += 15
        assert slots.kill() == []
        clock.now += 2
        told = slots.kill()
        assert told == [f"slot {child.pid} had been stopped (SIGSTOP) for 17 s: killed, for a new one"]
        assert child.wait(10) == -9
        assert slots.kill() == []
        assert other.poll() is None
        other.kill()


def test_a_slot_that_was_continued_in_between_has_all_its_time_again(
    slots: StoppedSlots, clock: Clock, child: psutil.Process
) -> None:
    stop(child)
    assert slots.kill() == []
    child.resume()
    until(lambda: child.status() != psutil.STATUS_STOPPED, 10)
    clock.now += 14
    assert slots.kill() == []
    stop(child)
    clock.now += 14
    assert slots.kill() == []
    clock.now += 14
    assert slots.kill() == []
    assert child.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="tracing stops are Linux's")
def test_a_slot_in_a_debuggers_hands_is_let_alone(slots: StoppedSlots, clock: Clock) -> None:
    """It asks to be traced by this process, as a debugger's program does, and stops."""
    traced = "import ctypes, os, signal; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", traced]) as process:
        child = psutil.Process(process.pid)
        until(lambda: child.status() == psutil.STATUS_TRACING_STOP, 10)
        assert slots.kill() == []
        clock.now += 100
        assert slots.kill() == []
        assert child.status() == psutil.STATUS_TRACING_STOP
        process.kill()


@pytest.fixture
def leaver(short_tmp: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], psutil.Process]]]:
    """Starts a worker whose slot works; returns both."""
    started: list[psutil.Process] = []
    workers: list[subprocess.Popen[str]] = []

    def start(told: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        argv = [sys.executable, "-c", WAITS_FOR_NOTHING, str(short_tmp), told]
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
    leaver: Callable[[str], tuple[subprocess.Popen[str], psutil.Process]], short_tmp: Path
) -> None:
    worker, slot = leaver("told")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(stuck.MAY_TIDY_S + 3)
    worker.communicate("end\n", timeout=30)
    assert worker.returncode == 0
    until(lambda: not slot.is_running(), 10)
    assert list((short_tmp / "run" / "seats" / "worker-training").glob(f"{worker.pid}.*")) == []


def test_a_worker_that_was_not_told_to_end_may_be_idle(
    leaver: Callable[[str], tuple[subprocess.Popen[str], psutil.Process]],
) -> None:
    worker, _ = leaver("not told")
    with pytest.raises(subprocess.TimeoutExpired):
        worker.communicate("end\n", timeout=stuck.MAY_TIDY_S + 3)
