"""Counters live in the ledger: each end of a job counts once, in the step that ends it, whoever ends it."""

from __future__ import annotations

import pytest

from tasks.fleet import acl
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger import overview
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.overview import Wanted
from tasks.ledger.totals import DURATION_BOUNDS_S, WAIT_BOUNDS_S, Totals
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_url import Address
from tests.conftest import RedisServer


def totals(ledger: Ledger) -> Totals:
    found = overview.read(ledger.client, Wanted(totals=True)).totals
    assert found is not None
    return found


def submit(ledger: Ledger, kind: str = "train", **changes: object) -> Job:
    return ledger.submit(Job(new_job_id(), kind, "a", "training", {}, **changes))  # type: ignore[arg-type]


def claim(ledger: Ledger, job: Job) -> Claim:
    found = ledger.claim(job.id, "w@h", "h")
    assert found is not None
    return found


def test_an_empty_ledger_has_counted_nothing_and_who_does_not_ask_gets_none(ledger: Ledger) -> None:
    assert totals(ledger) == Totals()
    assert overview.read(ledger.client, Wanted()).totals is None


def test_each_end_counts_once_by_kind_and_outcome_though_the_answer_was_lost(ledger: Ledger) -> None:
    for end in (State.SUCCEEDED, State.FAILED, State.SUCCEEDED):
        held = claim(ledger, submit(ledger))
        for _ in range(3):
            assert ledger.finish(held, end, "so it ended") == "ok"
    ledger.request_cancel(submit(ledger, "extract").id)
    found = totals(ledger)
    assert found.jobs == {("train", "succeeded"): 2, ("train", "failed"): 1, ("extract", "cancelled"): 1}
    assert found.attempts == {"train": 3}
    assert found.durations["train"].counts[-1][1] == 3
    assert "extract" not in found.durations, "it never ran"


def test_each_attempt_counts_and_each_wait_before_it(ledger: Ledger) -> None:
    job = submit(ledger)
    held = claim(ledger, job)
    assert totals(ledger).attempts == {"train": 1}, "as it starts"
    ledger.put_back(held, "its worker stopped", loss=True)
    ledger.finish(claim(ledger, job), State.SUCCEEDED, "done")
    found = totals(ledger)
    assert (found.attempts, found.jobs) == ({"train": 2}, {("train", "succeeded"): 1})
    assert (found.waits["train"].counts[-1][1], found.durations["train"].counts[-1][1]) == (2, 1)


def test_values_are_counted_up_to_their_bound_and_summed(ledger: Ledger) -> None:
    for seconds in (30, 2000, 2000, 1e7):  # each far from the bound above it: a machine may stand still meanwhile
        held = claim(ledger, submit(ledger))
        ledger.client.call("HSET", f"mistudio:job:{held.job.id}", "started_at", f"{ledger.now() - seconds:.6f}")
        ledger.finish(held, State.SUCCEEDED, "done")
    found = totals(ledger).durations["train"]
    assert [bound for bound, _ in found.counts] == [*map(float, DURATION_BOUNDS_S), float("inf")]
    counts = dict(found.counts)
    assert counts[15] == 0
    assert counts[60] == counts[900] == 1
    assert counts[3600] == counts[604800] == 3
    assert counts[float("inf")] == 4
    assert found.sum == pytest.approx(1e7 + 4030, abs=600)
    assert len(totals(ledger).waits["train"].counts) == len(WAIT_BOUNDS_S) + 1


def test_they_outlive_the_records_of_the_jobs(ledger: Ledger) -> None:
    held = claim(ledger, submit(ledger))
    ledger.finish(held, State.FAILED, "so it ended")
    assert ledger.remove(held.job.id) == "ok"
    assert totals(ledger).jobs == {("train", "failed"): 1}


def test_children_that_end_with_their_parent_count_too(ledger: Ledger) -> None:
    parent = submit(ledger)
    submit(ledger, parents=(parent.id,))
    ledger.request_cancel(parent.id)
    assert totals(ledger).jobs == {("train", "cancelled"): 2}


def test_who_may_only_submit_counts_what_they_cancel(ledger: Ledger, session_redis: RedisServer) -> None:
    (role,) = (each for each in acl.ROLES if each.name == "submitter")
    ledger.client.call("ACL", "SETUSER", "one", *role.rules(Address(), "pw"))
    client = redis_connection.connect(session_redis.url.replace("://", "://one:pw@"))
    try:
        Ledger(client).request_cancel(submit(ledger).id)
        assert totals(Ledger(client)).jobs == {("train", "cancelled"): 1}
    finally:
        client.close()
        ledger.client.call("ACL", "DELUSER", "one")


def test_damaged_counters_keep_no_job_from_ending_and_are_left_out(ledger: Ledger) -> None:
    ledger.client.call("LPUSH", "mistudio:metrics:jobs", "no hash")
    ledger.client.call("HSET", "mistudio:metrics:duration", "train 60", "nonsense", "train sum", "nan", "odd", 1)
    ledger.finish(claim(ledger, submit(ledger)), State.SUCCEEDED, "done")
    found = totals(ledger)
    assert (found.jobs, found.attempts) == ({}, {"train": 1})
    assert found.durations["train"].counts[-1][1] == 1


def test_classes_of_another_version_count_to_the_next_bound(ledger: Ledger) -> None:
    ledger.client.call("HSET", "mistudio:metrics:duration", "train 20", 2, "train +Inf", 1, "train sum", 99)
    counts = dict(totals(ledger).durations["train"].counts)
    assert (counts[15], counts[60], counts[float("inf")]) == (0, 2, 3)
