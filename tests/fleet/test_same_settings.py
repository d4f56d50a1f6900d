"""What a worker must share with the others: whatever differs is one sentence, strands no job, and ends with its cause.

Kinds of jobs may differ: tests/fleet/test_other_versions.py. What `mistudio join` says: tests/cli/test_join.py.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mistudio_cli.doctor import health_checks
from mistudio_cli.monitor.check_result import Check
from mistudio_cli.monitor.collector.collector import Collector
from mistudio_cli.monitor.explain import explain, look_around
from mistudio_cli.monitor.health.causes import health_of
from tasks.fleet.store_nonce import FILE, Proof, prove
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Wanted
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.redis_client.redis_connection import Client, connect
from tasks.storage.store_id import make_store_id
from tasks.worker import fleet_membership
from tasks.worker.fleet_membership import wait_until_admitted, why_refused
from tasks.worker.slot_locks import WorkerLock
from tasks.worker.worker_name import WorkerName
from tests.conftest import RedisServer

HEARTBEAT = WorkerHeartbeat("w@b", "b", os.getpid(), ("training",), 1, 0.0)


@dataclass
class Fleet:
    """One worker on host a, which does not consume the queue of the job, and one that comes on host b."""

    ledger: Ledger
    shared: Path
    mount: Path  # where host b has the store, as a symlink
    patch: pytest.MonkeyPatch
    job: Job

    def mount_instead(self, folder: Path) -> None:
        self.mount.unlink()
        self.mount.symlink_to(folder)

    def newcomer(self) -> WorkerName:
        worker_lock = SimpleNamespace(token="b", predecessors=())
        return WorkerName(cast("WorkerLock", worker_lock), Places(Path("/home/b"), self.mount))

    def repair(self) -> None:
        """Take back whatever a case has done."""
        self.patch.undo()
        self.mount_instead(self.shared)
        self.ledger.forget_worker(HEARTBEAT.name, "another")


@pytest.fixture
def fleet(ledger: Ledger, tmp_path: Path) -> Fleet:
    shared, mount = tmp_path / "shared", tmp_path / "mount"
    make_store_id(shared)
    mount.symlink_to(shared)
    assert why_refused(ledger, shared) == ""
    prove(ledger, shared, may_write=True)
    for key in ("mistudio:nonces", "mistudio:nonces:begun"):
        ledger.client.call("ZINCRBY", key, -90, (shared / FILE).read_text().strip())
    ledger.heartbeat(WorkerHeartbeat("w@a", "a", 7, ("high_priority",), 1, 0.0))
    job = ledger.submit(Job(new_job_id(), "describe", "a", "training", {}))
    return Fleet(ledger, shared, mount, pytest.MonkeyPatch(), job)


def another_store(fleet: Fleet) -> None:
    make_store_id(fleet.shared.with_name("other"))
    fleet.mount_instead(fleet.shared.with_name("other"))


def no_mount(fleet: Fleet) -> None:
    fleet.shared.with_name("empty").mkdir()
    fleet.mount_instead(fleet.shared.with_name("empty"))


def a_copy(fleet: Fleet) -> None:
    copy = fleet.shared.with_name("copy")
    shutil.copytree(fleet.shared, copy)
    (copy / FILE).write_text("one of last week\n")
    fleet.mount_instead(copy)


def one_name_twice(fleet: Fleet) -> None:
    holder = {"token": "another", "predecessors": (), "host": "b", "pid": 8, "home": "/home/c"}
    fleet.ledger.heartbeat(HEARTBEAT, holder, field="other")


def setting(name: str, value: object) -> Callable[[Fleet], None]:
    """A version that has another value of that."""
    return lambda fleet: fleet.patch.setattr(fleet_membership, name, value)


def clock(offset_s: float) -> Callable[[Fleet], None]:
    right = time.time
    return lambda fleet: fleet.patch.setattr(time, "time", lambda: right() + offset_s)


SEVEN = (*fleet_membership.QUEUE_NAMES, "seventh")
UPGRADE = "install the same version of mistudio on all hosts"
CASES = {
    "another store": (another_store, "is store ", "set MISTUDIO_STORE to that one"),
    "absent mount": (no_mount, "is empty, and the other workers' is store ", "mount it there"),
    "copy of the store": (a_copy, "does not show what the other workers wrote there", "mount the shared one again"),
    "older protocol": (setting("PROTOCOL", 0), "it speaks protocol 0, the other workers 1", UPGRADE),
    "newer protocol": (setting("PROTOCOL", 2), "it speaks protocol 2, the other workers 1", UPGRADE),
    "other priority steps": (setting("PRIORITY_STEPS", (0, 5)), "its queues or priority steps", UPGRADE),
    "seventh queue": (setting("QUEUE_NAMES", SEVEN), "its queues or priority steps", UPGRADE),
    "one name twice": (one_name_twice, "its name w@b belongs to the worker with pid 8 on b, home /home/c", "--name"),
    "clock 10 min ahead": (clock(600), " s ahead of that of Redis", "timedatectl set-ntp true"),
    "clock 10 min behind": (clock(-600), " s behind that of Redis", "timedatectl set-ntp true"),
}


def refused(ledger: Ledger) -> list[Check]:
    """What `doctor` says of refused workers."""
    nothing = Collector(None, Places(Path("/nowhere"), Path("/nowhere")), ())
    causes = health_of(nothing.collect_around(lambda: overview.read(ledger.client, Wanted()))).causes
    return [health_checks.of_cause(cause) for cause in causes if cause.code == "worker_refused"]


@pytest.mark.parametrize(("differ", "what", "remedy"), CASES.values(), ids=CASES)
def test_what_differs_is_one_sentence_and_ends_with_its_cause(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, differ: Callable[[Fleet], None], what: str, remedy: str
) -> None:
    monkeypatch.setattr(fleet_membership, "_LOOK_EVERY_S", 0.01)
    whys, causes = list[str](), list[str]()

    def look() -> bool:
        """After each refusal: what others see; at the second one, somebody repairs it."""
        assert len(whys) < 10, whys
        whys.extend(
            heartbeat.refused
            for heartbeat in fleet.ledger.heartbeats()
            if heartbeat.refused and heartbeat.pid == HEARTBEAT.pid
        )
        (check,) = refused(fleet.ledger)
        assert (check.verdict, check.detail) == ("failed", f"w@b may not consume: {whys[-1]}")
        causes.append(explain(fleet.job, look_around(fleet.ledger, fleet.job))[0].sentence)
        assert fleet.ledger.need(fleet.job.id).state is State.QUEUED
        if len(causes) == 2:
            fleet.repair()
        return True

    differ(fleet)
    try:
        assert wait_until_admitted(fleet.ledger, HEARTBEAT, fleet.newcomer(), fleet.mount, look)
    finally:
        fleet.patch.undo()
    assert len(causes) == 2
    assert what in whys[0]
    assert remedy in whys[0]
    assert "\n" not in whys[0]
    assert causes[0] == f"w@b does not consume: {whys[0]}."
    assert fleet.ledger.queues.counts(fleet.ledger.now())["training"].pending == 1
    assert fleet.ledger.claim(fleet.job.id, HEARTBEAT.name, "b") is not None


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://nosuchhost.invalid:6379/0", "redis://nosuchhost.invalid:6379/0: Name or service not known"),
        ("", "Redis refused the login: WRONGPASS invalid username-password pair or user is disabled."),
    ],
    ids=["unresolvable host", "wrong password"],
)
def test_a_redis_that_cannot_be_used_is_one_sentence_and_the_worker_waits(
    own_redis: RedisServer,
    fleet: Fleet,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)  # of a network that answers, as that of a test may not
    own_redis_client = connect(own_redis.url)
    own_redis_client.call("CONFIG", "SET", "requirepass", "secret")
    own_redis_client.close()
    away = Ledger(connect(url or own_redis.url.replace("socket://", "socket://:wrong@")))
    said = wait_in_vain(away, fleet, caplog)
    away.close()
    assert sentence in said
    assert "secret" not in said


def test_a_redis_with_records_of_a_newer_mistudio_is_one_sentence_too(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.ledger.client.call("SET", "mistudio:schema", 99)
    said = wait_in_vain(fleet.ledger, fleet, caplog)
    assert "This Redis holds the jobs of a newer mistudio" in said
    assert "Upgrade mistudio here" in said


def test_a_command_that_redis_refuses_is_named_and_redis_is_not_called_away(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    client = fleet.ledger.client
    client.call("ACL", "SETUSER", "clerk", "on", ">pw", "~*", "&*", "+@all", "-time")
    clerk = Ledger(Client(replace(client.address, username="clerk", password="pw")))
    said = wait_in_vain(clerk, fleet, caplog)
    clerk.close()
    client.call("ACL", "DELUSER", "clerk")
    assert "Redis refuses a command that every worker needs (" in said
    assert "can't run this command" in said
    assert "away" not in said


def test_a_worker_asks_once_for_the_proof_of_its_store(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = list[Path]()

    def count(ledger: Ledger, store: Path) -> Proof:
        requested.append(store)
        return prove(ledger, store)

    monkeypatch.setattr(fleet_membership, "prove", count)
    assert wait_until_admitted(fleet.ledger, HEARTBEAT, fleet.newcomer(), fleet.mount, lambda: False)
    assert len(requested) == 1


def no_such_host(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def wait_in_vain(ledger: Ledger, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> str:
    """What a worker logs that waits for its second look and gives up."""
    looks = list[int]()

    def patient() -> bool:
        looks.append(1)
        return len(looks) < 2

    with caplog.at_level(logging.ERROR, "mistudio.worker"):
        assert not wait_until_admitted(ledger, HEARTBEAT, fleet.newcomer(), fleet.mount, patient)
    (message,) = [record.message for record in caplog.records if "does not consume" in record.message]
    assert "\n" not in message
    return message
