"""A runner never outlives its slot: not a slot that is dead, and not one that is stopped."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from tasks.jobs.record import State
from tasks.runner.liveness_pipe import LivenessPipe
from tasks.system.process_identity import is_alive
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

#: A runner that only lives, or stops itself while it listens; after how much silence it gives up is its first word.
RUNNER = """
import os, signal, sys, time
from tasks.runner import liveness_pipe
liveness_pipe.SILENCE_S = float(sys.argv[1])
print(liveness_pipe.take_order(), flush=True)
print(repr(sys.stdin.read()), flush=True)
if "stops" in sys.argv:
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""

#: So little silence that a test can wait for it, and so much that nothing ends of it.
SHORT_S, FOR_EVER_S = 3.0, 600.0


def test_a_stopped_slot_loses_its_whole_job_before_that_is_started_elsewhere(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("helpers")
    runner = stack.under_way(job)
    processes, slot = [runner, *runner.children()], runner.parent()
    assert len(processes) == 2
    assert slot is not None
    looks = [stack.ledger.now()]

    def all_gone() -> bool:
        looks.append(stack.ledger.now())
        return not any(map(is_alive, processes))

    slot.suspend()
    until(all_gone)
    *_, lived_at, _ = looks  # of the last two looks, the first found it alive, or was before any
    done = stack.ended(job)
    with suppress(psutil.NoSuchProcess):  # its worker gives it up by itself, sooner or later than this
        slot.kill()
    assert (done.state, done.result) == (State.SUCCEEDED, {"attempt": 2})
    lost = "the worker " + str(done.worker) + " stopped renewing its lease"
    assert stack.reasons(job) == ["submitted", "claimed", lost, "claimed", "done"]
    assert stack.ledger.events(job.id)[2]["at"] > lived_at


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


def start_runner(silence_s: float, *words: str) -> tuple[subprocess.Popen[bytes], LivenessPipe]:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(silence_s), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert runner.stdin is not None
    line = LivenessPipe(runner.stdin.fileno())
    line.give_order({"token": "secret"})
    return runner, line


def result(runner: subprocess.Popen[bytes]) -> str:
    assert runner.stdout is not None
    return runner.stdout.readline().decode().strip()


def stopped_runner() -> tuple[subprocess.Popen[bytes], LivenessPipe]:
    """One that has stopped itself while it listened; on a slow machine some end before that, of the silence."""
    while True:
        runner, line = start_runner(SHORT_S, "stops")
        process = psutil.Process(runner.pid)
        until(lambda process=process: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
        if runner.poll() is None:
            return runner, line
        runner.communicate()


def unread(runner: subprocess.Popen[bytes]) -> int:
    """How many bytes are in its line, which whoever ends without reading leaves there."""
    assert runner.stdin is not None
    return int.from_bytes(fcntl.ioctl(runner.stdin.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_runner_that_was_stopped_for_long_continues_when_its_slot_spoke_meanwhile() -> None:
    runner, line = stopped_runner()
    with runner:
        stopped_at = time.monotonic()
        line.sign()
        until(lambda: time.monotonic() > stopped_at + SHORT_S + 1)
        assert unread(runner) == 1
        psutil.Process(runner.pid).resume()
        until(lambda: unread(runner) == 0 or runner.poll() is not None)
        assert unread(runner) == 0, "it has listened, and did not end unheard"
        until(lambda: runner.poll() is not None)  # and nobody signs any more


def test_nothing_but_the_runner_reads_its_line() -> None:
    runner, _ = start_runner(FOR_EVER_S)
    with runner:
        assert "'token': 'secret'" in result(runner)
        assert result(runner) == "''"
        runner.kill()


def test_a_runner_that_is_not_its_slots_child_ends_at_once() -> None:
    """Its slot died before the runner asked the kernel for a signal."""
    command = [sys.executable, "-c", RUNNER, str(FOR_EVER_S)]
    runner = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
    runner.communicate(b'{"token": "secret", "slot": 1}\n', PATIENCE_S)
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
