"""A runner never outlives its slot: not a slot that is dead, and not one that is stopped."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest

from tasks.jobs.record import State
from tasks.runner.liveness_pipe import LivenessPipe
from tasks.system.process_identity import is_alive
from tests.conftest import until
from tests.fixtures.stack import Stack

#: A runner that only lives, and gives up after so little silence that a test can wait for it.
RUNNER = """
import subprocess, sys, time
from tasks.runner import liveness_pipe
liveness_pipe.SILENCE_S = 3.0
print(liveness_pipe.take_order(), flush=True)
print(repr(sys.stdin.read()), flush=True)
time.sleep(600)
"""


def test_a_stopped_slot_loses_its_whole_job_before_that_is_started_elsewhere(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("helpers")
    runner = stack.under_way(job)
    processes, slot = [runner, *runner.children()], runner.parent()
    assert len(processes) == 2
    assert slot is not None
    slot.suspend()
    until(lambda: not any(map(is_alive, processes)))
    gone_at = stack.ledger.now()
    done = stack.ended(job)
    with suppress(psutil.NoSuchProcess):  # its worker gives it up by itself, sooner or later than this
        slot.kill()
    assert (done.state, done.result) == (State.SUCCEEDED, {"attempt": 2})
    lost = "the worker " + str(done.worker) + " stopped renewing its lease"
    assert stack.reasons(job) == ["submitted", "claimed", lost, "claimed", "done"]
    assert stack.ledger.events(job.id)[2]["at"] > gone_at


@pytest.fixture
def replacement() -> Iterator[None]:
    """Orphans become this process's children, as they become a container's first process's.

    It is of their session, so the kernel does not do what it does elsewhere: hang up stopped orphans.
    """
    set_child_subreaper, libc = 36, ctypes.CDLL(None)
    assert libc.prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    yield
    libc.prctl(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wakes a stopped process whose parent dies")
@pytest.mark.usefixtures("replacement")
def test_a_stopped_runner_and_its_stopped_helpers_die_with_their_slot(stack: Stack) -> None:
    stack.start_worker()
    runner = stack.under_way(stack.submit("helpers"))
    processes, slot = [runner, *runner.children()], runner.parent()
    assert slot is not None
    for process in processes:
        process.suspend()
    slot.kill()
    until(lambda: not any(map(is_alive, processes)))
    for process in processes:
        with suppress(ChildProcessError):  # one whose parent died later than it did may have been reaped by that
            os.waitpid(process.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wakes a stopped process whose parent dies")
@pytest.mark.usefixtures("replacement")
def test_a_stopped_runner_dies_with_a_slot_that_was_stopped_too(stack: Stack) -> None:
    stack.start_worker()
    runner = stack.under_way(stack.submit("helpers"))
    processes, slot = [runner, *runner.children()], runner.parent()
    assert slot is not None
    slot.suspend()
    runner.suspend()
    slot.kill()
    until(lambda: not any(map(is_alive, processes)))
    for process in processes:
        with suppress(ChildProcessError):  # one whose parent died later than it did may have been reaped by that
            os.waitpid(process.pid, 0)


def start_runner() -> tuple[subprocess.Popen[bytes], LivenessPipe]:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    )
    assert runner.stdin is not None
    line = LivenessPipe(runner.stdin.fileno())
    line.give_order({"token": "secret"})
    return runner, line


def result(runner: subprocess.Popen[bytes]) -> str:
    assert runner.stdout is not None
    return runner.stdout.readline().decode().strip()


def signing(line: LivenessPipe, until_true: Callable[[], bool]) -> bool:
    """Sign until then, and say that it came true."""

    def look() -> bool:
        line.sign()
        return until_true()

    return bool(until(look))


def test_a_runner_that_was_stopped_for_long_continues_when_its_slot_spoke_meanwhile() -> None:
    runner, line = start_runner()
    with runner:
        assert "'token': 'secret'" in result(runner)
        process, stopped_at = psutil.Process(runner.pid), time.monotonic()
        process.suspend()
        assert signing(line, lambda: time.monotonic() > stopped_at + 4)
        process.resume()
        resumed_at = time.monotonic()
        assert signing(line, lambda: time.monotonic() > resumed_at + 1)
        assert runner.poll() is None
        until(lambda: runner.poll() is not None)  # and nobody signs any more


def test_nothing_but_the_runner_reads_its_line() -> None:
    runner, _ = start_runner()
    with runner:
        result(runner)
        assert result(runner) == "''"
        runner.kill()


def test_a_runner_that_is_not_its_slots_child_ends_at_once() -> None:
    """Its slot died before the runner asked the kernel for a signal."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, process_group=0)
    runner.communicate(b'{"token": "secret", "slot": 1}\n', 20)
    assert runner.returncode == -9


def test_a_slot_is_held_up_by_no_full_line_and_no_broken_one() -> None:
    reader, writer = os.pipe()
    line = LivenessPipe(writer)
    line.give_order({})
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, b"." * 4096)
    line.sign()
    os.close(reader)
    line._signed_at = 0.0
    line.sign()
    os.close(writer)
