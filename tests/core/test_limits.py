"""Limits that hold: time, progress, memory, and how long a job may take to stop."""

from __future__ import annotations

import dataclasses

import pytest

from tasks.job import State, kinds, longest_stop_grace_s
from tasks.queues import Resource, queue_named
from tests.conftest import until
from tests.core.lab import Lab

HOUR = 3600


def test_every_kind_has_the_limits_of_the_table() -> None:
    for kind in kinds().values():
        limits = kind.effective_limits
        if queue_named(kind.queue).resource is Resource.GPU:
            assert (limits.soft_s, limits.hard_s) == (None, None), kind.name
        else:
            assert (limits.soft_s, limits.hard_s) == (1 * HOUR, 2 * HOUR), kind.name


@pytest.mark.usefixtures("kinds_of_the_tests")
def test_the_longest_grace_is_that_of_the_kind_that_needs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert longest_stop_grace_s() == 20
    patient = dataclasses.replace(kinds()["cleanup"], stop_grace_s=90)
    monkeypatch.setattr("tasks.kinds.cleanup.KIND", patient)
    kinds.cache_clear()
    assert longest_stop_grace_s() == 90


def test_a_job_that_does_not_stop_is_killed_after_the_grace_of_its_kind(lab: Lab) -> None:
    lab.start_worker(NAP_STOP_GRACE_S="1")
    job = lab.submit("nap", ticks=3, end="deaf")
    runner = lab.under_way(job)
    lab.ledger.request_cancel(job.id)
    assert lab.ended(job).reason == "cancelled by the user; killed: it did not stop within 1 s of being told to"
    until(lambda: not runner.is_running(), 10)
    until(lambda: lab.left_in_tmp() == [], 10)


def test_a_job_over_its_soft_limit_is_told_to_stop_and_then_killed(lab: Lab) -> None:
    lab.start_worker(NAP_SOFT_LIMIT_S="2", NAP_STOP_GRACE_S="1")
    failed = lab.ended(lab.submit("nap", ticks=3, end="deaf"))
    story = "It ran for more than 2 s, the most its kind may; killed: it did not stop within 1 s of being told to."
    assert (failed.state, failed.reason) == (State.FAILED, story)
    assert failed.error == {"type": "TimeLimit", "message": story}


def test_a_job_over_its_hard_limit_is_killed_whatever_its_grace(lab: Lab) -> None:
    lab.start_worker(NAP_SOFT_LIMIT_S="2", NAP_HARD_LIMIT_S="3", NAP_STOP_GRACE_S="1000")
    failed = lab.ended(lab.submit("nap", ticks=3, end="deaf"))
    assert failed.reason == "It ran for more than 2 s, the most its kind may; killed."


def test_work_in_the_slot_that_hears_nothing_ends_with_its_slot_and_does_not_run_again(lab: Lab) -> None:
    lab.start_worker(BLINK_LIMITS_S="0 2")
    failed = lab.ended(lab.submit("blink", stare_s=600))
    assert (failed.state, failed.attempt) == (State.FAILED, 1)
    assert failed.reason == "It ran for more than 2 s, the most its kind may; killed."
    assert lab.ended(lab.submit("blink", note="next")).result == {"note": "next"}
    until(lambda: lab.left_in_tmp() == [], 10)


def test_work_in_the_slot_is_cancelled_even_when_it_hears_nothing(lab: Lab) -> None:
    lab.start_worker(BLINK_STOP_GRACE_S="1")
    job = lab.submit("blink", stare_s=600)
    until(lambda: lab.ledger.need(job.id).state == State.RUNNING, 30)
    lab.ledger.request_cancel(job.id)
    assert lab.ended(job).reason == "cancelled by the user; killed: it did not stop within 1 s of being told to"
    assert lab.ended(lab.submit("blink", note="next")).result == {"note": "next"}
