"""Limits that hold: time, progress, memory, and how long a job may take to stop."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tasks.jobs.kind import kinds, longest_stop_grace_s
from tasks.jobs.record import State
from tasks.jobs.stop_grace import LONGEST_S
from tasks.queues import Limits, Resource, queue_named
from tasks.runner.memory_limit import held_bytes
from tasks.worker import main
from tests.conftest import until
from tests.fixtures.stack import LateClock, Stack

HOUR = 3600


def test_every_kind_has_the_limits_of_the_table() -> None:
    for kind in kinds().values():
        for_days = queue_named(kind.queue).resource is Resource.GPU
        assert kind.effective_limits == (Limits(None, None, HOUR / 2) if for_days else Limits(HOUR, 2 * HOUR, None))


@pytest.mark.usefixtures("kinds_of_the_tests")
def test_the_longest_grace_is_that_of_the_kind_that_needs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert longest_stop_grace_s() == LONGEST_S == 120, "of kinds that write checkpoints"
    patient = dataclasses.replace(kinds()["cleanup"], stop_grace_s=190)
    monkeypatch.setattr("tasks.kinds.cleanup.KIND", patient)
    kinds.cache_clear()
    assert longest_stop_grace_s() == 190


def test_a_job_that_does_not_stop_is_killed_after_the_grace_of_its_kind(stack: Stack) -> None:
    stack.start_worker(NAP_STOP_GRACE_S="1")
    job = stack.submit("nap", ticks=3, end="hang")
    runner = stack.hangs(job)
    stack.ledger.request_cancel(job.id)
    assert stack.ended(job).reason == "cancelled by the user; killed: it did not stop within 1 s of the request"
    until(lambda: not runner.is_running())
    until(lambda: stack.left_in_tmp() == [])


def test_a_job_over_its_soft_limit_is_asked_to_stop_and_then_killed(stack: Stack) -> None:
    clock = LateClock(stack.folder)
    stack.start_worker(NAP_SOFT_LIMIT_S="1000", NAP_STOP_GRACE_S="1", **clock.variables)
    job = stack.submit("nap", ticks=3, end="hang")
    stack.hangs(job)
    clock.passes(1000)
    failed = stack.ended(job)
    story = "It ran for more than 1000 s, the most its kind may; killed: it did not stop within 1 s of the request."
    assert (failed.state, failed.reason) == (State.FAILED, story)
    assert failed.error == {"type": "TimeLimit", "message": story}


def test_a_job_over_its_hard_limit_is_killed_whatever_its_grace(stack: Stack) -> None:
    clock = LateClock(stack.folder)
    limits = {"NAP_SOFT_LIMIT_S": "1000", "NAP_HARD_LIMIT_S": "2000", "NAP_STOP_GRACE_S": "5000"}
    stack.start_worker(**limits, **clock.variables)
    job = stack.submit("nap", ticks=3, end="hang")
    stack.hangs(job)
    clock.passes(2000)
    failed = stack.ended(job)
    assert failed.reason == "It ran for more than 1000 s, the most its kind may; killed."


def test_work_in_the_slot_that_does_not_respond_ends_with_its_slot_and_does_not_run_again(stack: Stack) -> None:
    clock = LateClock(stack.folder)
    stack.start_worker(BLINK_LIMITS_S="0 1000", **clock.variables)
    job = stack.submit("blink", stare_s=600)
    until(lambda: clock.passes(1000) or stack.ledger.need(job.id).state.ended, stack.log())  # it begins unseen
    failed = stack.ended(job)
    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.reason == "It ran for more than 1000 s, the most its kind may; killed."
    assert stack.ended(stack.submit("blink", note="next")).result == {"note": "next"}
    until(lambda: stack.left_in_tmp() == [])


def test_work_in_the_slot_is_cancelled_even_when_it_does_not_respond(stack: Stack) -> None:
    stack.start_worker(BLINK_STOP_GRACE_S="1")
    job = stack.submit("blink", stare_s=600)
    until(lambda: stack.ledger.need(job.id).state == State.RUNNING)
    stack.ledger.request_cancel(job.id)
    assert stack.ended(job).reason == "cancelled by the user; killed: it did not stop within 1 s of the request"
    assert stack.ended(stack.submit("blink", note="next")).result == {"note": "next"}


def test_a_job_without_progress_is_put_back_with_the_phase_and_resumed(stack: Stack) -> None:
    clock = LateClock(stack.folder)
    stack.start_worker(NAP_STALL_LIMIT_S="1000", NAP_STOP_GRACE_S="1", **clock.variables)
    job = stack.submit("nap", ticks=3, end="hang")
    stack.hangs(job)
    stack.judged(job)
    clock.passes(1000)
    done = stack.ended(job)
    assert (done.state, done.result) == (State.SUCCEEDED, {"ticks": 3, "ran_in_last_attempt": 0})
    stalled = "no progress for 1000 s in sleeping; killed: it did not stop within 1 s of the request"
    assert stack.reasons(job) == ["submitted", "claimed", stalled, "claimed", "done"]


def test_a_job_whose_processes_hold_too_much_together_fails_with_the_numbers_and_a_fix(stack: Stack) -> None:
    stack.start_worker("--job-memory-gb", "0.3")
    fine = stack.submit("helpers", helper_mb=100)
    runner = stack.under_way(fine)
    greedy = stack.submit("helpers", helper_mb=400)
    stack.ledger.queues.move(greedy.id, "processing")  # where it need not wait for the other
    failed = stack.ended(greedy)
    assert failed.state == State.FAILED
    result = r"It held (0\.\d\d) GB, more than the 0\.3 GB a job may hold here; stopped on request\. "
    found = re.fullmatch(result + r"Use a smaller --batch, or raise --job-memory-gb\.", failed.reason)
    assert found, failed.reason
    assert 0.3 <= float(found[1]) < 0.6, "as much as it holds by then of all that it takes"
    assert failed.error == {"type": "MemoryLimit", "message": failed.reason}
    assert runner.is_running()
    assert stack.ledger.need(fine.id).attempt == 1
    until(lambda: stack.left_in_tmp() == [fine.id])


def test_without_a_limit_a_job_may_hold_what_it_likes(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("helpers", helper_mb=400)
    runner = stack.under_way(job)
    assert held_bytes(runner.pid) > 400e6
    runner.kill()
    assert stack.ended(job).state == State.SUCCEEDED


SHARER = """
import os, sys, time
held = bytearray(b"x") * 200_000_000
helper = os.fork()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports shares of pages")
def test_memory_that_processes_share_is_counted_once() -> None:
    with subprocess.Popen([sys.executable, "-c", SHARER], stdout=subprocess.PIPE, process_group=0) as sharer:
        assert sharer.stdout is not None
        sharer.stdout.readline()
        until(lambda: len(psutil.Process(sharer.pid).children()) == 1)
        assert 200e6 < held_bytes(sharer.pid) < 300e6
        assert held_bytes(sharer.pid, enough=1e9) > 400e6
        os.killpg(sharer.pid, signal.SIGKILL)
    assert held_bytes(sharer.pid) == 0


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--slots", "0", "'0' is no whole number from 1"),
        ("--max-tasks-per-child", "0", "'0' is no whole number from 1"),
        ("--max-tasks-per-child", "-3", "'-3' is no whole number from 1"),
        ("--max-memory-per-child", "1.5", "'1.5' is no whole number from 1"),
        ("--max-memory-per-child", "2G", "'2G' is no whole number from 1"),
        ("--job-memory-gb", "0", "'0' is no number of gigabytes above 0"),
        ("--job-memory-gb", "nan", "'nan' is no number of gigabytes above 0"),
        ("--job-memory-gb", "lots", "'lots' is no number of gigabytes above 0"),
        ("--pool", "solo", "its worker can neither receive nor send while a job runs"),
        ("--pool", "threads", "a thread can be neither ended nor replaced"),
        ("--pool", "gevent", "one job's wait for its process would hold up all others"),
        ("--pool", "eventlet", "one job's wait for its process would hold up all others"),
        ("--pool", "processes", "there is no such pool"),
    ],
)
def test_a_bound_that_would_not_hold_is_refused_with_the_reason(
    flag: str, value: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main.main(["--name", "w", f"{flag}={value}"])
    assert refused.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_memory_of_a_job_may_be_set_by_the_environment_and_is_checked_there_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MISTUDIO_JOB_MEMORY_GB", "plenty")
    assert main.main(["--name", "w"]) == 2
    assert "MISTUDIO_JOB_MEMORY_GB is 'plenty', not a number above 0." in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--max-tasks-per-child", "1"), ("--max-memory-per-child", "1")])
def test_slots_are_replaced_after_their_jobs_and_no_running_job_is_cut(stack: Stack, flags: tuple[str, str]) -> None:
    stack.start_worker(*flags, slots=3)
    long = stack.submit("nap", ticks=10_000)
    runner = stack.under_way(long)
    pids = [slot_of(stack) for _ in range(3)]
    assert len(set(pids)) == 3
    assert runner.is_running()
    stack.ledger.request_cancel(long.id)
    assert stack.ended(long).attempt == 1


def test_without_these_bounds_a_slot_serves_one_job_after_another(stack: Stack) -> None:
    stack.start_worker(slots=1)
    assert len({slot_of(stack) for _ in range(3)}) == 1


def slot_of(stack: Stack) -> str:
    """The process that a quick job ran in."""
    result = stack.ended(stack.submit("blink", note="pid")).result
    assert result is not None
    return str(result["note"])
