"""Any key of the ledger overwritten with anything: readers and maintenance raise Unreachable, Refused or UserError."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.monitor import snapshot
from mistudio_cli.monitor.explain import explain, look_around
from mistudio_cli.monitor.job_context import surroundings_of
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from tasks.errors import UserError
from tasks.fleet import damaged_entries
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger import dead_letters
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import MaintenanceSettings
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Refused, Unreachable
from tests.conftest import RedisServer
from tests.fixtures.stack import Clock

SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "11"))
COUNT = 1_000 if os.environ.get("MISTUDIO_TEST_DEEPER") else 150

VALUES = (
    "",
    "x",
    "null",
    "-1",
    "nan",
    "1e999",
    "[]",
    "{}",
    '"a"',
    "[1]",
    '{"a": 1}',
    "[" * 2000,
    "é\x00\x1b[31m",
    "9" * 400,
)


def fill(ledger: Ledger) -> list[Job]:
    """Jobs in each state, a worker, a lease on a device, measurements, a pause and a refusal."""
    jobs = [Job(new_job_id(), "train", f"j{n}", "training", {"n": n}, tags=("t",)) for n in range(4)]
    ledger.submit_all([*jobs, Job(new_job_id(), "train", "child", "training", {}, parents=(jobs[0].id,))])
    claim = ledger.claim(jobs[0].id, "w@h", "h", 1)
    assert claim is not None
    ledger.note(claim, "under way")
    ledger.client.call("HSET", "mistudio:devices", jobs[0].id, "5 5 GPU-1")
    ledger.client.call("RPUSH", f"mistudio:series:{jobs[0].id}", '1 {"loss": 2.0}')
    ledger.request_cancel(jobs[3].id)
    ledger.heartbeat(WorkerHeartbeat("w@h", "h", 1, QUEUE_NAMES, 1, 1.0))
    ledger.queues.pause("datasets")
    dead_letters.put_aside(ledger.client.call, "mistudio:", "datasets", "{}", "odd")
    return jobs


def overwrite(ledger: Ledger, rng: random.Random) -> str:
    """Put something odd into one of the ledger's keys; which, and what."""
    key, value = rng.choice(sorted(ledger.client.call("KEYS", "mistudio:*"))), rng.choice(VALUES)
    kind = ledger.client.call("TYPE", key)
    if rng.random() < 0.2:
        ledger.client.call("DEL", key)
        ledger.client.call(*rng.choice([("SET", key, value), ("LPUSH", key, value), ("HSET", key, "a", value)]))
    elif kind == "hash":
        ledger.client.call("HSET", key, rng.choice([*ledger.client.call("HKEYS", key), "new"]), value)
    elif kind == "list":
        ledger.client.call("LPUSH", key, value)
    elif kind == "zset":
        ledger.client.call("ZADD", key, rng.choice(["1", "-inf", "+inf"]), value)
    else:
        ledger.client.call("SET", key, value)
    return f"{key} ({kind}): {value[:40]!r}"


def readers(
    ledger: Ledger, heartbeat_monitor: HeartbeatMonitor, jobs: list[Job], folder: Path
) -> list[Callable[[], Any]]:
    ids = [job.id for job in jobs]
    return [
        lambda: snapshot.read_all(ledger, Places(folder, folder)),
        lambda: snapshot.read_queues(ledger),
        lambda: [ledger.histories(ids), ledger.series(ids), ledger.children(ids), ledger.other_tries(ids)],
        lambda: surroundings_of(ledger, [job for job in ledger.many(ids) if job]),
        lambda: [explain(job, look_around(ledger, job)) for job in ledger.many(ids) if job],
        lambda: [ledger.need(job_id) for job_id in ids],
        lambda: [ledger.leases(), ledger.holders(), ledger.live_jobs(), ledger.find("1")],
        lambda: [heartbeat_monitor.listen([]), heartbeat_monitor.busy()],
        lambda: ledger.maintain(MaintenanceSettings(every_s=0)),
        lambda: damaged_entries.find(ledger.client),
        lambda: dead_letters.read(ledger.client),
        lambda: [ledger.claim(job_id, "w@h", "h", 1) for job_id in ids],
        lambda: [ledger.request_cancel(job_id) for job_id in ids],
    ]


@pytest.mark.timeout(600)
def test_nothing_that_stands_in_redis_raises_anything_else(
    ledger: Ledger, session_redis: RedisServer, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    heartbeat_monitor = HeartbeatMonitor(Clock())
    heartbeat_monitor.connect_to(session_redis.url)
    for number in range(COUNT):
        ledger.client.call("FLUSHDB")
        jobs = fill(ledger)
        what = [overwrite(ledger, rng) for _ in range(rng.randint(1, 3))]
        for place, read in enumerate(readers(ledger, heartbeat_monitor, jobs, tmp_path)):
            try:
                with suppress(Unreachable, Refused, UserError):
                    read()
            except Exception as error:
                pytest.fail(f"case {number}, reader {place}, after {what}: {error!r}")
    heartbeat_monitor.close()
