"""The collector keeps what it has read: a source that hangs costs its own part, which says how old it is and why."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli.fleet import supervisor_client
from mistudio_cli.machine.background_reading import BackgroundReading
from mistudio_cli.monitor.collector import collector as collecting
from mistudio_cli.monitor.collector.collector import ALL_PARTS, LASTING_PARTS, Collector
from mistudio_cli.monitor.health.causes import health_of
from mistudio_cli.monitor.snapshot import Snapshot
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.redis_client.redis_connection import connect
from tests.conftest import RedisServer, until

HEARTBEAT = WorkerHeartbeat("all-queues@elsewhere", "elsewhere", 7, ("training",), 3, 1000.0)

#: Longer than a test machine takes, so that nothing but what hangs is given up.
LONG_S = 30.0


@pytest.fixture
def ledger_of_its_own(own_redis: RedisServer) -> Iterator[Ledger]:
    client = connect(own_redis.url, LONG_S)
    ledger = Ledger(client)
    ledger.heartbeat(HEARTBEAT)
    ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    yield ledger
    client.close()


@pytest.fixture
def collector(ledger_of_its_own: Ledger, tmp_path: Path) -> Iterator[Collector]:
    made = Collector(lambda: ledger_of_its_own, Places(tmp_path, tmp_path), patience_s=LONG_S)
    yield made
    made.close()


@pytest.fixture
def hasty(ledger_of_its_own: Ledger, own_redis: RedisServer, tmp_path: Path) -> Iterator[Collector]:
    """One that gives up a source which hangs."""
    client = connect(own_redis.url, 1.0)
    made = Collector(lambda: Ledger(client), Places(tmp_path, tmp_path), patience_s=1.0)
    yield made
    made.close()
    client.close()


def whole(collector: Collector) -> Snapshot:
    """A snapshot for which no source took longer than the patience."""
    seen = until(lambda: not (now := collector.collect(LONG_S)).errors and now, "every source to answer in time")
    assert isinstance(seen, Snapshot)
    return seen


@pytest.fixture
def hung(own_redis: RedisServer) -> Iterator[RedisServer]:
    """Call `stop` to have it hang; it resumes after the test at the latest."""
    yield own_redis
    assert own_redis.process is not None
    own_redis.process.send_signal(signal.SIGCONT)


def stop(server: RedisServer) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


def test_each_part_has_its_value_its_time_its_age_and_no_error(collector: Collector) -> None:
    seen = collector.collect(LONG_S)
    assert list(seen.parts) == list(ALL_PARTS)
    for name, part in seen.parts.items():
        assert (part.error, part.value is not None) == (None, True), name
        assert part.read_at is not None
        assert abs(part.read_at - time.time()) < LONG_S
        assert part.age_s is not None
        assert 0 <= part.age_s < LONG_S
    assert seen.errors == ()


def test_what_is_still_being_read_is_neither_a_value_nor_an_error(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(supervisor_client, "status", lambda places: over.wait(LONG_S) and None)
    seen = collector.collect(0.0)
    assert (seen.parts["supervisor"].value, seen.parts["supervisor"].error) == (None, None)
    assert (seen.supervisor, seen.errors) == (None, ())
    over.set()


def test_a_redis_that_hangs_leaves_the_last_good_value_with_its_age(hasty: Collector, hung: RedisServer) -> None:
    before = whole(hasty)
    assert before.queues is not None
    stop(hung)
    seen = until(lambda: len((now := hasty.collect(0.1)).errors) == 1 and now.parts["ledger"].error and now)
    assert (seen.queues, seen.jobs, seen.workers) == (before.queues, before.jobs, before.workers)
    (trouble,) = seen.errors
    assert trouble.part == "ledger"
    assert hung.process is not None
    assert f"(pid {hung.process.pid}, stopped) does not answer" in trouble.message
    assert trouble.age_s is not None
    assert trouble.age_s >= 0.9
    assert seen.host is not None
    hung.process.send_signal(signal.SIGCONT)
    until(lambda: not hasty.collect(0.1).errors, "it to be read again")


def test_a_worker_that_started_after_the_last_good_value_is_neither_silent_nor_idle(
    hasty: Collector, hung: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(hasty)
    stop(hung)
    until(lambda: hasty.collect(0.1).parts["ledger"].error)
    new = {"name": "new@here", "state": "running", "pid": 4_000_000, "queues": ["training"], "slots": 1}
    result = {**new, "restarts": 0, "started_at": 5.0, "last_exit": None}
    monkeypatch.setattr(
        supervisor_client, "status", lambda places: {"supervisor": {"pid": 1, "state": "running"}, "workers": [result]}
    )
    seen = until(lambda: (s := hasty.collect(0.1)).supervisor and s.supervisor["pid"] == 1 and s)
    row = next(row for row in seen.workers if row.name == "new@here")
    assert (row.state, row.busy) == ("running", None)


def test_a_ledger_that_is_read_elsewhere_is_joined_by_the_other_parts(
    collector: Collector, ledger_of_its_own: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker that does not start only the supervisor knows."""
    fatal = {"name": "new@here", "state": "fatal", "pid": None, "queues": ["training"], "slots": 1}
    result = {**fatal, "restarts": 9, "started_at": None, "last_exit": "exit code 3"}
    monkeypatch.setattr(
        supervisor_client, "status", lambda places: {"supervisor": {"pid": 1, "state": "running"}, "workers": [result]}
    )
    seen = collector.collect_around(lambda: overview.read(ledger_of_its_own.client, overview.Wanted()), LONG_S)
    (cause,) = [cause for cause in health_of(seen).causes if cause.worker == "new@here"]
    assert (cause.code, cause.sentence) == (
        "worker_fatal",
        "new@here exits again and again: exit code 3",
    )
    assert cause.command == "mistudio workers logs new@here"
    assert seen.queues is not None
    assert seen.host is not None


def test_a_source_that_hangs_is_not_piled_up_on(hasty: Collector, hung: RedisServer) -> None:
    whole(hasty)
    before = set(threading.enumerate())
    stop(hung)
    most = 0
    for _ in range(30):
        hasty.collect(0.05)
        most = max(most, len(set(threading.enumerate()) - before))
    assert most < 20


def test_a_lasting_collector_asks_celery_workers_now_and_then(
    ledger_of_its_own: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of the heartbeat does not exist: it is mute. Now and then is longer than any test takes."""
    monkeypatch.setattr(collecting, "_EVERY_S", dict.fromkeys(collecting._EVERY_S, 3600.0))
    collector = Collector(lambda: ledger_of_its_own, Places(tmp_path, tmp_path), LASTING_PARTS, patience_s=LONG_S)
    first = collector.collect(LONG_S)
    assert first.celery is not None
    assert [(worker.name, worker.mute) for worker in first.celery.workers] == [(HEARTBEAT.name, True)]
    assert collector.collect(LONG_S).celery is first.celery, "it is not asked each time"
    collector.close()


def test_who_waits_while_another_begins_to_read_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two requests of one server do; the second comes just before the thread starts."""
    reading = BackgroundReading("a value", lambda: 7, LONG_S)
    start = threading.Thread.start

    def wait_and_start(thread: threading.Thread) -> None:
        reading.wait(0.0)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", wait_and_start)
    reading.begin()
    reading.wait(LONG_S)
    assert reading.newest() == 7


HANGS = """
import sys, threading
from pathlib import Path
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.monitor.collector.collector import Collector
from tasks.paths import Places
supervisor_client.status = lambda places: threading.Event().wait()
Collector(None, Places(Path(sys.argv[1]), Path(sys.argv[1])), patience_s=0.1).collect_once()
"""


def test_no_source_keeps_a_process_from_ending(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path)], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
