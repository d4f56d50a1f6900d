"""A worker's name with a host means that worker, whichever home and host it is of, and never the local one instead."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistudio_cli.errors import Code, Failed, TimedOut
from mistudio_cli.fleet import supervisor_client, worker_names
from mistudio_cli.supervisor.workers import full_name
from tasks.fleet import worker_requests
from tasks.fleet.worker_requests import (
    ACCEPTED,
    ACCEPTED_TTL_S,
    DONE,
    REQUEST_TTL_S,
    WorkerRequest,
    read_answer,
    send,
    take,
)
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.redis_client.redis_connection import connect
from tests.conftest import PATIENCE_S, RedisServer, deadline, until
from tests.fixtures.stack import Clock
from tests.supervisor.conftest import Home, ending
from tests.supervisor.manual_supervisor import BROKEN, PAIR, SITTING, World
from tests.supervisor.test_workers import Cli

TRAINING = full_name(PAIR[0].name)


def test_a_request_is_given_to_one_who_has_the_worker_and_once(ledger: Ledger) -> None:
    request = send(ledger, "stop", "w@h", grace_s=0)
    assert list(take(ledger, {"other@h"})) == []
    assert list(take(ledger, {"w@h", "x@h"})) == [request]
    assert list(take(ledger, {"w@h"})) == []
    assert read_answer(ledger, request) is None
    assert not worker_requests.withdraw(ledger, request)


def test_an_old_request_is_not_carried_out_and_removed(ledger: Ledger) -> None:
    request = send(ledger, "stop", "w@h")
    old = dataclasses.replace(request, sent_at=request.sent_at - 2 * REQUEST_TTL_S - 1)
    ledger.client.call("HSET", "mistudio:worker-requests", old.id, json.dumps(dataclasses.asdict(old)))
    ledger.client.call("HSET", "mistudio:worker-requests", "broken", "no request")
    assert list(take(ledger, {"w@h"})) == []
    assert ledger.client.call("HKEYS", "mistudio:worker-requests") == ["broken"]


def test_a_supervisor_stops_its_worker_and_says_when_it_has_ended(world: World) -> None:
    world.up(*PAIR)
    request = send(world.ledger, "stop", TRAINING, grace_s=0.0)
    world.now += 2
    world.supervisor.tick()
    assert read_answer(world.ledger, request) == ACCEPTED
    world.ticks_until(PAIR[0].name, "stopped")
    world.now += 2
    world.supervisor.tick()
    assert read_answer(world.ledger, request) == DONE
    assert world.states() == {PAIR[0].name: "stopped", PAIR[1].name: "running"}


@pytest.mark.parametrize(
    ("operation", "arguments", "why"),
    [
        ("explode", {}, "there is no operation 'explode'"),
        ("stop", {"grace_s": "long"}, "the request cannot be answered"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    world: World, operation: str, arguments: dict[str, object], why: str
) -> None:
    world.up(*PAIR)
    request = send(world.ledger, operation, TRAINING, **arguments)
    world.now += 2
    world.supervisor.tick()
    assert str(read_answer(world.ledger, request)).startswith(why)
    assert set(world.states().values()) == {"running"}


def look(world: World) -> None:
    """Have the supervisor look for requests, and answer."""
    world.now += 10
    world.supervisor.tick()


def active_pair(world: World) -> dict[str, int]:
    """Two active workers, and their pids."""
    world.script = SITTING
    world.start()
    world.active(*(spec.name for spec in PAIR))
    return {spec.name: world.pid(spec.name) for spec in PAIR}


def test_two_restarts_requested_together_both_replace_their_worker(world: World) -> None:
    old = active_pair(world)
    requests = [send(world.ledger, "restart", full_name(spec.name)) for spec in PAIR]
    look(world)
    assert world.supervisor.status()["restart"]["pending"] == [spec.name for spec in PAIR]
    for spec, request in zip(PAIR, requests, strict=True):
        assert read_answer(world.ledger, request) == ACCEPTED
        until(lambda name=spec.name: world.supervisor.tick() or world.pid(name) != old[name])
        look(world)
        assert read_answer(world.ledger, request) == ACCEPTED, "the new one has not answered yet"
        world.active(spec.name)
        look(world)
        assert read_answer(world.ledger, request) == DONE


def test_a_failed_restart_is_answered_with_its_reason_for_each_worker_that_was_not_replaced(world: World) -> None:
    old = active_pair(world)
    world.script = BROKEN
    requests = [send(world.ledger, "restart", full_name(spec.name)) for spec in PAIR]
    look(world)
    until(lambda: world.supervisor.tick() or not world.supervisor.status()["restart"]["pending"])
    look(world)
    why = f"{PAIR[0].name} does not start (exit code 3; the old one continues)"
    assert [read_answer(world.ledger, request) for request in requests] == [why, why]
    assert {spec.name: world.pid(spec.name) for spec in PAIR} == old


def test_a_restart_of_a_worker_that_is_refused_fails_with_the_reason(world: World) -> None:
    name = PAIR[0].name
    old = active_pair(world)
    request = send(world.ledger, "restart", TRAINING)
    look(world)
    until(lambda: world.supervisor.tick() or world.pid(name) != old[name])
    heartbeat = WorkerHeartbeat(full_name(name), "h", world.pid(name), (), 1, 0.0, refused="its store is empty")
    world.ledger.heartbeat(heartbeat)
    until(lambda: look(world) or read_answer(world.ledger, request) != ACCEPTED)
    answer = str(read_answer(world.ledger, request))
    assert answer == f"{name} does not start (it does not consume: its store is empty; it waits until it may)"


def test_a_request_from_elsewhere_cancels_no_local_restart_and_restarts_nothing_twice(world: World) -> None:
    active_pair(world)
    world.ask("restart")
    send(world.ledger, "restart", TRAINING)
    look(world)
    assert world.supervisor.status()["restart"]["pending"] == [spec.name for spec in PAIR]
    until(lambda: world.supervisor.tick() or len(world.supervisor.worker_set.named(PAIR[0].name)) > 1)
    assert len(world.environments) == 3, "one successor"


def test_an_answer_that_redis_did_not_take_is_sent_again(world: World) -> None:
    world.up(*PAIR)
    requests = [send(world.ledger, "stop", full_name(spec.name), grace_s=0.0) for spec in PAIR]
    world.ledger.client.call("CONFIG", "SET", "maxmemory", 1)  # requests can be taken, and no answer be written
    try:
        look(world)
    finally:
        world.ledger.client.call("CONFIG", "SET", "maxmemory", 0)
    assert not [request for request in requests if read_answer(world.ledger, request)]
    for spec in PAIR:
        world.ticks_until(spec.name, "stopped")
    look(world)
    assert [read_answer(world.ledger, request) for request in requests] == [DONE, DONE]


def test_a_worker_that_is_started_again_at_once_had_been_stopped(world: World) -> None:
    world.up(*PAIR)
    request = send(world.ledger, "stop", TRAINING, grace_s=0.0)
    look(world)
    world.ticks_until(PAIR[0].name, "stopped")
    world.start()
    look(world)
    assert world.states()[PAIR[0].name] == "starting"
    assert read_answer(world.ledger, request) == DONE


def test_a_supervisor_that_ends_answers_what_is_under_way(world: World) -> None:
    active_pair(world)
    restart = send(world.ledger, "restart", full_name(PAIR[1].name))
    stop = send(world.ledger, "stop", TRAINING, grace_s=None)
    look(world)
    world.ask("shutdown", grace_s=0.0)
    late = send(world.ledger, "restart", TRAINING)
    look(world)
    assert read_answer(world.ledger, late) == "the supervisor is ending"
    until(lambda: world.supervisor.tick() or world.supervisor.ended)
    world.supervisor.last_will()
    assert read_answer(world.ledger, stop) == DONE
    assert read_answer(world.ledger, restart) == f"{PAIR[1].name} does not start (it was stopped)"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which `worker_names.ask` loses its patience."""
    clock = Clock()
    monkeypatch.setattr(worker_names, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    return clock


class Asking:
    """`worker_names.ask` in a thread, and what became of it."""

    def __init__(self, ledger: Ledger, url: str, operation: str, names: list[str], **options: Any) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self._ledger, self._url, self._words, self._options = ledger, url, (operation, names), options
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def take(self) -> WorkerRequest:
        """What a supervisor would take."""
        found: list[WorkerRequest] = []
        until(lambda: found.extend(take(self._ledger, self._words[1])) or found)
        return found[0]

    def wait_in_vain(self, clock: Clock, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Let it lose its patience."""

        def has_lost_it() -> bool:
            meanwhile()
            clock.now += REQUEST_TTL_S + 1  # once more where it has looked at the clock just now
            return not self._thread.is_alive()

        until(has_lost_it)

    def end(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with closing(connect(self._url)) as client:
            try:
                worker_names.ask(Ledger(client), *self._words, self.said.append, "is done", **self._options)
            except Exception as error:
                self.error = error


@pytest.mark.parametrize("operation", ["stop", "restart"])
def test_a_request_that_was_taken_and_never_answered_ends_as_unknown(
    ledger: Ledger, session_redis: RedisServer, clock: Clock, operation: str
) -> None:
    asking = Asking(ledger, session_redis.url, operation, ["w@h"])
    asking.take()
    asking.wait_in_vain(clock, lambda: ledger.heartbeat(WorkerHeartbeat("w@h", "h", 1, (), 1, 0.0)))
    assert isinstance(asking.error, TimeoutError)
    assert str(asking.error) == "the supervisor of w@h has taken the request, and its outcome is unknown"


def test_a_worker_has_ended_when_neither_it_nor_its_supervisor_gives_a_sign_of_life(
    ledger: Ledger, session_redis: RedisServer, clock: Clock
) -> None:
    asking = Asking(ledger, session_redis.url, "stop", ["w@h"])
    request = asking.take()
    worker_requests.answer(ledger, request, ACCEPTED)
    expires_in_s = ledger.client.call("TTL", worker_requests._answer_key(ledger, request))
    assert expires_in_s == -2 or 0 <= expires_in_s <= ACCEPTED_TTL_S, "it has expired, or will"
    ledger.client.call("DEL", worker_requests._answer_key(ledger, request))  # as it is by then
    asking.wait_in_vain(clock)
    assert (asking.error, asking.said) == (None, ["w@h is done"])


def test_a_restart_from_elsewhere_is_waited_for_as_long_as_the_timeout_says(
    ledger: Ledger, session_redis: RedisServer, clock: Clock
) -> None:
    asking = Asking(ledger, session_redis.url, "restart", ["w@h"], patience_s=1.0)
    worker_requests.answer(ledger, asking.take(), ACCEPTED)
    clock.now += 2
    asking.end()
    assert isinstance(asking.error, TimedOut)
    assert asking.error.sentence == "The supervisor of w@h did not restart it in time."


def test_what_fails_for_one_worker_is_withdrawn_for_the_others(ledger: Ledger, session_redis: RedisServer) -> None:
    asking = Asking(ledger, session_redis.url, "restart", ["w@h", "x@h"])
    asking._words = ("restart", ["w@h"])
    worker_requests.answer(ledger, asking.take(), "the supervisor is ending")
    asking.end()
    assert isinstance(asking.error, Failed)
    assert asking.error.sentence == "The supervisor of w@h did not restart it: the supervisor is ending."
    assert ledger.client.call("HLEN", "mistudio:worker-requests") == 0


@pytest.fixture
def two(home: Home, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Cli]]:
    """Two homes on one Redis, with one worker each."""
    shared = {"CELERY_BROKER_URL": own_redis.url, "MISTUDIO_STORE": str(home.places.store)}
    others = ending(Path(f"{home.places.home}-2"))
    clis = Cli(home), Cli(next(others))
    for cli, name in zip(clis, ("one", "two"), strict=True):
        cli.environment |= shared
        assert cli(f"workers start --queues training --name {name}").returncode == 0
    yield clis
    for cli in clis:
        cli("workers stop --all --now")
    next(others, None)


def states(cli: Cli) -> dict[str, str]:
    return {row["name"].partition("@")[0]: row["state"] for row in cli.read_json("workers status --json")["workers"]}


def test_a_worker_of_another_home_is_restarted_and_stopped_by_its_name(two: tuple[Cli, Cli], own_redis: RedisServer):
    mine, theirs = two
    host = socket.gethostname()
    pid = theirs.home.worker("two")["pid"]
    done = mine(f"workers restart two@{host}")
    assert (done.returncode, done.stderr) == (0, f"two@{host} has been replaced\n")
    assert theirs.home.worker("two")["pid"] != pid
    assert theirs("workers start --queues training --name three").returncode == 0
    pids = [theirs.home.worker(name)["pid"] for name in ("two", "three")]
    done = mine(f"workers restart two@{host} three@{host}")
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 2), done.stderr
    assert not {theirs.home.worker(name)["pid"] for name in ("two", "three")} & set(pids)
    assert theirs("workers stop three --now").returncode == 0
    done = mine(f"workers stop two@{host} --now")
    assert (done.returncode, done.stderr) == (0, f"two@{host} has ended\n")
    status = supervisor_client.status(theirs.home.places)
    assert status is not None
    assert {(row["state"], row["pid"]) for row in status["workers"]} == {("stopped", None)}
    assert states(mine)["one"] == "running"


def test_a_drain_from_elsewhere_ends_when_all_is_stopped_there(two: tuple[Cli, Cli]) -> None:
    mine, theirs = two
    name = f"two@{socket.gethostname()}"
    assert mine("workers drain one").returncode == 0, "the job is the other one's"
    job = mine.nap(100_000)
    until(lambda: mine.read_json(f"jobs show {job} --json")["state"] == "running", "the job to run")
    drain = mine.begin("workers", "drain", name)
    until(lambda: theirs.home.worker("two")["state"] == "draining", "the drain to begin")
    assert theirs("workers stop --all --now").returncode == 0
    _, said = drain.communicate(timeout=PATIENCE_S)
    assert (drain.returncode, said) == (0, f"{name} has ended\n")


@pytest.mark.parametrize(
    "words", ["stop one@nowhere", "drain all@nowhere one", "restart one@nowhere", "logs one@nowhere"]
)
def test_a_host_or_a_worker_that_is_not_there_is_said_and_the_local_one_lives(two: tuple[Cli, Cli], words: str) -> None:
    mine, _ = two
    done = mine(f"workers {words}")
    assert done.returncode == Code.NOT_FOUND
    first, second = done.stderr.splitlines()
    assert first == f"There is no worker {words.split()[1]}."
    assert second.startswith("  Workers: one@")
    done = mine("workers stop nosuch")
    assert (done.returncode, done.stderr.splitlines()[0]) == (Code.NOT_FOUND, "There is no worker nosuch.")
    assert states(mine)["one"] == "running"


def test_the_log_of_a_worker_elsewhere_is_its_own_and_never_the_local_one(
    two: tuple[Cli, Cli], own_redis: RedisServer
) -> None:
    mine, _ = two
    host = socket.gethostname()
    until(lambda: f"two@{host} ready" in mine(f"workers logs two@{host}").stdout, "the log of two")
    done = mine(f"workers logs two@{host} -n 1")
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    assert f"one@{host}" not in mine(f"workers logs two@{host}").stdout
    with closing(connect(own_redis.url)) as client:
        client.call("DEL", f"mistudio:worker-log:two@{host}")
    done = mine(f"workers logs two@{host}")
    assert (done.returncode, done.stdout) == (Code.NOT_FOUND, "")
    assert done.stderr == f"The log of two@{host} is on {host}.\n  Type there: mistudio workers logs two\n"
    assert mine(f"workers logs one@{host}").returncode == 0


def test_the_log_of_a_worker_elsewhere_is_followed(two: tuple[Cli, Cli]) -> None:
    mine, theirs = two
    assert mine("workers stop one").returncode == 0
    until(lambda: mine(f"workers logs two@{socket.gethostname()}").returncode == 0, "the log of two")
    following = mine.begin("workers", "logs", f"two@{socket.gethostname()}", "-f", "-n", "1")
    assert following.stdout is not None
    assert following.stdout.readline(), "it has begun to follow"
    job = theirs.read_json("submit nap --ticks 1 --name followed --json")["id"]
    with deadline(PATIENCE_S, "workers logs -f"):
        assert any("nap followed succeeded" in line for line in following.stdout), job
    following.terminate()
    following.communicate()


def test_a_supervisor_that_takes_no_requests_changes_nothing(two: tuple[Cli, Cli], own_redis: RedisServer) -> None:
    mine, theirs = two
    supervisor = theirs.home.supervisor
    supervisor.suspend()
    try:
        done = mine(f"workers stop two@{socket.gethostname()}")
        assert done.returncode == Code.TIMED_OUT
        assert "has not taken the request, and nothing was changed" in done.stderr
        with closing(connect(own_redis.url)) as client:
            assert client.call("HLEN", "mistudio:worker-requests") == 0
    finally:
        supervisor.resume()
    assert states(mine)["two"] == "running"
