"""Real workers on a real Redis: each way a job can go, and each death it must survive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.queues import redis_lists
from tasks.redis_client.redis_connection import Unreachable
from tasks.storage.attempts import OUTPUT, newest
from tasks.storage.store import MANIFEST
from tasks.system.process_identity import is_alive
from tasks.worker import slot
from tasks.worker.orphans import clear_away_one
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import EXTRA, Stack
from tests.fixtures.work_folders import next_attempt


def test_a_job_submitted_before_there_is_a_worker_waits_and_runs_then(stack: Stack) -> None:
    heavy, quick = stack.submit("nap", ticks=3), stack.submit("blink", note="hello")
    assert stack.ledger.queues.counts()["training"].pending == 1
    stack.start_worker()
    assert stack.ended(quick).result == {"note": "hello"}
    done = stack.ended(heavy)
    assert (done.state, done.attempt, done.device) == (State.SUCCEEDED, 1, "cpu")
    manifest = stack.store.manifest("saes", "nap-3")
    assert (manifest["job"], manifest["params"]["ticks"], manifest["result"]["ticks"]) == (heavy.id, 3, 3)
    (claim,) = [event for event in stack.ledger.events(heavy.id) if event["reason"] == "claimed"]
    assert (manifest["attempt"], manifest["token"]) == (claim["attempt"], claim["token"])
    assert (stack.store.path("saes", "nap-3") / "dream.txt").read_text() == "zzz"
    until(lambda: stack.left_in_tmp() == [])


def test_what_a_job_left_that_ended_without_a_slot_is_cleared_away_and_nothing_else(stack: Stack) -> None:
    """As one that was put back with its checkpoints, and cancelled before it was begun again."""
    over, just_over, waits = (stack.submit("nap", name=name, ticks=1) for name in ("over", "just-over", "waits"))
    stack.ledger.queues.pause("training")
    for job in (over, just_over, waits):
        (next_attempt(stack.store, job.id) / "checkpoint").write_text("1")
    next_attempt(stack.store, "of-another-ledger")
    stack.ledger.request_cancel(over.id)
    stack.ledger.client.call("HSET", f"mistudio:job:{over.id}", "finished_at", stack.ledger.now() - 16)
    stack.start_worker()
    until(lambda: over.id not in stack.left_in_tmp())
    stack.ledger.request_cancel(just_over.id)
    assert clear_away_one(stack.ledger, stack.store) is None
    assert stack.left_in_tmp() == sorted([just_over.id, waits.id, "of-another-ledger"])


def test_a_folder_that_cannot_be_cleared_away_holds_up_no_other(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted(stack.submit("nap", name=name, ticks=1).id for name in ("a", "b"))
    for job in (first, second):
        next_attempt(stack.store, job)
        stack.ledger.request_cancel(job)
        stack.ledger.client.call("HSET", f"mistudio:job:{job}", "finished_at", stack.ledger.now() - 16)
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == first:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert clear_away_one(stack.ledger, stack.store) == second
    assert clear_away_one(stack.ledger, stack.store) is None
    assert stack.left_in_tmp() == [first]


def test_a_child_runs_after_its_parent_without_naming_it(stack: Stack) -> None:
    parent = stack.submit("nap", name="first", ticks=3)
    child = stack.submit("nap", name="second", ticks=1, parent="first")
    assert (child.state, child.parents) == (State.WAITING, (parent.id,))
    stack.start_worker()
    assert stack.ended(child).state == State.SUCCEEDED
    assert stack.store.manifest("saes", "second")["made_from"] == {"parent": "saes/first"}


def test_a_failed_job_says_why_and_leaves_nothing_in_the_store(stack: Stack) -> None:
    stack.start_worker()
    failed = stack.ended(stack.submit("nap", ticks=1, end="raise"))
    assert failed.state == State.FAILED
    assert failed.error is not None
    assert (failed.error["type"], failed.error["message"]) == ("ValueError", "ValueError: asked to raise")
    assert failed.attempt == 1
    assert stack.store.names("saes") == []
    until(lambda: stack.left_in_tmp() == [])


def test_a_full_disk_is_reported_in_a_sentence_and_nothing_is_left(stack: Stack) -> None:
    stack.start_worker()
    failed = stack.ended(stack.submit("nap", ticks=1, end="full-disk"))
    assert failed.state == State.FAILED
    assert failed.error is not None
    assert failed.error["message"].startswith("The disk is full.")
    until(lambda: stack.left_in_tmp() == [])
    assert stack.store.names("saes") == []


def test_a_job_that_always_crashes_is_given_up(stack: Stack) -> None:
    stack.start_worker()
    failed = stack.ended(stack.submit("nap", ticks=1, end="crash"))
    assert (failed.state, failed.attempt) == (State.FAILED, 3)
    assert "SIGSEGV" in failed.reason


def test_cancel_stops_a_running_job_and_all_its_processes(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("nap", ticks=10_000)
    runner = stack.under_way(job)
    stack.ledger.request_cancel(job.id)
    ended = stack.ended(job)
    assert (ended.state, ended.reason) == (State.CANCELLED, "cancelled by the user; stopped on request")
    until(lambda: not runner.is_running())
    until(lambda: stack.left_in_tmp() == [])
    assert stack.store.names("saes") == []


def test_a_job_over_its_time_limit_is_stopped_and_fails_with_that_reason(stack: Stack) -> None:
    stack.start_worker(NAP_SOFT_LIMIT_S="1")
    failed = stack.ended(stack.submit("nap", ticks=10_000))
    assert failed.state == State.FAILED
    assert failed.reason == "It ran for more than 1 s, the most its kind may; stopped on request."
    assert failed.error is not None
    assert failed.error["type"] == "TimeLimit"
    until(lambda: stack.left_in_tmp() == [])


def test_a_message_that_was_lost_is_enqueued_again(stack: Stack) -> None:
    job = stack.ledger.submit(Job("silent", "blink", "b", "high_priority", {}))
    stack.ledger.client.call("DEL", *redis_lists("high_priority"))
    stack.ledger.client.call("HSET", f"mistudio:job:{job.id}", "rung_at", stack.ledger.now() - 60)
    stack.start_worker()
    assert stack.ended(job).state == State.SUCCEEDED


def test_a_message_enqueued_twice_runs_the_job_once(stack: Stack) -> None:
    job = stack.submit("nap", ticks=5)
    for _ in range(3):
        stack.ledger.enqueue_again(job.id)
    stack.start_worker(slots=4)
    assert stack.ended(job).attempt == 1
    assert stack.reasons(job) == ["submitted", "claimed", "done"]


def test_a_killed_runner_is_resumed_from_where_it_was(stack: Stack) -> None:
    stack.start_worker()
    job = stack.nap()
    stack.under_way(job).kill()
    stack.resumed(job)
    assert "SIGKILL" in stack.reasons(job)[2]


def test_a_killed_slot_takes_its_runner_along_and_the_job_is_resumed(stack: Stack) -> None:
    stack.start_worker()
    job = stack.nap()
    runner = stack.under_way(job)
    slot = runner.parent()
    assert slot is not None
    slot.kill()
    until(lambda: not runner.is_running())
    stack.resumed(job)
    assert stack.store.names("saes") == [job.name]


def test_a_killed_worker_leaves_no_orphan_and_another_resumes_its_job(stack: Stack) -> None:
    worker = stack.start_worker()
    job = stack.nap()
    runner = stack.under_way(job)
    slots = psutil.Process(worker.pid).children()
    worker.kill()
    worker.wait()
    until(lambda: not runner.is_running() and not any(slot.is_running() for slot in slots))
    stack.start_worker()
    stack.resumed(job)


def test_a_job_runs_on_while_redis_is_dead_and_reports_when_it_is_back(stack: Stack) -> None:
    stack.start_worker()
    job = stack.nap()
    stack.under_way(job)
    stack.redis.kill()
    before = len(stack.ticks(job, 1))
    until(lambda: len(stack.ticks(job, 1)) > before + 10, "it to continue without Redis")
    stack.wake(job)
    until(lambda: has_dreamt(stack, job), "its work to be over")
    stack.redis.start()
    done = stack.ended(job)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
    assert stack.ended(stack.submit("blink", note="after")).state == State.SUCCEEDED


def has_dreamt(stack: Stack, job: Job) -> bool:
    """Whether a nap has written what comes of it, in its work folder still or in the store."""
    folder = newest(stack.store.work_folder(job.id))
    return stack.store.path("saes", job.name).exists() or (
        folder is not None and (folder / OUTPUT / "dream.txt").exists()
    )


def test_quit_puts_a_running_job_back_and_term_lets_it_finish(stack: Stack) -> None:
    stack.start_worker()
    job = stack.nap()
    stack.under_way(job)
    stack.stop_worker(signal.SIGQUIT)
    assert stack.ledger.need(job.id).state == State.QUEUED
    assert stack.reasons(job)[-1] == "its worker was shut down; stopped on request"
    assert stack.ledger.workers() == []
    worker = stack.start_worker()
    stack.under_way(job)
    worker.send_signal(signal.SIGTERM)
    until(lambda: stack.ledger.workers() == [], "it to take no more jobs")
    stack.wake(job)
    worker.wait(PATIENCE_S)
    assert (stack.ledger.need(job.id).state, stack.ledger.need(job.id).attempt) == (State.SUCCEEDED, 2)


def test_a_worker_whose_parent_is_gone_finishes_its_job_and_ends(stack: Stack) -> None:
    job = stack.nap()
    environment = {
        **os.environ,
        "MISTUDIO_HOME": str(stack.folder / "home"),
        "CELERY_BROKER_URL": stack.redis.url,
        "PYTHONPATH": str(EXTRA),
    }
    command = f"{sys.executable} -P -m tasks.worker --name all-queues --slots 1 & echo $!; read line"
    with (stack.folder / "worker.log").open("ab") as log:
        shell = subprocess.Popen(
            ["bash", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd="/"
        )
    assert shell.stdout is not None
    worker = psutil.Process(int(shell.stdout.readline()))
    stack.under_way(job)
    shell.kill()
    shell.wait()
    shell.stdout.close()
    assert shell.stdin is not None
    shell.stdin.close()
    until(lambda: stack.ledger.workers() == [], "it to take no more jobs")
    stack.wake(job)
    until(lambda: not is_alive(worker), stack.log())
    assert stack.ledger.need(job.id).state == State.SUCCEEDED
    assert stack.ledger.need(job.id).attempt == 1


def test_jobs_share_the_cards_of_a_machine_one_to_a_card(stack: Stack, driver: Path) -> None:
    stack.start_worker("--queues", "training", slots=4, LD_LIBRARY_PATH=str(driver), FAKE_GPUS="3", FAKE_LOST="1")
    jobs = [stack.nap(f"gpu-{number}") for number in range(3)]

    def waits(job: Job) -> bool:
        result = stack.ledger.need(job.id)
        return result.progress is not None and result.progress.phase.startswith("waiting for a GPU")

    until(lambda: len(stack.ledger.leases()) == 2, stack.log())
    holders = [job for job in jobs if job.id in stack.ledger.leases()]
    (third,) = [job for job in jobs if job not in holders]
    until(lambda: waits(third), stack.log())
    cards = {stack.under_way(job).environ()["CUDA_VISIBLE_DEVICES"] for job in holders}
    assert cards == {"GPU-fake-0", "GPU-fake-2"}
    assert {stack.ledger.need(job.id).device for job in holders} == {"cuda:0", "cuda:2"}
    assert stack.ledger.need(third.id).device is None
    for job in jobs:
        stack.wake(job)
    assert stack.ended(third).device in ("cuda:0", "cuda:2")
    assert [stack.ended(job).state for job in jobs] == [State.SUCCEEDED] * 3
    assert stack.ledger.leases() == {}


def test_a_foreign_tasks_py_in_the_working_directory_changes_nothing(stack: Stack) -> None:
    (stack.folder / "tasks.py").write_text("raise SystemExit('the foreign module was imported')")
    stack.start_worker()
    assert stack.ended(stack.submit("nap", ticks=1)).state == State.SUCCEEDED
    assert "foreign module" not in stack.log()


def test_quit_ends_a_worker_whose_job_is_being_cancelled(stack: Stack) -> None:
    worker = stack.start_worker(slots=1, NAP_STOP_GRACE_S="3")
    job = stack.submit("nap", ticks=1, end="hang")
    stack.under_way(job)
    stack.ledger.request_cancel(job.id)
    requested = stack.lease_end(job)
    until(lambda: stack.lease_end(job) > requested, "the slot to see it")
    worker.send_signal(signal.SIGQUIT)
    worker.wait(PATIENCE_S)
    assert stack.ledger.need(job.id).state is State.CANCELLED


def test_a_claim_whose_answer_was_lost_costs_no_attempt(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_HOME", str(stack.folder / "home"))
    job, requested = stack.submit("blink", note="once"), []
    claim = Ledger.claim

    def claim_and_lose_the_answer(self: Ledger, *words: Any, **result: Any) -> Any:
        requested.append(claim(self, *words, **result))
        if len(requested) == 1:
            raise Unreachable("the connection broke")
        return requested[-1]

    monkeypatch.setattr(Ledger, "claim", claim_and_lose_the_answer)
    done = slot._answer(stack.app, stack.ledger, job.id, "w@h", {})
    assert done is not None
    assert (done.state, done.attempt, len(requested)) == (State.SUCCEEDED, 1, 2)


def test_a_job_that_was_cancelled_after_its_last_deed_has_succeeded(stack: Stack) -> None:
    """What it made is there, whole and under its name; to say that it was cancelled would be a lie."""
    stack.start_worker()
    job = stack.submit("nap", ticks=10_000, name="made")
    stack.under_way(job)
    made = stack.store.path("saes", "made")
    made.mkdir(parents=True)
    (made / MANIFEST).write_text(json.dumps({"job": job.id, "result": {"ticks": 7}}))
    stack.ledger.request_cancel(job.id)
    ended = stack.ended(job)
    assert (ended.state, ended.reason, ended.result) == (State.SUCCEEDED, "done", {"ticks": 7})
