"""What others write into the ledger's keys ends nothing: it is skipped, all else continues, and `doctor` names it."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from mistudio_cli.monitor import snapshot
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from tasks.fleet import damaged_entries
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Refused
from tests.conftest import RedisServer
from tests.fixtures.stack import Clock

HEARTBEAT = {
    "name": "evil",
    "host": "h",
    "pid": 1,
    "queues": ["training"],
    "slots": 1,
    "started_at": 1.0,
    "seen_at": 1.0,
}
HEARTBEATS = {
    "text": "rm -rf /",
    "null": "null",
    "number": "7",
    "list": "[]",
    "empty": "{}",
    "deep": "[" * 100_000,
    "NaN": json.dumps({**HEARTBEAT, "seen_at": float("nan")}),
    "text for a time": json.dumps({**HEARTBEAT, "seen_at": "now"}),
    "queues are numbers": json.dumps({**HEARTBEAT, "queues": [1]}),
    "no pid": json.dumps({**HEARTBEAT, "pid": None}),
}

RECORDS = {
    "state": "odd",
    "params": "not JSON",
    "parents": '"a text"',
    "tags": "[1]",
    "more_artifacts": "[" * 5000,
    "progress": '{"phase": "x", "done": "y", "total": null, "unit": "z"}',
    "result": "[]",
    "created_at": "yesterday",
    "priority": "high",
    "worker_pid": "none",
}


def a_job(**fields: object) -> Job:
    return Job(new_job_id(), "train", "a", "training", {}, **fields)  # type: ignore[arg-type]


def damaged(ledger: Ledger, field: str, value: str) -> str:
    job = ledger.submit(a_job())
    ledger.client.call("HSET", f"mistudio:job:{job.id}", field, value)
    return job.id


@pytest.mark.parametrize("name", HEARTBEATS)
def test_a_damaged_heartbeat_hides_no_other_and_ends_no_supervisor(
    ledger: Ledger, session_redis: RedisServer, name: str
) -> None:
    ledger.heartbeat(WorkerHeartbeat("good@h", "h", 1, QUEUE_NAMES, 1, 1.0))
    ledger.client.call("HSET", "mistudio:workers", "evil", HEARTBEATS[name])
    assert [heartbeat.name for heartbeat in ledger.workers()] == ["good@h"]
    heartbeat_monitor = HeartbeatMonitor(Clock())
    heartbeat_monitor.connect_to(session_redis.url)
    heartbeat_monitor.listen([])
    assert heartbeat_monitor.busy() == frozenset()
    heartbeat_monitor.close()
    assert snapshot.read_queues(ledger).queues[0].consumers == 1  # type: ignore[index]
    (found,) = damaged_entries.find(ledger.client)
    assert found.where == "mistudio:workers evil"


@pytest.mark.parametrize("field", RECORDS)
def test_a_damaged_record_hides_no_other_and_is_named(ledger: Ledger, field: str) -> None:
    bad, good = damaged(ledger, field, RECORDS[field]), ledger.submit(a_job())
    assert [job.id for job in ledger.page().jobs] == [good.id]
    assert ledger.get(bad) is None
    with pytest.raises(Exception, match=f"The record of job {bad} cannot be read"):
        ledger.need(bad)
    (found,) = damaged_entries.find(ledger.client)
    assert found.where == f"mistudio:job:{bad}"


@pytest.mark.parametrize("field", RECORDS)
def test_upkeep_and_cancel_pass_over_a_damaged_record(ledger: Ledger, field: str) -> None:
    lost = [ledger.submit(a_job()) for _ in range(3)]
    for job in lost:
        assert ledger.claim(job.id, "w@h", "h", 1) is not None
    ledger.client.call("HSET", f"mistudio:job:{lost[1].id}", field, RECORDS[field])
    for job in lost:
        ledger.client.call("ZADD", "mistudio:leases", ledger.now() - 1, job.id)
    ledger.client.call("SET", "mistudio:reaped_at", ledger.now())
    ledger.maintain(MaintenanceSettings())
    assert [ledger.need(lost[at].id).state for at in (0, 2)] == [State.QUEUED] * 2
    assert ledger.request_cancel(lost[2].id).state is State.CANCELLED


def test_damaged_leases_histories_and_refusals_are_passed_over(ledger: Ledger) -> None:
    job = ledger.submit(a_job())
    for key, line in (("events", "not JSON"), ("events", "[]"), ("series", "x"), ("series", "1 [2]")):
        ledger.client.call("RPUSH", f"mistudio:{key}:{job.id}", line)
    ledger.client.call("HSET", "mistudio:devices", "evil", "no lease")
    dead_letters.put_aside(ledger.client.call, "mistudio:", "datasets", "{}", "a good one")
    for line in ("not JSON", "[]", '{"at": "x"}', '{"at": 1, "more": 2}'):
        ledger.client.call("LPUSH", "mistudio:refused", line)
    assert [event["reason"] for event in ledger.events(job.id)] == ["submitted"]
    assert ledger.series([job.id]) == [[]]
    assert ledger.leases() == {}
    assert [one.why for one in dead_letters.read(ledger.client)] == ["a good one"]


def test_a_key_of_another_type_is_refused_and_named(ledger: Ledger) -> None:
    ledger.client.call("SET", "mistudio:workers", "a text")
    with pytest.raises(Refused, match="WRONGTYPE"):
        ledger.workers()
    (found,) = damaged_entries.find(ledger.client)
    assert (found.where, found.why) == ("mistudio:workers", "is a string and should be a hash")


@pytest.mark.parametrize("schema", ["x", "nan", "1e999", ""])
def test_a_schema_that_is_no_number_is_no_traceback(ledger: Ledger, schema: str) -> None:
    ledger.client.call("SET", "mistudio:schema", schema)
    with suppress(Refused):  # or it is taken for an old one, and brought up to date
        ledger.submit(a_job())
    ledger.client.call("DEL", "mistudio:schema")
    assert ledger.submit(a_job()).state is State.QUEUED
