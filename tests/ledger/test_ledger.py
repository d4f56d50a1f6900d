"""The ledger: a job ends once, is held by one, and is never without a way on."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.device_lease import Card
from tasks.ledger.listing import Filter
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import redis_lists
from tasks.redis_client import redis_connection
from tests.fixtures.lost_jobs import look_for_lost, recover_lost


def a_job(kind: str = "train", queue: str = "training", **changes: object) -> Job:
    return Job(new_job_id(), kind, "a", queue, {"k": 3}, **changes)


def expire_lease(ledger: Ledger, job_id: str) -> None:
    ledger.client.call("ZADD", "mistudio:leases", 1, job_id)


def claimed(ledger: Ledger, job: Job) -> Claim:
    claim = ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    return claim


def test_a_record_comes_back_as_it_was_written(ledger: Ledger) -> None:
    job = ledger.submit(a_job(priority=7, max_attempts=2, artifact="saes/é"))
    assert (job.params, job.priority, job.max_attempts, job.artifact, job.state) == ({"k": 3}, 7, 2, "saes/é", "queued")
    assert ledger.get(job.id) == job
    assert ledger.get("nobody") is None


def test_a_waiting_job_names_the_parents_that_it_still_waits_for(ledger: Ledger) -> None:
    parents = [ledger.submit(dataclasses.replace(a_job(), name=name)) for name in ("tokens", "sae", "b", "c")]
    child = ledger.submit(a_job(parents=tuple(parent.id for parent in parents)))
    for parent, names in zip(parents, ("tokens, sae and 2 more", "sae, b and 1 more", "b and c", "c"), strict=True):
        assert ledger.need(child.id).reason == f"waits for {names}"
        ledger.finish(claimed(ledger, parent), State.SUCCEEDED, "done")
    assert (ledger.need(child.id).state, ledger.need(child.id).reason) == (State.QUEUED, "its parents are done")


def test_a_parent_without_a_name_is_called_by_its_id(ledger: Ledger) -> None:
    parent = ledger.submit(a_job())
    ledger.client.call("HDEL", f"mistudio:job:{parent.id}", "name")
    assert ledger.submit(a_job(parents=(parent.id,))).reason == f"waits for {parent.id}"


def test_of_a_hundred_claims_at_once_one_succeeds(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    claims: list[Claim | None] = []

    def take() -> None:
        other = Ledger(redis_connection.Client(ledger.client.address))
        claims.extend(other.claim(job.id, "w@h", "h") for _ in range(10))
        other.client.close()

    threads = [threading.Thread(target=take) for _ in range(10)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(claims) == 100
    assert sum(claim is not None for claim in claims) == 1
    assert ledger.need(job.id).attempt == 1


def test_a_dead_lease_puts_the_job_back_and_the_old_owner_can_change_nothing_more(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    old = claimed(ledger, job)
    expire_lease(ledger, job.id)
    recover_lost(ledger)
    assert ledger.need(job.id).state == State.QUEUED
    new = claimed(ledger, job)
    assert ledger.renew(old) == "lost"
    assert ledger.report(old, Progress("x", 1, 2, "y")) == "lost"
    assert ledger.finish(old, State.FAILED, "late") == "lost"
    assert ledger.put_back(old, "late", loss=True) == "lost"
    assert ledger.finish(new, State.SUCCEEDED, "done", result={"a": 1}) == "ok"
    assert ledger.need(job.id).result == {"a": 1}
    assert [event["attempt"] for event in ledger.events(job.id)] == [0, 1, 1, 2, 2]
    assert [event.get("token") for event in ledger.events(job.id)] == [None, old.token, None, new.token, None]


def test_a_renewed_lease_is_not_reaped(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    claim = claimed(ledger, job)
    assert ledger.renew(claim) == "ok"
    recover_lost(ledger)
    assert ledger.need(job.id).state == State.RUNNING


def test_a_job_lost_as_often_as_it_may_fails_and_says_so(ledger: Ledger) -> None:
    job = ledger.submit(a_job(max_attempts=2))
    for _ in range(2):
        claimed(ledger, job)
        expire_lease(ledger, job.id)
        recover_lost(ledger)
    ended = ledger.need(job.id)
    assert ended.state == State.FAILED
    assert ended.error is not None
    assert "2 times; given up" in ended.error["message"]


def test_a_job_put_back_by_a_shutdown_keeps_all_its_attempts(ledger: Ledger) -> None:
    job = ledger.submit(a_job(max_attempts=1))
    for _ in range(5):
        ledger.put_back(claimed(ledger, job), "shutdown", loss=False)
    assert ledger.need(job.id).state == State.QUEUED


def test_finishing_twice_is_finishing_once(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    claim = claimed(ledger, job)
    assert ledger.finish(claim, State.SUCCEEDED, "done") == "ok"
    assert ledger.finish(claim, State.SUCCEEDED, "done") == "ok"
    assert ledger.finish(claim, State.FAILED, "no") == "lost"
    assert [event["state"] for event in ledger.events(job.id)] == ["queued", "running", "succeeded"]


def test_cancel_ends_what_has_not_begun_and_asks_what_runs(ledger: Ledger) -> None:
    queued, running = ledger.submit(a_job()), ledger.submit(a_job())
    assert ledger.request_cancel(queued.id).state == State.CANCELLED
    assert ledger.claim(queued.id, "w@h", "h") is None
    claim = claimed(ledger, running)
    assert ledger.request_cancel(running.id).state == State.RUNNING
    assert ledger.renew(claim) == "cancel"
    ledger.finish(claim, State.CANCELLED, "cancelled")
    assert ledger.request_cancel(running.id).state == State.CANCELLED
    with pytest.raises(UserError, match="no job"):
        ledger.request_cancel("nobody")


def test_a_cancelled_job_whose_worker_dies_is_cancelled_not_run_again(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    claimed(ledger, job)
    ledger.request_cancel(job.id)
    expire_lease(ledger, job.id)
    recover_lost(ledger)
    assert ledger.need(job.id).state == State.CANCELLED


def test_a_child_waits_for_all_its_parents_and_then_rings(ledger: Ledger) -> None:
    one, two = ledger.submit(a_job()), ledger.submit(a_job())
    child = ledger.submit(a_job("extract", "extraction", parents=(one.id, two.id)))
    assert ledger.queues.messages("extraction") == 0
    assert child.state == State.WAITING
    assert ledger.claim(child.id, "w@h", "h") is None
    ledger.finish(claimed(ledger, one), State.SUCCEEDED, "done")
    assert ledger.need(child.id).state == State.WAITING
    ledger.finish(claimed(ledger, two), State.SUCCEEDED, "done")
    assert ledger.need(child.id).state == State.QUEUED
    assert ledger.queues.messages("extraction") == 1


def test_the_end_of_a_parent_is_the_end_of_all_that_wait_for_it(ledger: Ledger) -> None:
    parent = ledger.submit(a_job())
    child = Job(new_job_id(), "extract", "features-of-a", "extraction", {}, artifact="features/f", parents=(parent.id,))
    ledger.submit(child)
    grandchild = ledger.submit(a_job("describe", "high_priority", parents=(child.id,)))
    ledger.finish(claimed(ledger, parent), State.FAILED, "broke")
    assert (ledger.need(child.id).state, ledger.need(grandchild.id).state) == (State.FAILED, State.FAILED)
    assert ledger.need(grandchild.id).reason == "its parent features-of-a (extract) failed: a (train) failed: broke"
    assert ledger.need(child.id).reason == "its parent a (train) failed: broke"
    assert ledger.producer_of("features/f") is None
    with pytest.raises(UserError, match="parent a failed: broke"):
        ledger.submit(a_job(parents=(parent.id,)))


def test_two_jobs_cannot_make_the_same_artifact(ledger: Ledger) -> None:
    first = ledger.submit(a_job(artifact="saes/x"))
    with pytest.raises(UserError, match=f"is being made by job {first.id}"):
        ledger.submit(a_job(artifact="saes/x"))
    ledger.request_cancel(first.id)
    assert ledger.submit(a_job(artifact="saes/x")).state == State.QUEUED


def test_counts_and_ages_are_those_of_the_records(ledger: Ledger) -> None:
    jobs = [ledger.submit(a_job()) for _ in range(3)]
    claimed(ledger, jobs[0])
    count = ledger.queues.counts()["training"]
    assert (count.pending, count.running, count.waiting) == (2, 1, 0)
    assert count.oldest_queued_at == pytest.approx(jobs[1].queued_at)
    assert ledger.queues.counts()["datasets"].oldest_queued_at is None


def test_pages_cover_every_job_once_newest_first(ledger: Ledger) -> None:
    ids = [ledger.submit(a_job()).id for _ in range(7)] + [ledger.submit(a_job("extract", "extraction")).id]
    seen, before = [], None
    while True:
        page = ledger.page(limit=3, after=before)
        seen += [job.id for job in page.jobs]
        before = page.next
        if before is None:
            break
    assert seen == ids[::-1]
    assert [job.id for job in ledger.page(Filter(kind="extract")).jobs] == ids[-1:]
    assert ledger.page(Filter(states=("running",))).jobs == ()
    assert len(ledger.page(Filter(states=("queued",), queue="training")).jobs) == 7


def test_a_job_submitted_or_removed_between_two_pages_neither_repeats_nor_hides_another(ledger: Ledger) -> None:
    ids = [ledger.submit(a_job()).id for _ in range(9)]
    first = ledger.page(limit=3)
    ledger.submit(a_job())
    ledger.request_cancel(ids[7])
    ledger.remove(ids[7])
    second = ledger.page(limit=3, after=first.next)
    assert [job.id for job in (*first.jobs, *second.jobs)] == ids[:2:-1]


def test_jobs_are_found_by_name_tag_and_time_and_by_several_at_once(ledger: Ledger) -> None:
    tagged = ledger.submit_all([a_job(tags=("sweep:1", "mine")), a_job("extract", "extraction", tags=("sweep:1",))])
    other = ledger.submit(dataclasses.replace(a_job(), name="other"))

    def found(**wanted: Any) -> list[str]:
        return [job.id for job in ledger.page(Filter(**wanted)).jobs]

    assert found(tag="sweep:1") == [tagged[1].id, tagged[0].id]
    assert found(tag="sweep:1", kind="train") == [tagged[0].id]
    assert found(name="other") == [other.id]
    assert found(name="other", tag="mine") == []
    assert found(since=other.created_at) == [other.id]
    assert found(until=tagged[0].created_at) == [tagged[0].id]
    assert found(states=("queued", "running"), queue="extraction") == [tagged[1].id]


def test_jobs_submitted_together_are_accepted_together_or_not_at_all(ledger: Ledger) -> None:
    first = a_job(artifact="saes/x")
    with pytest.raises(UserError, match="saes/x is being made"):
        ledger.submit_all([first, a_job(artifact="saes/y"), a_job(artifact="saes/x")])
    with pytest.raises(UserError, match="no parent nobody"):
        ledger.submit_all([first, a_job(parents=("nobody",))])
    assert ledger.page().jobs == ()
    assert ledger.producer_of("saes/x") is None
    parent, child = ledger.submit_all([first, a_job("extract", "extraction", parents=(first.id,))])
    assert (parent.state, child.state) == (State.QUEUED, State.WAITING)


def test_a_removed_job_leaves_no_trace(ledger: Ledger) -> None:
    before = set(ledger.client.call("KEYS", "*"))
    job = ledger.submit(a_job(tags=("t",), artifact="saes/x"))
    assert ledger.remove(job.id) == "queued"
    ledger.report(claimed(ledger, job), Progress("x", 1, 2, "y"), MetricPoint(1, {"loss": 0.5}))
    expire_lease(ledger, job.id)
    recover_lost(ledger)
    ledger.request_cancel(job.id)
    assert ledger.remove(job.id) == "ok"
    assert ledger.get(job.id) is None
    held = {key for key in set(ledger.client.call("KEYS", "*")) - before if job.id in key}
    assert held == set()
    for key in [*ledger.client.call("KEYS", "mistudio:by:*"), "mistudio:ids", "mistudio:ended"]:
        assert ledger.client.call("ZSCORE", key, job.id) is None


def test_records_of_an_older_form_are_brought_up_to_date_by_whoever_writes_first(ledger: Ledger) -> None:
    first = a_job()
    jobs = ledger.submit_all([first, a_job(parents=(first.id,)), a_job(parents=(first.id,), retry_of=first.id)])
    ledger.finish(claimed(ledger, jobs[0]), State.SUCCEEDED, "done")
    jobs = [ledger.need(job.id) for job in jobs]
    call = ledger.client.call
    for index in ("name", "parent", "retry_of"):
        for key in call("KEYS", f"mistudio:by:{index}:*"):
            call("DEL", key)
    for key in ("mistudio:ids", "mistudio:ended", "mistudio:schema"):
        call("DEL", key)
    call("DEL", "mistudio:queue:training:order", "mistudio:last_turn", *redis_lists("training"))
    for job in jobs:
        call("HDEL", f"mistudio:job:{job.id}", "turn")
    last = ledger.submit(a_job())
    assert call("GET", "mistudio:schema") == "3"
    assert ledger.queues.order("training", 9) == [jobs[1].id, jobs[2].id, last.id]
    assert ledger.queues.messages("training") == 3
    assert ledger.find(jobs[0].id) == [jobs[0].id]
    assert [[job.id for job in found] for found in ledger.children([jobs[0].id])] == [[jobs[1].id, jobs[2].id]]
    assert ledger.other_tries([jobs[0].id]) == [jobs[2]]
    assert ledger.remove(jobs[0].id) == "ok"


def test_children_and_other_tries_are_known_for_as_long_as_they_are_there(ledger: Ledger) -> None:
    parent = ledger.submit(a_job())
    children = [ledger.submit(a_job(parents=(parent.id,))).id for _ in range(3)]
    ledger.request_cancel(parent.id)
    found = ledger.children([children[0], parent.id, children[1]])
    assert [[job.id for job in of_one] for of_one in found] == [[], children, []]
    assert ledger.children([]) == []
    tries = [ledger.submit(a_job(retry_of=children[0])) for _ in range(2)]
    assert ledger.other_tries([*children, parent.id]) == [tries[1], None, None, None]
    ledger.request_cancel(tries[1].id)
    ledger.remove(tries[1].id)
    assert ledger.other_tries(children[:1]) == [tries[0]]
    assert ledger.other_tries([]) == []


def test_a_ledger_of_a_newer_version_is_let_alone(ledger: Ledger) -> None:
    ledger.client.call("SET", "mistudio:schema", 99)
    with pytest.raises(UserError, match="newer mistudio"):
        ledger.submit(a_job())
    assert ledger.page().jobs == ()


def test_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_job_id() for _ in range(100_000)]
    assert len(set(ids)) == 100_000
    assert all(len(job_id) == 14 for job_id in ids)


def test_work_survives_a_script_cache_that_was_emptied(ledger: Ledger) -> None:
    ledger.client.call("SCRIPT", "FLUSH")
    assert ledger.submit(a_job()).state == State.QUEUED


# -- what was found by looking for it ---------------------------------------------------------------------------------


def test_whoever_waits_for_two_that_fail_together_ends_once(ledger: Ledger) -> None:
    for _ in range(10):  # the order in which Redis lists children follows their ids
        first = ledger.submit(a_job())
        second = ledger.submit(a_job(parents=(first.id,)))
        third = ledger.submit(a_job(parents=(first.id, second.id)))
        ledger.finish(claimed(ledger, first), State.FAILED, "broke")
        assert [event["state"] for event in ledger.events(third.id)] == ["waiting", "failed"]


def test_more_children_than_a_script_can_unpack_all_start(ledger: Ledger) -> None:
    parent = ledger.submit(a_job())
    for _ in range(9):
        ledger.submit_all([a_job("x", "datasets", parents=(parent.id,)) for _ in range(900)])
    assert ledger.finish(claimed(ledger, parent), State.SUCCEEDED, "done") == "ok"
    assert ledger.queues.counts()["datasets"].pending == 8100


def test_asking_again_because_the_answer_was_lost_changes_nothing(ledger: Ledger) -> None:
    claim = claimed(ledger, ledger.submit(a_job()))
    assert ledger._change("claim", claim.job.id, claim.token, "w@h", "h", 1, 15, "", "") == "ok"
    assert ledger.need(claim.job.id).attempt == 1
    card = Card("GPU-0", "cuda:0")
    assert ledger.lease_device(claim, [card], 1) == card
    assert ledger.lease_device(claim, [card], 1) == card


@pytest.mark.parametrize("standstill_s", [60.0, -60.0], ids=["nobody looked", "the clock was set back"])
def test_after_a_standstill_every_holder_gets_a_whole_lease_first(ledger: Ledger, standstill_s: float) -> None:
    job = claimed(ledger, ledger.submit(a_job())).job
    ledger.client.call("ZADD", "mistudio:leases", 1, job.id)
    ledger.client.call("SET", "mistudio:reaped_at", ledger.now() - standstill_s)
    look_for_lost(ledger)
    assert ledger.need(job.id).state is State.RUNNING
    ledger.client.call("ZADD", "mistudio:leases", 1, job.id)
    recover_lost(ledger)
    assert ledger.need(job.id).state is State.QUEUED


def test_a_reason_may_name_a_file_whose_name_is_no_text(ledger: Ledger) -> None:
    claim = claimed(ledger, ledger.submit(a_job()))
    name = os.fsdecode(b"caf\xe9.txt")
    assert ledger.finish(claim, State.FAILED, f"No such file: {name}", error={"message": name}) == "ok"
    assert ledger.need(claim.job.id).reason == "No such file: caf\\udce9.txt"


def test_a_job_that_went_back_to_its_queue_is_not_running_all_the_while(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    ledger.put_back(claimed(ledger, job), "shutdown", loss=False)
    assert ledger.need(job.id).started_at is None


def test_a_job_whose_worker_is_long_dead_is_cancelled_with_no_worker_up(ledger: Ledger) -> None:
    job = claimed(ledger, ledger.submit(a_job())).job
    assert ledger.request_cancel(job.id).state is State.RUNNING
    ledger.client.call("ZADD", "mistudio:leases", 1, job.id)
    assert ledger.request_cancel(job.id).state is State.CANCELLED


def test_workers_of_a_newer_version_and_of_a_wrong_clock_are_read_rightly(ledger: Ledger) -> None:
    heartbeat = WorkerHeartbeat("w@h", "h", 1, ("datasets",), 1, 0.0)
    ledger.heartbeat(heartbeat)
    result = json.loads(ledger.client.call("HGET", "mistudio:workers", "w@h"))
    for name, changes in {"newer@h": {"mood": "fine"}, "ahead@h": {"seen_at": ledger.now() + 3600}}.items():
        ledger.client.call("HSET", "mistudio:workers", name, json.dumps({**result, "name": name, **changes}))
    assert [worker.name for worker in ledger.workers()] == ["newer@h", "w@h"]


def test_the_cause_of_a_long_chain_of_failures_is_in_each_reason_and_stays_short(ledger: Ledger) -> None:
    chain = [ledger.submit(a_job())]
    for _ in range(20):
        chain.append(ledger.submit(a_job("describe", "high_priority", parents=(chain[-1].id,))))
    ledger.finish(claimed(ledger, chain[0]), State.FAILED, "no such file: " + "ü" * 10_000)
    for job in chain[1:]:
        reason = ledger.need(job.id).reason
        assert "a (train) failed: no such file: ü" in reason
        assert len(reason) < 400
        assert reason.endswith("ü...")


def test_only_jobs_that_ran_count_for_the_pace_of_their_queue(ledger: Ledger) -> None:
    ran = ledger.submit(a_job())
    ledger.finish(claimed(ledger, ran), State.SUCCEEDED, "done")
    waiting = ledger.submit(a_job())
    ledger.submit(a_job(parents=(waiting.id,)))
    ledger.request_cancel(waiting.id)
    for _ in range(7):
        ledger.submit(a_job())
    assert ledger.queues.purge(ran.queue) == 7
    assert ledger.queues.counts()[ran.queue].ended == (1, 1, 1)
    stopped = ledger.submit(a_job())
    ledger.finish(claimed(ledger, stopped), State.CANCELLED, "stopped")
    assert ledger.queues.counts()[ran.queue].ended == (2, 2, 2)
