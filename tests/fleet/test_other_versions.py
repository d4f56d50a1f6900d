"""Workers of several versions on one Redis: each job runs once, on a worker that has its kind as it was submitted."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery import Celery

from mistudio_cli.monitor import kind_versions
from mistudio_cli.monitor.explain import explain, look_around
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import JobKind, kind_named, option
from tasks.jobs.kind_digest import digest_of, digests
from tasks.jobs.record import Job, State
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.messaging.app import make_app
from tasks.messaging.held_messages import HOLD_S, LONGEST_HOLD_S, MOST_IN_A_SECOND, HeldMessages
from tasks.worker.heartbeat import HEARTBEAT_EVERY_S
from tests.conftest import PATIENCE_S, RedisServer, until
from tests.fixtures.stack import EXTRA, Clock, Stack

UPGRADE = "Install the same version of mistudio on all hosts, then there: mistudio workers restart"

LOUD = 'snores: int = option(3, help="how loud")'

SUBMIT = """
import sys
from pathlib import Path
from tasks.ledger.client import Ledger
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tasks.redis_client.redis_connection import connect
url, store, kind, name = sys.argv[1:]
print(submit(Ledger(connect(url)), Store(Path(store)), kind, {"ticks": 1}, name=name)[-1].id)
"""


class TwoVersions:
    """A lab with the kinds of an older version: no `hike`, a `stroll`, and a `nap` with another parameter."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.kinds = stack, stack.folder / "older-kinds"
        shutil.copytree(EXTRA / "kinds", self.kinds, ignore=shutil.ignore_patterns("__pycache__"))
        (self.kinds / "hike.py").rename(self.kinds / "stroll.py")
        (self.kinds / "stroll.py").write_text((self.kinds / "stroll.py").read_text().replace("hike", "stroll"))
        nap = (self.kinds / "nap.py").read_text()
        (self.kinds / "nap.py").write_text(nap.replace("    marks: str", f"    {LOUD}\n    marks: str"))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *, older: bool, slots: int = 1) -> WorkerHeartbeat:
        variables = {"KINDS_OF_TESTS": str(self.kinds)} if older else {}
        process = self.stack.popen("--queues", "training", "--slots", str(slots), name=name, **variables)
        self.processes.append(process)
        heartbeat = until(lambda: next((b for b in self.stack.ledger.workers() if b.pid == process.pid), None))
        assert isinstance(heartbeat, WorkerHeartbeat)
        return heartbeat

    def submit_older(self, kind: str, name: str) -> Job:
        """Submit from a host with the older version."""
        words = [sys.executable, "-P", "-c", SUBMIT, self.stack.redis.url, str(self.stack.store.root), kind, name]
        environment = self.stack.environment(KINDS_OF_TESTS=str(self.kinds))
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return self.stack.ledger.need(done.stdout.strip())

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE_S)


@pytest.fixture
def versions(stack: Stack) -> Iterator[TwoVersions]:
    found = TwoVersions(stack)
    yield found
    found.close()


def test_in_a_rolling_upgrade_each_job_runs_once_on_a_worker_that_has_its_kind(versions: TwoVersions) -> None:
    stack = versions.stack
    older = versions.start("older", older=True)
    assert older.kinds["nap"] != digest_of(kind_named("nap"))
    assert ("hike" in older.kinds, "stroll" in older.kinds) == (False, True)
    newest = [stack.submit(kind, f"new-{kind}-{n}", ticks=1) for n in range(3) for kind in ("nap", "hike")]
    oldest = [versions.submit_older(kind, f"old-{kind}") for kind in ("nap", "stroll")]
    for job in oldest:  # behind six that this worker cannot run
        assert stack.ended(job).worker == older.name, stack.log()
    assert {stack.ledger.need(job.id).state for job in newest} == {State.QUEUED}

    newer = versions.start("newer", older=False)
    oldest += [versions.submit_older("stroll", "old-stroll-2")]
    for job in newest:
        assert stack.ended(job).worker == newer.name, stack.log()
    for job in oldest:
        assert stack.ended(job).worker == older.name, stack.log()
    for job in newest + oldest:
        assert stack.ledger.need(job.id).state is State.SUCCEEDED
        assert stack.reasons(job).count("claimed") == 1
    assert dead_letters.read(stack.ledger.client, 10) == []


def test_what_no_worker_can_run_waits_costs_little_and_is_explained(versions: TwoVersions) -> None:
    stack = versions.stack
    older = versions.start("older", older=True)
    known, unknown = stack.submit("nap", "other-parameters", ticks=1), stack.submit("hike", "no-kind", ticks=1)
    began, before = stack.ledger.now(), requests(stack.ledger)
    passed_at = {enqueued_at(stack, unknown)}
    while len(passed_at) < 5:
        until(lambda: enqueued_at(stack, unknown) not in passed_at, stack.log())
        passed_at.add(enqueued_at(stack, unknown))
    asked, elapsed_s = requests(stack.ledger) - before, stack.ledger.now() - began
    assert asked < 15 * (elapsed_s + 1), f"in {elapsed_s:.1f} s"
    assert max(passed_at) - min(passed_at) >= (len(passed_at) - 1) * HOLD_S, "each message at most once a second"

    why = explain(known, look_around(stack.ledger, known))[0]
    assert why.sentence == (
        f"No worker online can run it: it was submitted by {known.submitted_by}; "
        f"{older.name} (mistudio {older.version}) has other parameters of nap."
    )
    assert why.command == UPGRADE
    why = explain(unknown, look_around(stack.ledger, unknown))[0]
    assert why.sentence.endswith(f"; {older.name} (mistudio {older.version}) has no kind hike.")
    (check,) = kind_versions.check(stack.ledger)
    assert (check.verdict, check.hint) == ("failed", UPGRADE)
    assert check.detail.endswith("1 other queued jobs have no worker either.")
    assert dead_letters.read(stack.ledger.client, 10) == []


def test_a_message_of_another_app_for_a_kind_of_another_worker_comes_to_that_worker(
    versions: TwoVersions, foreign_app: Celery
) -> None:
    stack = versions.stack
    versions.start("older", older=True)
    result = foreign_app.send_task("mistudio.hike", kwargs={"ticks": 1}, queue="training")
    until(lambda: dead_letters.read(stack.ledger.client, 10), stack.log())
    assert "There is no task 'mistudio.hike' here" in dead_letters.read(stack.ledger.client, 10)[0].why
    newer = versions.start("newer", older=False)
    result = foreign_app.send_task("mistudio.hike", kwargs={"ticks": 1}, queue="training")
    until(lambda: stack.ledger.get(result.id), stack.log())
    assert stack.ended(stack.ledger.need(result.id)).worker == newer.name
    assert len(dead_letters.read(stack.ledger.client, 10)) == 1


def test_a_message_that_goes_back_is_the_last_of_its_list(ledger: Ledger, session_redis: RedisServer) -> None:
    app, taken = make_app(session_redis.url), list[str]()
    with app.connection_for_write() as connection:
        for name in ("first", "second"):
            app.send_task("mistudio.hike", queue="training", task_id=name)
        queue = app.amqp.queues["training"](connection.channel())
        for is_put_back in (True, False, False):
            message = queue.get()
            taken.append(message.headers["id"])
            message.requeue() if is_put_back else message.ack()
    app.close()
    assert taken == ["first", "second", "first"]


def test_a_claim_of_what_the_worker_knows_otherwise_leaves_the_job_to_others(
    ledger: Ledger, kinds_of_the_tests: None
) -> None:
    job = ledger.submit(Job(new_job_id(), "nap", "a", "training", {}, digest="0000000"))
    claim = functools.partial(ledger.claim, job.id, "w@here", "here")
    for kinds in ({}, {"nap": "11111111"}, digests()):
        assert claim(kinds=kinds) is None
    assert ledger.need(job.id).attempt == 0
    assert ledger.queues.counts(ledger.now())["training"].pending == 1
    assert claim(kinds={"nap": "0000000"}) is not None


def test_a_job_of_an_older_mistudio_that_named_no_digest_is_for_any_worker(ledger: Ledger) -> None:
    job = ledger.submit(Job(new_job_id(), "nap", "a", "training", {}))
    assert WorkerHeartbeat("w@here", "here", 1, ("training",), 1, 0.0, kinds={"nap": "11111111"}).can_run(job)
    assert ledger.claim(job.id, "w@here", "here", kinds={"nap": "11111111"}) is not None


def test_what_is_submitted_again_helps_where_the_workers_are_newer_than_the_job(
    ledger: Ledger, kinds_of_the_tests: None
) -> None:
    worker = WorkerHeartbeat("w@here", "here", 1, ("training",), 1, ledger.now(), kinds=digests(), version="0.2.0")
    ledger.heartbeat(worker)
    job = ledger.submit(
        Job(new_job_id(), "nap", "a", "training", {}, digest="0000000", submitted_by="mistudio 0.1.0 on a")
    )
    why = explain(job, look_around(ledger, job))[0]
    assert why.sentence == (
        "No worker online can run it: it was submitted by mistudio 0.1.0 on a; "
        "w@here (mistudio 0.2.0) has other parameters of nap."
    )
    assert why.command == f"mistudio jobs cancel {job.id} && mistudio jobs retry {job.id}"


def test_doctor_warns_of_workers_with_different_kinds(ledger: Ledger) -> None:
    heartbeats = [
        WorkerHeartbeat(f"w@{host}", host, 1, ("training",), 1, ledger.now(), kinds=kinds, version=version)
        for host, kinds, version in (
            ("a", {"nap": "1", "hike": "2"}, "0.1.0"),
            ("b", {"nap": "1", "hike": "2"}, "0.1.0"),
            ("c", {"nap": "1", "hike": "3", "float": "4"}, "0.2.0"),
        )
    ]
    [ledger.heartbeat(heartbeat) for heartbeat in heartbeats[:2]]
    assert [(check.verdict, check.detail) for check in kind_versions.check(ledger)] == [
        ("ok", "2, the same on all workers")
    ]
    ledger.heartbeat(heartbeats[2])
    (check,) = kind_versions.check(ledger)
    assert (check.verdict, check.hint) == ("warning", UPGRADE)
    assert check.detail == (
        "float, hike are not the same on all workers: w@a (mistudio 0.1.0), w@b (mistudio 0.1.0), w@c (mistudio 0.2.0)"
    )


def test_a_digest_changes_with_the_parameters_and_not_with_their_help() -> None:
    first, reworded = kind_of(option(1, help="a")), kind_of(option(2, help="b"))
    assert digest_of(first) == digest_of(reworded)
    others = [kind_of(option(1, help="a", minimum=1)), kind_of(option(1, help="a"), "other")]
    assert len({digest_of(kind) for kind in (first, *others)}) == 3


def test_a_worker_holds_a_bounded_number_of_messages_and_takes_no_more_of_that_queue() -> None:
    clock = Clock()
    held = HeldMessages(clock)
    headers = {"origin": "mistudio", "task": "mistudio.unknown", "digest": "0"}
    for number in range(MOST_IN_A_SECOND):
        assert not held.is_full("training")
        assert held.holds({**headers, "id": f"job-{number}"}, "training")
    assert held.is_full("training")
    assert not held.is_full("datasets")
    assert held.due() == []
    clock.now += HOLD_S
    assert not held.is_full("training")
    held.forget(held.due()[1:])
    assert held.all() == ["job-0"]


def test_a_message_that_comes_back_is_held_for_longer_but_never_taken_for_lost() -> None:
    clock, seen_s = Clock(), list[float]()
    held = HeldMessages(clock)
    for _ in range(4):
        assert held.holds({"origin": "mistudio", "task": "mistudio.unknown", "id": "job"}, "training")
        came_at = clock.now
        while not held.due():
            clock.now += 0.5
        seen_s.append(clock.now - came_at)
        held.forget(held.due())
    assert seen_s == [1.0, 2.0, 4.0, 4.0]
    assert MaintenanceSettings().message_patience_s >= LONGEST_HOLD_S + HEARTBEAT_EVERY_S


def test_three_hundred_that_no_worker_can_run_cost_ten_messages_a_second_and_hide_none_for_long() -> None:
    clock, taken = Clock(), 0
    held, known = HeldMessages(clock), {"origin": "mistudio", "task": "mistudio.cleanup", "id": "known"}
    unknown = [{"origin": "mistudio", "task": "mistudio.unknown", "id": f"job-{number}"} for number in range(300)]
    messages = {message["id"]: message for message in [*unknown, known]}
    waiting, served_after_s = list(messages), 0
    for second in range(120):
        while waiting and not held.is_full("training"):
            job_id = waiting.pop(0)
            if held.holds(messages[job_id], "training"):
                taken += 1
            else:
                served_after_s = second
        clock.now += HEARTBEAT_EVERY_S
        due = held.due()
        held.forget(due)
        waiting += due
    assert taken <= 120 * MOST_IN_A_SECOND
    assert 0 < served_after_s <= 300 / MOST_IN_A_SECOND


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"origin": "gen1@elsewhere", "task": "mistudio.unknown", "id": "job"},
        {"origin": "mistudio", "task": "mistudio.cleanup", "id": "job"},
        {"origin": "mistudio", "task": "mistudio.unknown", "id": 7},
    ],
)
def test_a_worker_holds_nothing_that_it_can_run_and_nothing_of_other_apps(headers: object) -> None:
    held = HeldMessages(Clock())
    assert not held.holds(headers, "training")
    assert held.all() == []


def kind_of(declared: object, name: str = "depth") -> JobKind:
    params = dataclasses.make_dataclass("Params", [(name, int, declared)], frozen=True)
    return JobKind("dive", "training", params, "Dive", __name__)


def enqueued_at(stack: Stack, job: Job) -> float:
    """When the job last got a message."""
    return float(stack.ledger.client.call("HGET", f"mistudio:job:{job.id}", "rung_at"))


def requests(ledger: Ledger) -> int:
    """How often workers have asked for messages and run operations of the ledger."""
    lines = str(ledger.client.call("INFO", "commandstats")).splitlines()
    calls = dict(line.removeprefix("cmdstat_").split(":calls=") for line in lines if ":calls=" in line)
    return sum(int(calls.get(name, "0").split(",")[0]) for name in ("brpop", "evalsha"))
