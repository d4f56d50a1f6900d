"""`queue ls` and the snapshot show what is there, with its age, and what could not be read."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mistudio_cli.fleet import supervisor_client
from mistudio_cli.monitor import queue_rows, worker_rows
from mistudio_cli.monitor.snapshot import read_all, read_queues, read_workers
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Unreachable, connect
from tests.cli.conftest import Cli, repeated

HEARTBEAT = WorkerHeartbeat("all-queues@elsewhere", "elsewhere", 7, ("datasets", "training"), 3, 1000.0)


def submit(ledger: Ledger, queue: str = "training", **changes: object) -> Job:
    return ledger.submit(Job(new_job_id(), "train", "a", queue, {}, **changes))


def test_json_has_exactly_the_keys_of_the_contract(cli: Cli) -> None:
    result = cli("queue", "ls", "--json").json
    assert list(result) == ["read_at", "queues", "errors"]
    assert result["read_at"].endswith("Z")
    assert [queue["name"] for queue in result["queues"]] == list(QUEUE_NAMES)
    counted = ["name", "state", "pending", "running", "oldest_age_s", "consumers", "slots", "per_minute"]
    keys = [*counted, "eta_s", "eta_unknown", "ended"]
    assert [list(queue) for queue in result["queues"]] == [keys] * len(QUEUE_NAMES)


def test_every_priority_is_counted_and_the_oldest_shows_its_age(cli: Cli) -> None:
    jobs = [submit(cli.ledger, priority=priority) for priority in (0, 5, 10)]
    cli.ledger.heartbeat(HEARTBEAT)
    cli.ledger.claim(jobs[0].id, HEARTBEAT.name, HEARTBEAT.host)
    row = {queue["name"]: queue for queue in cli("queue", "ls", "--json").json["queues"]}["training"]
    assert 0 <= row.pop("oldest_age_s") < 60
    assert row.pop("per_minute") == [0, 0, 0]
    assert row.pop("eta_s") is None, "nothing has ended, so nobody knows"
    assert row.pop("eta_unknown").startswith("ETA unknown: ")
    assert row.pop("ended") == {"succeeded": [0, 0, 0], "failed": [0, 0, 0], "cancelled": [0, 0, 0]}
    assert row == {"name": "training", "state": "ok", "pending": 2, "running": 1, "consumers": 1, "slots": 1}


def test_how_long_a_queue_lasts_follows_from_what_its_jobs_say(cli: Cli) -> None:
    """Two jobs that had just been cancelled made two minutes of what took half an hour."""
    submit(cli.ledger)
    claim = cli.ledger.claim(submit(cli.ledger).id, HEARTBEAT.name, HEARTBEAT.host, HEARTBEAT.pid)
    assert claim is not None
    cli.ledger.report(claim, Progress("training", 100, 1000, "steps", 0.5))
    for age_s in (1, 2):
        cli.ledger.client.call("ZADD", "mistudio:queue:training:ended", cli.ledger.now() - age_s, f"gone-{age_s}")
        cli.ledger.client.call("ZADD", "mistudio:queue:training:ended:cancelled", cli.ledger.now(), f"gone-{age_s}")
    with repeated(cli, lambda ledger: ledger.heartbeat(replace(HEARTBEAT, queues=("training",), slots=1))):
        row = {queue["name"]: queue for queue in cli("queue", "ls", "--json").json["queues"]}["training"]
        assert (row["per_minute"][0], row["ended"]["cancelled"][0], row["eta_s"]) == (2, 2, 1800)
        cli.ledger.queues.pause("training")
        row = {queue["name"]: queue for queue in cli("queue", "ls", "--json").json["queues"]}["training"]
        assert (row["state"], row["eta_s"]) == ("paused", None)


def test_a_queue_without_consumers_says_so_and_what_helps(cli: Cli) -> None:
    submit(cli.ledger)
    result = cli("queue", "ls")
    assert [line for line in result.out.splitlines() if line.startswith("training ") and "no worker" in line]
    assert result.err == "No worker consumes training: mistudio workers start full\n"
    ledger, stopped = cli.ledger, replace(HEARTBEAT, loop_at=cli.ledger.now() - 60)
    ledger.heartbeat(stopped)
    assert cli("queue", "ls").err == f"No worker consumes training: mistudio workers logs {stopped.name}\n"
    ledger.heartbeat(replace(stopped, refused="it may not"))
    assert cli("queue", "ls").err == "No worker consumes training: mistudio workers status\n"


def test_beside_other_workers_here_a_worker_for_each_deserted_queue_is_suggested(cli: Cli) -> None:
    for queue in ("training", "extraction"):
        submit(cli.ledger, queue)
    here = socket.gethostname()
    beside = replace(HEARTBEAT, name=f"worker-datasets@{here}", host=here, queues=("datasets",))
    wanted = "mistudio workers scale training=1 extraction=1"
    with repeated(cli, lambda ledger: ledger.heartbeat(beside)):
        assert cli("queue", "ls").err == f"No worker consumes training, extraction: {wanted}\n"
        assert "(mistudio workers scale extraction=1)" in cli("jobs", "explain", "last").out
        assert "workers: mistudio workers scale high_priority=1 processing=1" in cli("doctor").err


def test_a_worker_that_fell_silent_is_no_consumer_and_is_shown_with_its_age(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.heartbeat(HEARTBEAT)
    assert read_queues(ledger).queues[1].consumers == 1
    for module in (queue_rows, worker_rows):
        monkeypatch.setattr(module, "HEARTBEAT_TTL_S", -1.0)
    seen = read_all(ledger, Places(tmp_path, tmp_path))
    assert seen.queues[1].consumers == 0
    (worker,) = seen.workers
    assert (worker.name, worker.state, worker.restarts, worker.pss_bytes) == (HEARTBEAT.name, "silent", None, None)
    assert worker.seen_age_s >= 0


def test_a_worker_whose_message_loop_does_not_run_is_no_consumer_and_unresponsive(cli: Cli) -> None:
    now = cli.ledger.now()
    cli.ledger.heartbeat(dataclasses.replace(HEARTBEAT, seen_at=now, loop_at=now - 30))
    seen = read_all(cli.ledger, Places(cli.home, cli.home))
    assert [row.consumers for row in seen.queues] == [0] * 6
    (worker,) = seen.workers
    assert (worker.name, worker.state) == (HEARTBEAT.name, "unresponsive")
    assert worker.seen_age_s is not None
    assert worker.seen_age_s < 30, "it is no age of the message loop"
    (age_s,) = re.findall(r"has received no message for (\d+) s", " ".join(cli("workers", "status").out.split()))
    assert int(age_s) >= 30
    now = cli.ledger.now()
    cli.ledger.heartbeat(dataclasses.replace(HEARTBEAT, seen_at=now, loop_at=now - 1))
    assert [row.state for row in read_all(cli.ledger, Places(cli.home, cli.home)).workers] == ["running"]


def test_what_cannot_be_read_is_an_error_and_never_an_empty_table(tmp_path: Path) -> None:
    seen = read_all(Ledger(connect("redis://127.0.0.1:1/0")), Places(tmp_path, tmp_path))
    assert (seen.read_at, seen.queues, seen.jobs, seen.workers) == (None, None, None, None)
    assert [trouble.part for trouble in seen.errors] == ["ledger"]
    assert "127.0.0.1:1" in seen.errors[0].message
    assert seen.host is not None
    assert seen.host.cpus >= 1
    with pytest.raises(Unreachable):
        read_queues(Ledger(connect("redis://127.0.0.1:1/0")))


def test_a_heartbeat_that_cannot_be_read_hides_nothing_else(ledger: Ledger, tmp_path: Path) -> None:
    ledger.client.call("HSET", "mistudio:workers", "odd@h", '{"name": "odd@h"}')
    seen = read_all(ledger, Places(tmp_path, tmp_path))
    assert (seen.errors, seen.workers) == ((), ())
    ledger.client.call("DEL", "mistudio:workers")
    ledger.client.call("SET", "mistudio:workers", "a key of another type")
    assert [trouble.part for trouble in read_all(ledger, Places(tmp_path, tmp_path)).errors] == ["ledger"]


SUPERVISED = {
    "name": "worker-training@here",
    "state": "running",
    "pid": 4_000_000,
    "queues": ["training"],
    "slots": 1,
    "restarts": 2,
    "started_at": 5.0,
    "last_exit": "exit code 1",
}


@pytest.fixture
def a_supervisor(short_tmp: Path) -> Iterator[Places]:
    """A home where somebody answers as the supervisor does."""
    places = Places(short_tmp, short_tmp)
    places.run.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(places.supervisor_socket))
    listener.listen()
    result = {"supervisor": {"pid": 1, "state": "running"}, "workers": [SUPERVISED]}

    def answer() -> None:
        while True:
            link, _ = listener.accept()
            with link, link.makefile("rwb") as stream:
                if not stream.readline():
                    return
                stream.write(json.dumps(result).encode() + b"\n")

    thread = threading.Thread(target=answer)
    thread.start()
    yield places
    with socket.socket(socket.AF_UNIX) as last:
        last.connect(str(places.supervisor_socket))
    thread.join()
    listener.close()


@pytest.mark.parametrize("read", [read_all, read_workers])
def test_without_the_ledger_workers_are_known_by_their_supervisor(a_supervisor: Places, read: Callable) -> None:
    seen = read(Ledger(connect("redis://127.0.0.1:1/0")), a_supervisor)
    assert [trouble.part for trouble in seen.errors] == ["ledger"]
    assert [(row.name, row.state, row.busy, row.seen_age_s) for row in seen.workers] == [
        ("worker-training@here", "running", None, None)
    ]


@pytest.mark.parametrize("read", [read_all, read_workers])
def test_without_the_supervisor_workers_are_known_by_their_heartbeats(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    places = Places(tmp_path, tmp_path)

    def time_out(requested: Places) -> None:
        raise TimeoutError(f"the supervisor of {requested.home} says nothing")

    monkeypatch.setattr(supervisor_client, "status", time_out)
    assert read(ledger, places).workers is None, "there may be some"
    ledger.heartbeat(HEARTBEAT)
    seen = read(ledger, places)
    assert [trouble.part for trouble in seen.errors] == ["supervisor"]
    assert [(row.name, row.state, row.restarts) for row in seen.workers] == [(HEARTBEAT.name, "running", None)]


def test_the_rows_of_supervised_workers_join_what_their_heartbeats_say(ledger: Ledger) -> None:
    job = submit(ledger)
    ledger.claim(job.id, SUPERVISED["name"], "here", SUPERVISED["pid"])
    heartbeat = dataclasses.replace(HEARTBEAT, name=SUPERVISED["name"], pid=SUPERVISED["pid"], seen_at=99.0)
    other = dataclasses.replace(HEARTBEAT, seen_at=99.0)
    old = {**SUPERVISED, "pid": SUPERVISED["pid"] + 1, "state": "draining"}
    rows = worker_rows.worker_rows([SUPERVISED, old], [heartbeat, other], ledger.holders(), 100.0)
    assert [(row.name, row.state, row.busy, row.restarts, row.seen_age_s) for row in rows] == [
        ("worker-training@here", "running", 1, 2, 1.0),
        ("worker-training@here", "draining", 0, 2, None),
        ("all-queues@elsewhere", "running", 0, None, 1.0),
    ]
