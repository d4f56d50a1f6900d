"""What older versions, jobs that no worker can run, and other programs leave in the ledger strands no other job."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.fleet import damaged_entries
from tasks.jobs.record import State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.quotas import Quota, count_unstarted, set_quota
from tasks.redis_client.redis_connection import Refused
from tests.ledger.test_quotas import NOW, finish, offered, queued, start, start_next, take

MINE = {"train": "mine"}


def claim(ledger: Ledger, job_id: str, **changes: Any) -> Claim | None:
    return ledger.claim(job_id, "w@h", "h", 1, queue="training", stand_ins=["train"], **changes)


def ready(owner: str) -> str:
    return f"mistudio:queue:training:ready:gpu:{owner}"


def test_a_job_that_an_older_version_started_uses_up_no_quota_for_ever(ledger: Ledger) -> None:
    old = queued(ledger)
    finish(ledger, start_next(ledger))
    ledger.client.call("ZADD", ready("alice"), 1, old)  # it knows nothing of this key
    set_quota(ledger.client, "alice", Quota(running=1))
    job = queued(ledger)
    assert offered(ledger) == [job]


def test_a_job_that_an_older_version_queued_has_its_turn(ledger: Ledger) -> None:
    old = queued(ledger, owner=None)
    for key in (ready(""), "mistudio:queue:training:owners"):
        ledger.client.call("DEL", key)
    for owner in ("alice", "bob", "alice", "bob"):
        queued(ledger, owner)
    started = [claim(ledger, take(ledger)) for _ in range(3)]
    assert old in [one.job.id for one in started if one]


def test_what_an_older_version_cancelled_over_its_quota_is_purged_away(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    queued(ledger)
    start_next(ledger)
    gone, waits = queued(ledger), queued(ledger)
    ledger.client.call("HSET", f"mistudio:job:{gone}", "state", "cancelled")
    assert ledger.queues.purge("training") == 1
    assert ledger.need(waits).state is State.CANCELLED
    assert ledger.client.call("ZCARD", "mistudio:queue:training:over_quota") == 0


def test_a_job_that_no_worker_can_run_does_not_use_up_its_owners_quota(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    queued(ledger, digest="another")
    mine = queued(ledger, digest="mine")
    assert mine not in offered(ledger)
    assert claim(ledger, take(ledger), kinds=MINE) is None
    taken = [claim(ledger, take(ledger), kinds=MINE) for _ in range(2)]
    assert [one.job.id for one in taken if one] == [mine]


def test_passed_on_by_the_heartbeat_it_lets_the_next_one_start_too(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    other = queued(ledger, digest="another")
    mine = queued(ledger, digest="mine")
    take(ledger)
    ledger.pass_on([other])
    assert offered(ledger) == [other, mine]
    started = claim(ledger, mine, kinds=MINE)
    assert started is not None
    held_back = queued(ledger, digest="another")
    ledger.pass_on([held_back])
    ledger.enqueue_again(held_back)
    assert held_back not in offered(ledger), "while its owner's quota is used up it has no message"


def test_upkeep_rings_for_no_job_whose_message_a_worker_holds(ledger: Ledger) -> None:
    job = queued(ledger, digest="another")
    take(ledger)
    ledger.pass_on([job])
    take(ledger)
    patient = MaintenanceSettings(every_s=0, message_patience_s=300)
    ledger.client.call("HSET", f"mistudio:job:{job}", "rung_at", ledger.now() - 400)
    ledger.maintain(patient)
    assert offered(ledger) == []
    ledger.client.call("HSET", f"mistudio:job:{job}", "passed_on_at", ledger.now() - 61)
    ledger.maintain(patient)
    assert offered(ledger) == [job], "the worker that held it is gone"


def test_where_the_first_job_of_a_starving_queue_cannot_run_the_next_one_is_raised(ledger: Ledger) -> None:
    jobs = [queued(ledger, digest="another"), queued(ledger, digest="mine"), queued(ledger, digest="mine")]
    for job in jobs:
        ledger.client.call("HSET", f"mistudio:job:{job}", "queued_at", ledger.now() - 601)
    ledger.client.call("HSET", "mistudio:served_at", "training", ledger.now() - 601)
    patient = MaintenanceSettings(every_s=0, served_within_s=600)
    raised = lambda: [ledger.client.call("HGET", f"mistudio:job:{job}", "raised") for job in jobs]  # noqa: E731
    for _ in range(2):
        ledger.maintain(patient)
        assert raised() == ["1", None, None], "it has its chance for as long"
    ledger.client.call("HSET", f"mistudio:job:{jobs[0]}", "raised_at", ledger.now() - 601)
    ledger.maintain(patient)
    assert raised() == ["1", "1", None]


def test_jobs_that_an_older_version_started_do_not_count_as_unstarted(ledger: Ledger) -> None:
    started, waits = queued(ledger), queued(ledger)
    ledger.client.call("HSET", f"mistudio:job:{started}", "state", "running")
    assert count_unstarted(ledger.client, "alice") == 1
    assert ledger.need(waits).state is State.QUEUED


def test_a_claim_that_a_damaged_entry_cuts_short_leaves_a_lease(ledger: Ledger) -> None:
    job = queued(ledger)
    ledger.client.call("SET", "mistudio:unstarted:alice", "a text")
    with pytest.raises(Refused, match="WRONGTYPE"):
        start(ledger, job)
    assert ledger.need(job).state is State.RUNNING
    assert ledger.client.call("ZSCORE", "mistudio:leases", job) is not None, "so it is put back when that runs out"
    assert [found.where for found in damaged_entries.find(ledger.client)] == ["mistudio:unstarted:alice"]


def test_a_damaged_list_of_owners_keeps_no_heartbeat_from_its_upkeep(ledger: Ledger) -> None:
    ledger.client.call("SET", "mistudio:over_quota", "a text")
    job = queued(ledger)
    take(ledger)
    ledger.maintain(NOW)
    assert offered(ledger) == [job]
