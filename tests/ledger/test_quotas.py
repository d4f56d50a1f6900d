"""Quotas of owners: what is refused, what is held back, what starts once there is room, and that it is atomic."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mistudio_cli.monitor.explain import explain, look_around
from tasks.errors import OverQuota
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.quotas import Quota, count_unstarted, read_quotas, refuse_beyond_quota, set_quota, unset_quota
from tasks.queues import redis_lists
from tasks.redis_client.redis_connection import connect
from tasks.submission.plan import submit
from tests.conftest import PATIENCE_S, RedisServer, until
from tests.fixtures.redis_commands import commands_of
from tests.fixtures.stack import Stack

NOW = MaintenanceSettings(every_s=0, message_patience_s=-1)


def queued(ledger: Ledger, owner: str | None = "alice", kind: str = "train", **changes: Any) -> str:
    values = {"queue": "training", "owner": owner, **changes}
    return ledger.submit(Job(new_job_id(), kind, "a", params={}, **values)).id


def offered(ledger: Ledger, queue: str = "training") -> list[str]:
    """Ids in the queue's lists in the order in which a worker takes them."""
    lists = [ledger.client.call("LRANGE", name, 0, -1) for name in redis_lists(queue)]
    return [json.loads(message)["headers"]["id"] for found in lists for message in reversed(found)]


def take(ledger: Ledger, queue: str = "training") -> str:
    """Take the next message as a worker does, which then asks for its job."""
    for name in redis_lists(queue):
        if message := ledger.client.call("RPOP", name):
            return str(json.loads(message)["headers"]["id"])
    raise AssertionError("no message is there")


def start(ledger: Ledger, job_id: str) -> Claim | None:
    return ledger.claim(job_id, "w@h", "h", 1)


def start_next(ledger: Ledger, queue: str = "training") -> Claim:
    claim = start(ledger, take(ledger, queue))
    assert claim is not None
    return claim


def finish(ledger: Ledger, claim: Claim) -> None:
    assert ledger.finish(claim, State.SUCCEEDED, "done") == "ok"


def test_what_is_set_is_read_the_rest_stays_and_unset_removes_it(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=4, queued=500))
    set_quota(ledger.client, "alice", Quota(gpus=0))
    set_quota(ledger.client, "bob", Quota(running=1))
    assert read_quotas(ledger.client) == {"alice": Quota(4, 0, 500), "bob": Quota(running=1)}
    assert unset_quota(ledger.client, "alice")
    assert not unset_quota(ledger.client, "alice")
    assert unset_quota(ledger.client, "bob")
    assert ledger.client.call("EXISTS", "mistudio:quotas") == 0


def test_a_submit_beyond_queued_is_refused_as_a_whole_and_says_how_many_are_queued(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(queued=3))
    first, second = queued(ledger), queued(ledger)
    group = [Job(new_job_id(), "train", "a", "training", {}, owner="alice") for _ in range(2)]
    with pytest.raises(OverQuota, match="The quota of alice is 3 queued jobs: 2 are queued, so 2 jobs more cannot"):
        ledger.submit_all(group)
    assert ledger.which_exist([job.id for job in group]) == set()
    waiting = queued(ledger, parents=(second,))
    with pytest.raises(OverQuota, match="3 are queued"):
        queued(ledger)
    assert queued(ledger, "bob")
    assert queued(ledger, None)
    start(ledger, first)
    ledger.request_cancel(waiting)
    assert count_unstarted(ledger.client, "alice") == 1
    refuse_beyond_quota(ledger.client, "alice", 2)
    with pytest.raises(OverQuota, match="1 is queued, so 3 jobs more"):
        refuse_beyond_quota(ledger.client, "alice", 3)
    refuse_beyond_quota(ledger.client, "bob", 10_000)


def test_what_an_older_mistudio_has_ended_does_not_count_as_queued(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(queued=1))
    job = queued(ledger)
    ledger.request_cancel(job)
    ledger.client.call("ZADD", "mistudio:unstarted:alice", 1, job)
    assert queued(ledger)


def test_over_running_a_job_is_held_back_without_a_message_and_others_behind_it_start(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=2))
    hers = [queued(ledger) for _ in range(5)]
    his = queued(ledger, "bob")
    assert offered(ledger) == [*hers[:2], his], "no worker is asked to look at what may not start"
    first, second = start_next(ledger), start_next(ledger)
    assert start_next(ledger).job.id == his
    assert offered(ledger) == []
    assert ledger.queues.order("training", 9) == hers[2:], "they stay in the list of what is queued"
    assert ledger.queues.counts()["training"].pending == 3
    for _ in range(3):
        ledger.maintain(NOW)
    assert offered(ledger) == []
    finish(ledger, second)
    assert offered(ledger) == [hers[2]]
    finish(ledger, first)
    assert set(offered(ledger)) == set(hers[2:4])


def test_a_message_that_was_on_its_way_starts_nothing_over_the_quota_and_is_not_lost(ledger: Ledger) -> None:
    jobs = [queued(ledger) for _ in range(3)]
    first = start_next(ledger)
    set_quota(ledger.client, "alice", Quota(running=1))
    for job in jobs[1:]:
        assert take(ledger) == job
        assert start(ledger, job) is None
        assert ledger.need(job).state is State.QUEUED
    assert offered(ledger) == [], "it is asked for once, and not again and again"
    finish(ledger, first)
    assert offered(ledger) == [jobs[1]]
    held_back = start_next(ledger)
    assert ledger.put_back(held_back, "shutdown", loss=False) == "ok"
    assert offered(ledger)[0] == jobs[1], "what went back keeps its place"
    finish(ledger, start_next(ledger))
    finish(ledger, start_next(ledger))
    assert ledger.client.call("KEYS", "mistudio:*over_quota*") == []


def test_a_raised_or_removed_quota_starts_what_was_held_back(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=0))
    jobs = [queued(ledger) for _ in range(4)]
    assert offered(ledger) == []
    set_quota(ledger.client, "alice", Quota(running=1))
    assert offered(ledger) == jobs[:1]
    unset_quota(ledger.client, "alice")
    assert offered(ledger) == [*jobs[1:], jobs[0]], "ahead of what was offered before, which has its message already"


def test_gpus_count_jobs_that_use_or_may_get_one_and_not_those_on_a_processor(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(gpus=1))
    first, second = queued(ledger), queued(ledger)
    without, other = queued(ledger, gpu="none"), queued(ledger, kind="tokenize", queue="processing")
    assert (offered(ledger), offered(ledger, "processing")) == ([first, without], [other])
    claim = start_next(ledger)
    assert start(ledger, second) is None
    assert start_next(ledger).job.id == without
    assert start_next(ledger, "processing").job.id == other
    assert [job.id for job in map(ledger.need, (first, without, other)) if job.holds_gpu] == [first]
    ledger.use_device(claim, "cpu")
    assert offered(ledger) == [second], "it got no GPU, so the next one may"
    assert start_next(ledger).job.id == second


def test_a_more_urgent_job_of_the_owner_is_offered_before_those_that_are(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    low = queued(ledger, priority=1)
    high = queued(ledger, priority=8)
    assert offered(ledger) == [high, low]
    claim = start_next(ledger)
    assert start(ledger, take(ledger)) is None
    ledger.queues.set_priority(low, 9)
    finish(ledger, claim)
    assert start_next(ledger).job.id == low


def test_a_queue_without_workers_takes_no_room_from_others(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    extraction = queued(ledger, queue="extraction")
    training = queued(ledger)
    assert (offered(ledger, "extraction"), offered(ledger)) == ([extraction], [training])


def test_what_is_held_back_can_be_cancelled_moved_and_purged(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=0))
    jobs = [queued(ledger) for _ in range(4)]
    ledger.request_cancel(jobs[0])
    ledger.queues.move(jobs[1], "extraction", top=True)
    assert ledger.queues.order("training", 9) == jobs[2:]
    assert ledger.queues.order("extraction", 9) == jobs[1:2]
    assert ledger.queues.purge("training") == 2
    assert ledger.queues.purge("extraction") == 1
    assert ledger.queues.counts()["training"].pending == 0


def test_the_starving_guard_passes_over_what_a_quota_holds_back(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=0))
    hers, his = queued(ledger, priority=0), queued(ledger, "bob", priority=0)
    for job in (hers, his):
        ledger.client.call("HSET", f"mistudio:job:{job}", "queued_at", ledger.now() - 601)
    ledger.maintain(MaintenanceSettings(every_s=0, served_within_s=600))
    assert offered(ledger)[0] == his


def test_a_paused_queue_keeps_what_gets_room_until_it_is_resumed(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=0))
    job = queued(ledger)
    ledger.queues.pause("training")
    unset_quota(ledger.client, "alice")
    assert offered(ledger) == []
    ledger.queues.resume("training")
    assert offered(ledger) == [job]


def test_what_an_older_mistudio_ended_gives_room_at_the_next_upkeep(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=1))
    first, second = queued(ledger), queued(ledger)
    start_next(ledger)
    ledger.client.call("HSET", f"mistudio:job:{first}", "state", "succeeded")
    ledger.client.call("ZREM", "mistudio:by:state:running", first)
    assert offered(ledger) == []
    ledger.maintain(NOW)
    assert offered(ledger) == [second]


def test_a_damaged_quota_stops_nothing_and_is_named(ledger: Ledger) -> None:
    from tasks.fleet import damaged_entries

    for text in ("{", "[]", '{"alice": 1}', '{"alice": {"running": "x"}}'):
        ledger.client.call("SET", "mistudio:quotas", text)
        assert start(ledger, queued(ledger)) is not None
        assert text == "[]" or read_quotas(ledger.client) == {}
        assert [entry.where for entry in damaged_entries.find(ledger.client)] == ["mistudio:quotas"], text


@pytest.mark.parametrize(("limits", "most"), [(Quota(running=3), 3), (Quota(gpus=2), 2)])
def test_many_threads_that_claim_at_once_never_start_one_too_many(
    session_redis: RedisServer, ledger: Ledger, limits: Quota, most: int
) -> None:
    jobs = [queued(ledger) for _ in range(24)]
    set_quota(ledger.client, "alice", limits)
    ready = threading.Barrier(12)

    def claim_some(mine: list[str]) -> list[str]:
        own = Ledger(connect(session_redis.url))
        ready.wait(PATIENCE_S)
        started = [job for job in mine if start(own, job)]
        own.close()
        return started

    with ThreadPoolExecutor(12) as pool:
        started = [job for found in pool.map(claim_some, [jobs[n::12] for n in range(12)]) for job in found]
    assert len(started) == most
    assert [ledger.need(job).state for job in started] == [State.RUNNING] * most


def test_explain_names_the_quota_and_the_jobs_that_use_it_up(ledger: Ledger) -> None:
    set_quota(ledger.client, "alice", Quota(running=2, gpus=1))
    first, other = queued(ledger), queued(ledger, kind="tokenize", queue="processing")
    start(ledger, first)
    held_back = ledger.need(queued(ledger))
    causes = explain(held_back, look_around(ledger, held_back))
    assert causes[0].sentence == f"The quota of its owner alice is used up (gpus 1): {first} (train a)."
    assert causes[0].command == "mistudio fleet quota ls"
    start(ledger, other)
    sentences = [cause.sentence for cause in explain(held_back, look_around(ledger, held_back))]
    assert any("(running 2)" in said and first in said and other in said for said in sentences)
    assert not any("starts in a moment" in said or "the next of its queue" in said for said in sentences)


def test_without_a_quota_a_claim_costs_no_more_however_much_runs(ledger: Ledger) -> None:
    jobs = [queued(ledger) for _ in range(40)]
    costs = [commands_of(ledger, lambda job=job: start(ledger, job) or pytest.fail(job)) for job in jobs]  # type: ignore[misc]
    assert min(costs[-4:-1]) == min(costs[:3])


def test_real_workers_hold_the_quota_and_ask_for_no_job_again_and_again(stack: Stack) -> None:
    set_quota(stack.ledger.client, "alice", Quota(running=1))
    marks = stack.folder / "marks"
    values = {"ticks": 5, "marks": str(marks)}
    hers = [submit(stack.ledger, stack.store, "nap", values, name=f"a{n}", owner="alice")[-1] for n in range(6)]
    his = submit(stack.ledger, stack.store, "nap", {"ticks": 1}, name="b", owner="bob")[-1]
    stack.start_worker("--queues", "training", slots=4)
    assert stack.ended(his).state is State.SUCCEEDED
    for job in hers:
        assert (stack.ended(job).state, stack.ended(job).attempt) == (State.SUCCEEDED, 1)
    tokens = [line.split()[1] for line in marks.read_text().splitlines()]
    turns = [token for place, token in enumerate(tokens) if place == 0 or tokens[place - 1] != token]
    assert len(turns) == 6, "one at a time"
    until(lambda: stack.ledger.client.call("KEYS", "mistudio:*over_quota*") == [])
    log = (stack.folder / "worker.log").read_text()
    asked_in_vain = [line for line in log.splitlines() if "nothing to run" in line]
    # A busy machine may take a message for lost and send another one, so one may come too many of each job.
    assert not [job.name for job in (*hers, his) if sum(job.id in line for line in asked_in_vain) > 1], asked_in_vain
