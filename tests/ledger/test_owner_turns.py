"""Owners take turns within a priority step of a queue, by how much they run; every other promise of the order holds."""

from __future__ import annotations

import heapq
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mistudio_cli.monitor.explain import explain, look_around
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger, new_token
from tasks.ledger.listing import Filter
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.quotas import Quota, set_quota
from tasks.messaging.app import make_app
from tasks.queues import redis_lists
from tasks.redis_client.redis_connection import connect
from tasks.submission.plan import submit
from tests.conftest import RedisServer, until
from tests.fixtures.redis_commands import commands_of
from tests.fixtures.stack import Stack

KINDS = ["train", "extract"]


def queued(ledger: Ledger, owner: str | None, kind: str = "train", **changes: Any) -> str:
    values = {"queue": "training", "owner": owner, **changes}
    return ledger.submit(Job(new_job_id(), kind, "a", params={}, **values)).id


def take(ledger: Ledger) -> tuple[str, int] | None:
    """The job that the next message of `training` names, and its step; None when there is no message."""
    for step, name in enumerate(redis_lists("training")):
        if message := ledger.client.call("RPOP", name):
            return str(json.loads(message)["headers"]["id"]), step
    return None


def claim(ledger: Ledger, job_id: str, step: int = 4, **changes: Any) -> Claim | None:
    return ledger.claim(job_id, "w@h", "h", 1, **{"queue": "training", "step": step, "stand_ins": KINDS, **changes})


def start_next(ledger: Ledger) -> Claim | None:
    """Answer messages as a free slot does, until one starts a job; None when there are no more."""
    while (taken := take(ledger)) is not None:
        if started := claim(ledger, *taken):
            return started
    return None


def owners_started(ledger: Ledger, slots: int) -> str:
    """The first letters of the owners of the jobs that start in free slots, in this order."""
    started = [start_next(ledger) for _ in range(slots)]
    return "".join((one.job.owner or "-")[0] for one in started if one)


def finish(ledger: Ledger, started: Claim) -> None:
    assert ledger.finish(started, State.SUCCEEDED, "done") == "ok"


def test_who_runs_least_goes_first_however_much_the_others_have_queued_before(ledger: Ledger) -> None:
    for owner in ("alice", "alice", "alice", "alice", "bob", "bob", "carol"):
        queued(ledger, owner)
    assert owners_started(ledger, 7) == "abcabaa"
    assert start_next(ledger) is None


def test_in_one_slot_owners_alternate_and_each_ones_order_stays(ledger: Ledger) -> None:
    hers, his = [queued(ledger, "alice") for _ in range(6)], [queued(ledger, "bob") for _ in range(3)]
    order = []
    while started := start_next(ledger):
        order.append(started.job.id)
        finish(ledger, started)
    assert order[:6] == [job for pair in zip(hers[:3], his, strict=True) for job in pair]
    assert order[6:] == hers[3:]


@pytest.mark.parametrize(("slots", "seconds"), [(1, 1.0), (4, 1.0), (5, 1.0), (4, 30.0)])
def test_three_to_one_submitted_is_half_and_half_of_the_slots(ledger: Ledger, slots: int, seconds: float) -> None:
    """Slot-seconds while both have jobs queued, with jobs of random lengths up to `seconds`, by a clock of its own."""
    chance = random.Random(slots)
    owner_of = {queued(ledger, owner): owner for _ in range(30) for owner in ("alice", "alice", "alice", "bob")}
    left, busy, used, now = Counter(owner_of.values()), list[tuple[float, int, Claim]](), Counter[str](), 0.0
    while min(left.values()) > 0:
        while len(busy) < slots and min(left.values()) > 0:
            started = start_next(ledger)
            assert started is not None
            owner = owner_of[started.job.id]
            left[owner] -= 1
            length = seconds if slots == 1 else chance.uniform(0.8, 1.2) * seconds
            used[owner] += length
            heapq.heappush(busy, (now + length, len(owner_of) - sum(left.values()), started))
        now, _, ended = heapq.heappop(busy)
        finish(ledger, ended)
    share = used["bob"] / sum(used.values())
    assert 0.45 <= share <= 0.55, used


def test_priority_comes_before_turns_and_what_was_raised_before_both(ledger: Ledger) -> None:
    low = [queued(ledger, "bob", priority=2) for _ in range(2)]
    high = [queued(ledger, "alice", priority=7) for _ in range(2)]
    top = queued(ledger, "alice", priority=0)
    urgent = queued(ledger, "bob", priority=10)
    ledger.queues.move(top, top=True)
    started = [start_next(ledger) for _ in range(6)]
    assert [one.job.id for one in started if one] == [top, urgent, *high, *low]


def test_a_job_whose_queue_starved_waits_for_no_turn(ledger: Ledger) -> None:
    starving = queued(ledger, "alice", priority=0)
    for _ in range(2):
        claim(ledger, queued(ledger, "alice"))
    ledger.client.call("HSET", "mistudio:served_at", "training", 0)
    ledger.client.call("HSET", f"mistudio:job:{starving}", "queued_at", ledger.now() - 601)
    ledger.maintain(MaintenanceSettings(every_s=0, served_within_s=600))
    queued(ledger, "bob", priority=10)
    started = start_next(ledger)
    assert started is not None
    assert started.job.id == starving


def test_who_asks_again_gets_the_job_that_stood_in_and_no_second_one(ledger: Ledger) -> None:
    hers = [queued(ledger, "alice") for _ in range(3)]
    his = [queued(ledger, "bob") for _ in range(2)]
    claim(ledger, hers[0])
    token = new_token()
    first = claim(ledger, hers[1], token=token)
    again = claim(ledger, hers[1], token=token)
    assert first is not None
    assert again is not None
    assert first.job.id == again.job.id == his[0]
    assert ledger.need(hers[1]).state is State.QUEUED
    assert ledger.need(his[1]).state is State.QUEUED


def test_a_kind_that_may_not_stand_in_waits_for_its_own_message(ledger: Ledger) -> None:
    hers, his = [queued(ledger, "alice") for _ in range(2)], queued(ledger, "bob", kind="cleanup")
    claim(ledger, hers[0])
    started = claim(ledger, hers[1])
    assert started is not None
    assert started.job.id == hers[1]
    assert claim(ledger, his, stand_ins=["cleanup"]) is not None


def test_an_owner_at_its_quota_is_passed_over_and_starts_in_its_own_order_later(ledger: Ledger) -> None:
    set_quota(ledger.client, "bob", Quota(running=1))
    his, hers = [queued(ledger, "bob") for _ in range(4)], [queued(ledger, "alice") for _ in range(3)]
    started = [start_next(ledger) for _ in range(4)]
    assert [one.job.id for one in started if one] == [his[0], *hers]
    assert start_next(ledger) is None
    set_quota(ledger.client, "bob", Quota(running=3))
    assert started[0] is not None
    finish(ledger, started[0])
    later = [start_next(ledger) for _ in range(3)]
    assert [one.job.id for one in later if one] == his[1:]


def test_jobs_of_an_older_mistudio_have_their_turn_too(ledger: Ledger) -> None:
    old = queued(ledger, None)
    for key in ledger.client.call("KEYS", "mistudio:queue:training:ready:*"):
        ledger.client.call("DEL", key)  # it knew of no such index
    stale = queued(ledger, "bob")
    hers = [queued(ledger, "alice") for _ in range(2)]
    ledger.client.call("HSET", f"mistudio:job:{stale}", "state", "running")  # started by an older worker
    started = [start_next(ledger) for _ in range(3)]
    assert {one.job.id for one in started if one} == {old, *hers}


def test_explain_says_whose_turn_comes_before(ledger: Ledger) -> None:
    for _ in range(2):
        claim(ledger, queued(ledger, "alice"))
    hers, his = ledger.need(queued(ledger, "alice")), ledger.need(queued(ledger, "bob"))
    sentences = [cause.sentence for cause in explain(hers, look_around(ledger, hers))]
    assert "Owners take turns in training: its owner alice has 2 running, bob 0." in sentences
    assert not any("turns" in cause.sentence for cause in explain(his, look_around(ledger, his)))
    assert ledger.queues.owners("training") == ["alice", "bob"]
    ledger.request_cancel(his.id)
    assert ledger.queues.owners("training") == ["alice"]


def test_many_slots_at_once_start_each_job_once_and_hold_the_shares(session_redis: RedisServer, ledger: Ledger) -> None:
    set_quota(ledger.client, "carol", Quota(running=1))
    owners = [*["alice"] * 30, *["bob"] * 20, *["carol"] * 10]
    jobs = [queued(ledger, owner, priority=chance) for owner, chance in zip(owners, [5, 5, 8] * 20, strict=True)]
    over: list[str] = []

    def work(_: int) -> list[str]:
        own, done = Ledger(connect(session_redis.url)), list[str]()
        while own.live_jobs():
            started = start_next(own)
            if started is None:
                own.maintain(MaintenanceSettings(every_s=0, message_patience_s=0))
                continue
            running = own.client.call("ZRANGE", "mistudio:by:state:running", 0, -1)
            if sum(job.owner == "carol" and job.state is State.RUNNING for job in own.many(running) if job) > 1:
                over.append(started.job.id)
            done.append(started.job.id)
            finish(own, started)
        own.close()
        return done

    with ThreadPoolExecutor(8) as pool:
        done = [job for found in pool.map(work, range(8)) for job in found]
    assert sorted(done) == sorted(jobs)
    assert over == [], "carol had more than one running"
    assert {job.attempt for job in ledger.many(jobs) if job} == {1}


#: What a claim cost before there were owners, the reading of the record, RESETSTAT and INFO among it.
COMMANDS_BEFORE_OWNERS = 40


def test_with_one_owner_alone_a_claim_costs_what_it_did(ledger: Ledger) -> None:
    jobs = [queued(ledger, "alice") for _ in range(60)]
    costs = [commands_of(ledger, lambda job=job: claim(ledger, job)) for job in jobs]  # type: ignore[misc]
    # The last one leaves the queue empty.
    assert min(costs[:3]) == min(costs[-4:-1]) <= COMMANDS_BEFORE_OWNERS
    assert Counter(costs).most_common(1)[0][0] == min(costs[:3])


def test_real_workers_give_two_owners_equal_shares_and_celery_each_jobs_own_result(stack: Stack) -> None:
    def naps(owner: str, count: int) -> list[Job]:
        """Naps that end when a file of their name is there, so that all are as long."""
        names = [f"{owner}{number}" for number in range(count)]
        values = [{"ticks": 100_000, "until": str(stack.folder / name)} for name in names]
        return [
            submit(stack.ledger, stack.store, "nap", each, name=name, owner=owner)[-1]
            for name, each in zip(names, values, strict=True)
        ]

    def end_both_that_run() -> None:
        running = Filter(states=("running",))
        until(lambda: len(stack.ledger.page(running).jobs) == 2, stack.log())
        both = stack.ledger.page(running).jobs
        for job in both:
            (stack.folder / job.name).touch()
        for job in both:
            stack.ended(job)

    hers, his = naps("alice", 18), naps("bob", 6)
    messages = redis_lists("training")[4]
    for message in stack.ledger.client.call("LRANGE", messages, 0, -1):
        if json.loads(message)["headers"]["id"] == his[0].id:  # so that it can only start on the message of another
            stack.ledger.client.call("LREM", messages, 1, message)
    stack.start_worker("--queues", "training", slots=2)
    for _ in his:
        end_both_that_run()
    ended = [stack.ended(job) for job in his]
    for job in hers:
        stack.ledger.request_cancel(job.id)
    everyone = [*ended, *(stack.ended(job) for job in hers)]
    started = sorted((job for job in everyone if job.started_at), key=lambda job: job.started_at or 0.0)
    last = max(place for place, job in enumerate(started) if job.owner == "bob")
    shares = Counter(job.owner for job in started[: last + 1])
    assert 0.45 <= shares["bob"] / (last + 1) <= 0.55, shares
    assert [job.id for job in started if job.owner == "bob"] == [job.id for job in his], "each one's order stays"
    assert {job.attempt for job in started} == {1}
    app = make_app(stack.redis.url)
    for job in ended:
        until(lambda job=job: app.AsyncResult(job.id).state == "SUCCESS")  # type: ignore[misc]
        assert app.AsyncResult(job.id).result == job.result
    app.close()
