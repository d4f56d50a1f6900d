"""A slot that was stopped for good does not keep its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tasks.worker.frozen_slots import StoppedSlots
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Clock

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(clock: Clock) -> StoppedSlots:
    return StoppedSlots(clock)


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    with subprocess.Popen(SLEEPER) as process:
        yield psutil.Process(process.pid)
        process.kill()


def stop(child: psutil.Process) -> None:
    child.suspend()
    until(lambda: child.status() == psutil.STATUS_STOPPED)


def test_a_slot_stopped_for_longer_than_a_lease_is_killed(
    slots: StoppedSlots, clock: Clock, child: psutil.Process
) -> None:
    with subprocess.Popen(SLEEPER) as other:
        stop(child)
        assert slots.kill() == []
        clock.now += 15
        assert slots.kill() == []
        clock.now += 2
        result = slots.kill()
        assert result == [f"slot {child.pid} had been stopped (SIGSTOP) for 17 s: killed, for a new one"]
        assert child.wait(PATIENCE_S) == -9
        assert slots.kill() == []
        assert other.poll() is None
        other.kill()


def test_a_slot_that_was_continued_in_between_has_all_its_time_again(
    slots: StoppedSlots, clock: Clock, child: psutil.Process
) -> None:
    stop(child)
    assert slots.kill() == []
    child.resume()
    until(lambda: child.status() != psutil.STATUS_STOPPED)
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
        until(lambda: child.status() == psutil.STATUS_TRACING_STOP)
        assert slots.kill() == []
        clock.now += 100
        assert slots.kill() == []
        assert child.status() == psutil.STATUS_TRACING_STOP
        process.kill()
