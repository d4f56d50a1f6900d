"""What the supervisor decides, with real processes that stand in for workers."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from mistudio_cli.profile.rules import WorkerSpec
from mistudio_cli.supervisor.states import SILENCE_S, quit_grace_s
from mistudio_cli.supervisor.workers import full_name
from tasks.errors import UserError
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.redis_client import redis_connection
from tasks.system.process_identity import is_alive
from tests.conftest import until
from tests.supervisor.manual_supervisor import BROKEN, PAIR, STUBBORN, World


def test_a_worker_runs_when_it_has_answered_itself(world: World) -> None:
    assert [worker["state"] for worker in world.start()["workers"]] == ["starting", "starting"]
    heartbeat = WorkerHeartbeat(full_name("worker-training"), "h", 1, (), 1, 0.0)  # of an earlier life
    world.ledger.heartbeat(heartbeat)
    world.answer("worker-datasets")
    world.supervisor.tick()
    assert world.states() == {"worker-training": "starting", "worker-datasets": "running"}


def test_a_dead_worker_is_replaced_and_the_death_is_reported(world: World) -> None:
    world.up()
    first = world.supervisor.worker_set.children["worker-training"].pid
    os.kill(first, signal.SIGKILL)
    world.ticks_until("worker-training", "backoff")
    world.now += 0.5
    world.ticks_until("worker-training", "starting")
    world.answer("worker-training")
    world.ticks_until("worker-training", "running")
    result = world.supervisor.status()["workers"][0]
    assert result["pid"] != first
    assert (result["restarts"], result["last_exit"]) == (1, "killed by SIGKILL")
    assert world.states()["worker-datasets"] == "running"


def test_one_that_dies_again_and_again_is_given_up_and_the_rest_continue(world: World) -> None:
    world.up(PAIR[1])
    world.supervisor.answer({"op": "stop", "grace_s": 10})
    world.ticks_until("worker-datasets", "stopped")
    world.script = BROKEN
    world.start(PAIR[1])
    until(
        lambda: (
            setattr(world, "now", world.now + 30)
            or world.supervisor.tick()
            or world.states() == {"worker-datasets": "fatal"}
        )
    )
    assert world.supervisor.status()["workers"][0]["last_exit"] == "exit code 3"
    assert world.log("worker-datasets").count("no such thing as torch") == 4


def test_the_ladder_ends_even_one_that_ignores_it_with_all_below_it(world: World) -> None:
    world.script = STUBBORN
    world.start(PAIR[0])
    until(lambda: "slot" in world.log("worker-training"))
    slot = psutil.Process(int(world.log("worker-training").split()[1]))
    world.supervisor.answer({"op": "stop", "grace_s": 10})
    until(lambda: "ignores SIGTERM" in world.log("worker-training"))
    assert "SIGQUIT" not in world.log("worker-training")
    world.now += 10
    world.supervisor.tick()
    until(lambda: "ignores SIGQUIT" in world.log("worker-training"))
    assert slot.is_running()
    world.now += quit_grace_s()
    world.ticks_until("worker-training", "stopped")
    until(lambda: not is_alive(slot))
    assert world.supervisor.status()["workers"][0]["last_exit"] == "killed by SIGKILL"


def test_term_goes_to_the_main_process_alone(world: World) -> None:
    world.script = STUBBORN.replace(", process_group=0", "")
    world.start(PAIR[0])
    until(lambda: "slot" in world.log("worker-training"))
    slot = psutil.Process(int(world.log("worker-training").split()[1]))
    world.supervisor.answer({"op": "stop", "grace_s": 10})
    until(lambda: "ignores SIGTERM" in world.log("worker-training"))
    assert slot.status() != psutil.STATUS_ZOMBIE


def test_starting_what_runs_changes_nothing(world: World) -> None:
    world.up()
    pids = [worker["pid"] for worker in world.supervisor.status()["workers"]]
    assert [worker["pid"] for worker in world.start()["workers"]] == pids


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"specs": [{"name": "all-queues", "queues": ["training"], "slots": 8}]}, "others run"),
        ({"specs": [{"name": PAIR[0].name, "queues": ["training"], "slots": 1}]}, "others run"),
        ({"broker_url": "redis://elsewhere:6379/0"}, "another broker"),
    ],
)
def test_others_are_refused_while_workers_run(world: World, request_: dict[str, Any], error: str) -> None:
    world.up()
    reply = world.start(**request_)
    assert (reply["error"], reply["workers"]) == (error, ["worker-datasets", "worker-training"])
    assert set(world.states().values()) == {"running"}


def test_when_all_have_ended_any_others_may_start(world: World) -> None:
    world.up()
    world.supervisor.answer({"op": "stop", "grace_s": 10})
    for spec in PAIR:
        world.ticks_until(spec.name, "stopped")
    world.up(WorkerSpec("all-queues", ("training",), 8))
    assert world.states() == {"all-queues": "running"}


def test_one_worker_can_be_stopped_and_started_again_beside_the_others(world: World) -> None:
    world.up()
    beside = world.supervisor.worker_set.children["worker-datasets"].pid
    world.supervisor.answer({"op": "stop", "names": ["worker-training"], "grace_s": 10})
    world.ticks_until("worker-training", "stopped")
    world.start(environment={"TOKEN": "new"})
    world.answer("worker-training")
    world.ticks_until("worker-training", "running")
    assert world.supervisor.worker_set.children["worker-datasets"].pid == beside
    assert world.environments[-1] == {"TOKEN": "new", "MISTUDIO_SUPERVISOR": str(os.getpid())}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"op": "dance"}, "there is no operation 'dance'"),
        ({}, "there is no operation None"),
        ({"op": "stop", "names": ["nobody"]}, "unknown worker"),
    ],
)
def test_what_it_cannot_do_it_says(world: World, request_: dict[str, Any], error: str) -> None:
    assert world.supervisor.answer(request_)["error"] == error


@pytest.mark.parametrize("count", [1000, 10**9, -1, 1.5, True, "2", None])
def test_no_request_makes_more_workers_of_a_queue_than_there_can_be(world: World, count: object) -> None:
    counts = {"datasets": 1, "training": count}
    with pytest.raises(UserError, match="workers are not between 0 and 999"):
        world.ask("scale", counts=counts)
    assert world.rows() == []


def test_asked_to_stop_it_stops_its_workers_first(world: World) -> None:
    world.up()
    assert not world.supervisor.ended
    world.supervisor.end()
    until(lambda: world.supervisor.tick() or world.supervisor.ended)
    assert set(world.states().values()) == {"stopped"}
    assert world.start()["error"] == "the supervisor is ending"


def test_it_sleeps_long_when_nothing_is_due(world: World) -> None:
    assert world.supervisor.patience_s == 0.5
    world.start()
    assert world.supervisor.patience_s == 0.05
    for spec in PAIR:
        world.answer(spec.name)
    world.supervisor.tick()
    assert world.supervisor.patience_s == 0.5
    world.supervisor.answer({"op": "stop", "grace_s": 0.1})
    assert world.supervisor.patience_s == pytest.approx(0.1)


def test_a_redis_that_is_away_kills_nobody(world: World) -> None:
    world.start(broker_url="redis+socket:///nowhere/r.sock?virtual_host=0")
    for _ in range(5):
        world.now += 1
        world.supervisor.tick()
    assert set(world.states().values()) == {"starting"}


def test_a_worker_that_says_nothing_any_more_is_ended_and_replaced(world: World) -> None:
    world.up(PAIR[0])
    first = world.pid(PAIR[0].name)
    os.kill(first, signal.SIGSTOP)
    world.now += SILENCE_S - 1
    world.supervisor.tick()
    assert world.states() == {PAIR[0].name: "running"}
    world.now += 7
    world.supervisor.tick()
    assert world.states() == {PAIR[0].name: "hung"}
    world.ticks_until(PAIR[0].name, "backoff")
    last_exit = world.supervisor.status()["workers"][0]["last_exit"]
    assert last_exit == f"sent no heartbeat for {SILENCE_S:g} s; killed by SIGQUIT"
    world.now += 30
    world.ticks_until(PAIR[0].name, "starting")
    assert world.pid(PAIR[0].name) != first


def test_heartbeats_of_a_worker_whose_message_loop_does_not_run_do_not_save_it(world: World) -> None:
    world.up(PAIR[0])
    pid = world.pid(PAIR[0].name)
    heartbeat = WorkerHeartbeat(full_name(PAIR[0].name), "h", pid, (), 1, 0.0, loop_at=world.ledger.now())
    for _ in range(int(SILENCE_S / 6) + 2):
        world.ledger.heartbeat(heartbeat)
        world.now += 6
        world.supervisor.tick()
    assert world.states() == {PAIR[0].name: "hung"}


def test_silence_while_redis_was_away_is_nobodys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.up(PAIR[0])
    ledger = world.supervisor.heartbeat_monitor._ledger
    assert ledger is not None
    with monkeypatch.context() as away:
        away.setattr(ledger, "heartbeats", _redis_is_away)
        for _ in range(100):
            world.now += 5
            world.supervisor.tick()
    world.now += 5
    world.supervisor.tick()
    assert world.states() == {PAIR[0].name: "running"}


def _redis_is_away(_: float) -> list[WorkerHeartbeat]:
    raise redis_connection.Unreachable("pretended")


def test_one_more_worker_beside_a_profile(world: World) -> None:
    world.up(PAIR[1])
    world.start(WorkerSpec("mine", ("training",), 1), profile=None)
    world.answer("mine")
    world.ticks_until("mine", "running")
    assert world.start(PAIR[1])["profile"] == "p"
    assert world.rows() == [("worker-datasets", "running"), ("mine", "running")]
    other = world.start(WorkerSpec("mine", ("training",), 2), profile=None)
    assert other == {"error": "name taken", "workers": ["mine"]}
