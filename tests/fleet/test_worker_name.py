"""A worker's name belongs to one worker at a time, wherever its homes and hosts have the same names."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from mistudio_cli.monitor.worker_rows import worker_rows
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.worker.fleet_membership import make_store_id
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

NAME = "twin@here"
HEARTBEAT = WorkerHeartbeat(NAME, "here", 1, ("training",), 1, 0.0)


def holder(token: str, *predecessors: str) -> dict[str, Any]:
    return {"token": token, "predecessors": predecessors, "host": "here", "pid": 7, "home": "/home/a"}


# -- the key


def test_a_name_is_kept_by_its_worker_and_refused_to_others(ledger: Ledger) -> None:
    assert ledger.take_name(NAME, holder("a"), 60) is None
    assert ledger.heartbeat(HEARTBEAT, holder("a"))[1] is None
    other = ledger.take_name(NAME, holder("b"), 60)
    assert other is not None
    assert (other["token"], other["pid"], other["home"]) == ("a", 7, "/home/a")
    assert abs(other["since"] - ledger.now()) < 60
    assert ledger.heartbeat(HEARTBEAT, holder("b"))[1] == other
    assert [heartbeat.pid for heartbeat in ledger.heartbeats()] == [1]
    assert ledger.take_name("other@here", holder("b"), 60) is None


def test_a_name_is_free_for_the_next_worker_of_a_lock_and_when_it_is_given_back(ledger: Ledger) -> None:
    ledger.take_name(NAME, holder("a"), 60)
    assert ledger.take_name(NAME, holder("c", "x", "b"), 60) is not None
    assert ledger.take_name(NAME, holder("c", "x", "a"), 60) is None
    ledger.forget_worker(NAME, "a")
    assert ledger.take_name(NAME, holder("b"), 60) is not None, "the name was not a's to give back any more"
    ledger.forget_worker(NAME, "c")
    assert ledger.take_name(NAME, holder("b"), 60) is None


def test_a_heartbeat_keeps_the_name_and_a_lost_or_damaged_key_is_written_again(ledger: Ledger) -> None:
    key = f"mistudio:name:{NAME}"
    ledger.take_name(NAME, holder("a"), 0.5)
    ledger.heartbeat(HEARTBEAT, holder("a"))
    assert ledger.client.call("PTTL", key) > 500, "longer than it was taken for"
    for damage in ((), ("SET", key, "no holder"), ("SET", key, "[]"), ("LPUSH", key, "of another type")):
        ledger.client.call("DEL", key)
        if damage:
            ledger.client.call(*damage)
        assert ledger.heartbeat(HEARTBEAT, holder("a"))[1] is None
        assert json.loads(ledger.client.call("GET", key))["token"] == "a"


def test_the_end_of_a_refused_namesake_takes_nothing_from_the_worker_that_has_the_name(ledger: Ledger) -> None:
    ledger.heartbeat(HEARTBEAT, holder("a"))
    ledger.heartbeat(HEARTBEAT, field=f"{NAME} b")
    ledger.forget_worker(NAME, "b", f"{NAME} b")
    assert ledger.client.call("HKEYS", "mistudio:workers") == [NAME]
    assert ledger.take_name(NAME, holder("b"), 60) is not None


def test_a_refused_namesake_of_one_of_our_workers_is_listed_too() -> None:
    result = {"name": NAME, "state": "running", "pid": None, "queues": ("training",), "slots": 1}
    result |= {"restarts": 0, "started_at": 0.0, "last_exit": None}
    heartbeats = [
        WorkerHeartbeat(NAME, "here", pid, ("training",), 1, 0.0, seen_at=seen_at, refused=why)
        for pid, seen_at, why in ((8, 100.0, "taken"), (9, 1.0, "taken"), (10, 100.0, ""))
    ]
    rows = worker_rows([result], heartbeats, [], 100.0)
    assert [(row.pid, row.state, row.refusal) for row in rows[1:]] == [(8, "refused", "taken")]


# -- real workers


class Twins:
    """Two homes with one store, whose workers have one name."""

    def __init__(self, stack: Stack) -> None:
        self.homes = {"a": stack, "b": Stack(stack.redis, stack.folder / "b")}
        self.homes["b"].folder.mkdir()
        self.ledger, self.store = stack.ledger, stack.store
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, home: str) -> subprocess.Popen[bytes]:
        process = self.homes[home].popen("--queues", "training", name="twin", MISTUDIO_STORE=str(self.store.root))
        self.processes.append(process)
        return process

    def consumes(self, process: subprocess.Popen[bytes]) -> WorkerHeartbeat:
        return self._heartbeat(process, refused=False)

    def refused(self, process: subprocess.Popen[bytes]) -> WorkerHeartbeat:
        return self._heartbeat(process, refused=True)

    def _heartbeat(self, process: subprocess.Popen[bytes], *, refused: bool) -> WorkerHeartbeat:
        def look() -> WorkerHeartbeat | None:
            heartbeats = self.ledger.heartbeats()
            return next((b for b in heartbeats if b.pid == process.pid and bool(b.refused) is refused), None)

        found = until(look, self.homes["a"].log() + self.homes["b"].log())
        assert isinstance(found, WorkerHeartbeat)
        return found

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE_S)
        self.homes["b"].ledger.client.close()
        self.homes["b"].app.close()


@pytest.fixture
def twins(stack: Stack) -> Iterator[Twins]:
    make_store_id(stack.store.root)
    found = Twins(stack)
    yield found
    found.close()


def test_the_second_worker_of_a_name_waits_says_who_has_it_and_begins_when_the_first_is_gone(twins: Twins) -> None:
    first = twins.start("a")
    twins.consumes(first)
    second = twins.start("b")
    why = twins.refused(second).refused
    assert f"belongs to the worker with pid {first.pid} on " in why
    assert f", home {twins.homes['a'].folder / 'home'}, since " in why
    twins.consumes(first)  # its heartbeat is another one
    job = twins.homes["a"].submit("nap", ticks=1)
    assert twins.homes["a"].ended(job).worker_pid == first.pid

    first.terminate()
    twins.consumes(second)
    first.wait(PATIENCE_S)
    third = twins.start("a")
    assert f"belongs to the worker with pid {second.pid} on " in twins.refused(third).refused
    second.kill()
    twins.consumes(third)  # once the key has expired


def test_a_worker_that_was_killed_hinders_none_that_is_started_in_its_place(twins: Twins) -> None:
    killed = twins.start("a")
    heartbeat = twins.consumes(killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE_S)
    twins.ledger.client.call(
        "PERSIST", f"mistudio:name:{heartbeat.name}"
    )  # it expires in no time that the test could wait
    twins.consumes(twins.start("a"))


def test_a_worker_whose_name_became_anothers_drains(twins: Twins) -> None:
    """As after a pause longer than its key lives."""
    worker = twins.start("a")
    heartbeat = twins.consumes(worker)
    taken = json.dumps({**holder("another"), "since": twins.ledger.now()})
    twins.ledger.client.call("SET", f"mistudio:name:{heartbeat.name}", taken)
    assert worker.wait(PATIENCE_S) == 0
    assert "may not consume any more, and drains: its name twin@" in twins.homes["a"].log()
    assert json.loads(twins.ledger.client.call("GET", f"mistudio:name:{heartbeat.name}"))["token"] == "another"
