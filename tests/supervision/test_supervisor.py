"""What the supervisor decides, with real processes that stand in for workers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli import worker_process
from mistudio_cli.crew import LOOK_AT_SEATS_EVERY_S, full_name
from mistudio_cli.profile import WorkerSpec
from mistudio_cli.states import SILENCE_S
from mistudio_cli.supervisor import Supervisor
from tasks import wire
from tasks.job import Job
from tasks.ledger import Ledger, WorkerBeat
from tasks.places import Places
from tasks.seat import Posture, occupants
from tests.conftest import RedisServer, until

PAIR = (WorkerSpec("worker-training", ("training",), 1), WorkerSpec("worker-datasets", ("datasets",), 4))

#: Sleeps until told to end; takes its slots along as a real worker does.
OBEDIENT = "import signal; signal.sigwait([signal.SIGTERM, signal.SIGQUIT])"
STUBBORN = """
import signal, subprocess, sys
for signum in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(signum, lambda s, _: print('ignores', signal.Signals(s).name, flush=True))
slot = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], process_group=0)
print('slot', slot.pid, flush=True)
while True: signal.pause()
"""
#: Sits down as a real worker does; told to end it gives up its seat at once, and goes when nothing is left to do.
SITTING = """
import signal, sys, time
from pathlib import Path
from tasks.places import Places
from tasks.seat import Seat
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
home, name = Path(sys.argv[1]), sys.argv[2]
seat = Seat(Places(home, home / 'store'), name, ('training',), 1)
seat.take(lambda: True)
signal.sigwait([signal.SIGTERM])
seat.rise()
while (home / 'work').exists():
    time.sleep(0.02)
seat.leave()
"""
BROKEN = "print('no such thing as torch'); raise SystemExit(3)"


class World:
    """A supervisor that this test ticks by hand, and a clock that can be moved on."""

    def __init__(self, folder: Path, ledger: Ledger, url: str) -> None:
        self.places = Places(folder, folder / "store")
        for part in (self.places.run, self.places.logs):
            part.mkdir(parents=True)
        self.ledger, self.url, self.now = ledger, url, 0.0
        self.script = OBEDIENT
        self.environments: list[dict[str, str]] = []
        self.supervisor = Supervisor(self.places, lambda: self.now, self._spawn)

    def _spawn(self, spec: WorkerSpec, environment: dict[str, str]) -> worker_process.WorkerProcess:
        self.environments.append(environment)
        argv = [sys.executable, "-c", self.script, str(self.places.home), spec.name]
        told = {**os.environ, "MISTUDIO_SUPERVISOR": environment["MISTUDIO_SUPERVISOR"]}
        return worker_process.spawn(argv, told, self.places.run, self.places.worker_log(spec.name))

    def start(self, *specs: WorkerSpec, **changes: Any) -> dict[str, Any]:
        told = [{"name": spec.name, "queues": list(spec.queues), "slots": spec.slots} for spec in specs or PAIR]
        request = {"op": "start", "profile": "p", "specs": told, "broker_url": self.url, "environment": {}, **changes}
        return self.supervisor.answer(request)

    def ask(self, op: str, **told: Any) -> dict[str, Any]:
        reply = self.supervisor.answer({"op": op, "broker_url": self.url, "environment": {}, **told})
        assert "error" not in reply, reply
        return reply

    def rows(self) -> list[tuple[str, str]]:
        """Every worker there is, in the order of the table."""
        return [(row["name"].partition("@")[0], row["state"]) for row in self.supervisor.status()["workers"]]

    def pid(self, name: str) -> int:
        pid = self.supervisor.crew.children[name].pid
        assert pid is not None
        return pid

    def seated(self, *names: str) -> None:
        """Until these workers sit at their seats, and have answered."""
        for name in names:
            until(lambda name=name: self.sits(name), 20, f"{name} to sit")
            self.answer(name)
            self.ticks_until(name, "running")

    def sits(self, name: str) -> bool:
        self.supervisor.tick()
        there = [other.pid for other in occupants(self.places) if other.posture is Posture.SITTING]
        child = self.supervisor.crew.children.get(name)
        return child is not None and child.pid in there

    def ticks_until_rows(self, rows: list[tuple[str, str]]) -> None:
        until(lambda: self.supervisor.tick() or self.rows() == rows, 20, f"{rows}, not {self.rows()}")

    def answer(self, name: str) -> None:
        """What a worker does when it consumes."""
        pid = self.supervisor.crew.children[name].pid
        assert pid is not None
        self.ledger.beat(WorkerBeat(full_name(name), "h", pid, (), 1, 0.0))

    def up(self, *specs: WorkerSpec) -> None:
        self.start(*specs)
        for spec in specs or PAIR:
            self.answer(spec.name)
        self.supervisor.tick()
        assert set(self.states().values()) == {"running"}

    def states(self) -> dict[str, str]:
        """The worker of each seat; those on the way out apart."""
        return {name: child.state for name, child in self.supervisor.crew.children.items()}

    def ticks_until(self, name: str, state: str) -> None:
        until(lambda: self.supervisor.tick() or self.states()[name] == state, 20, f"{name} to be {state}")

    def log(self, name: str) -> str:
        return self.places.worker_log(name).read_text()


@pytest.fixture
def world(short_tmp: Path, ledger: Ledger, session_redis: RedisServer) -> Iterator[World]:
    world = World(short_tmp / "h", ledger, session_redis.url)
    yield world
    for child in list(world.supervisor.crew._everyone()):
        if child.process is not None:
            child.process.kill_tree()
            until(lambda process=child.process: process.poll() is not None)
    world.supervisor.hearing.close()


def test_a_worker_runs_when_it_has_answered_itself(world: World) -> None:
    assert [worker["state"] for worker in world.start()["workers"]] == ["starting", "starting"]
    beat = WorkerBeat(full_name("worker-training"), "h", 1, (), 1, 0.0)  # of an earlier life
    world.ledger.beat(beat)
    world.answer("worker-datasets")
    world.supervisor.tick()
    assert world.states() == {"worker-training": "starting", "worker-datasets": "running"}


def test_a_dead_worker_is_replaced_and_the_death_is_told(world: World) -> None:
    world.up()
    first = world.supervisor.crew.children["worker-training"].pid
    os.kill(first, signal.SIGKILL)
    world.ticks_until("worker-training", "backoff")
    world.now += 0.5
    world.ticks_until("worker-training", "starting")
    world.answer("worker-training")
    world.ticks_until("worker-training", "running")
    told = world.supervisor.status()["workers"][0]
    assert told["pid"] != first
    assert (told["restarts"], told["last_exit"]) == (1, "killed by SIGKILL")
    assert world.states()["worker-datasets"] == "running"


def test_one_that_dies_again_and_again_is_given_up_and_the_rest_go_on(world: World) -> None:
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
    world.now += 30
    world.ticks_until("worker-training", "stopped")
    until(lambda: not slot.is_running() or slot.status() == psutil.STATUS_ZOMBIE)
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
    beside = world.supervisor.crew.children["worker-datasets"].pid
    world.supervisor.answer({"op": "stop", "names": ["worker-training"], "grace_s": 10})
    world.ticks_until("worker-training", "stopped")
    world.start(environment={"TOKEN": "new"})
    world.answer("worker-training")
    world.ticks_until("worker-training", "running")
    assert world.supervisor.crew.children["worker-datasets"].pid == beside
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


def test_told_to_end_it_stops_its_workers_first(world: World) -> None:
    world.up()
    assert not world.supervisor.ended
    world.supervisor.end()
    until(lambda: world.supervisor.tick() or world.supervisor.ended, 20)
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


# -- taking over from one another -------------------------------------------------------------------------------------


def busy(world: World) -> Path:
    """Have one worker sit, and not end before the file is gone that is returned."""
    world.script = SITTING
    work = world.places.home / "work"
    work.touch()
    world.start(PAIR[0])
    world.seated(PAIR[0].name)
    return work


def test_a_restarted_worker_finishes_its_jobs_while_the_new_one_takes_new_ones(world: World) -> None:
    work = busy(world)
    old = world.pid(PAIR[0].name)
    assert world.ask("restart")["restart"] == {"pending": [PAIR[0].name], "failed": None}
    until(lambda: world.supervisor.tick() or world.pid(PAIR[0].name) != old, 20)
    world.seated(PAIR[0].name)
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    world.supervisor.tick()
    assert world.supervisor.status()["restart"] == {"pending": [], "failed": None}
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_one_after_the_other_is_restarted_and_all_with_the_slots_that_were_asked_for(world: World) -> None:
    world.script = SITTING
    world.start()
    world.seated(*(spec.name for spec in PAIR))
    old = {spec.name: world.pid(spec.name) for spec in PAIR}
    world.ask("restart", slots=6)
    for first, left in ((PAIR[0].name, [PAIR[1].name]), (PAIR[1].name, [])):
        until(lambda name=first: world.supervisor.tick() or world.pid(name) != old[name], 20)
        assert world.supervisor.status()["restart"]["pending"] == [first, *left]
        assert all(world.pid(name) == old[name] for name in left)
        world.seated(first)
    world.ticks_until_rows([(spec.name, "running") for spec in PAIR])
    assert [row["slots"] for row in world.supervisor.status()["workers"]] == [6, 6]


def test_new_code_that_does_not_load_replaces_nothing(world: World) -> None:
    world.script = SITTING
    world.start()
    world.seated(*(spec.name for spec in PAIR))
    old = [world.pid(spec.name) for spec in PAIR]
    world.script = BROKEN
    world.ask("restart")
    until(lambda: world.supervisor.tick() or world.supervisor.status()["restart"]["failed"], 20)
    assert world.supervisor.status()["restart"] == {
        "pending": [],
        "failed": {"name": PAIR[0].name, "why": "exit code 3; the old one goes on"},
    }
    assert [world.pid(spec.name) for spec in PAIR] == old
    assert world.rows() == [(spec.name, "running") for spec in PAIR]


def test_what_is_stopped_is_not_restarted_any_more(world: World) -> None:
    world.script = SITTING
    world.start()
    world.seated(*(spec.name for spec in PAIR))
    world.ask("restart")
    world.ask("stop", grace_s=10)
    until(lambda: world.supervisor.tick() or world.supervisor.crew.is_gone, 20)
    assert world.rows() == [(spec.name, "stopped") for spec in PAIR]


def test_a_new_worker_may_sit_where_one_is_being_stopped(world: World) -> None:
    work = busy(world)
    world.ask("stop", grace_s=None)
    assert world.rows() == [(PAIR[0].name, "draining")]
    world.start(PAIR[0])
    world.seated(PAIR[0].name)
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_workers_of_an_earlier_supervisor_are_known_and_can_be_told_to_end(world: World) -> None:
    busy(world)
    old = world.supervisor.crew.children[PAIR[0].name].process
    assert isinstance(old, worker_process.WorkerProcess)
    note = world.places.seat(PAIR[0].name) / f"{old.pid}.json"
    note.write_text(note.read_text().replace(f'"supervisor": {os.getpid()}', '"supervisor": 1'))
    world.supervisor.crew.children.clear()  # what a new supervisor knows
    assert world.rows() == [(PAIR[0].name, "draining")]
    world.ask("stop", grace_s=0)
    assert world.rows() == [(PAIR[0].name, "stopping")]
    until(lambda: old.poll() is not None)
    world.ticks_until_rows([])


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
    assert (
        world.supervisor.status()["workers"][0]["last_exit"] == f"said nothing for {SILENCE_S:g} s; killed by SIGQUIT"
    )
    world.now += 30
    world.ticks_until(PAIR[0].name, "starting")
    assert world.pid(PAIR[0].name) != first


def test_one_that_somebody_else_told_to_end_is_replaced_while_its_last_jobs_run(world: World) -> None:
    work = busy(world)
    first = world.pid(PAIR[0].name)
    os.kill(first, signal.SIGTERM)
    until(lambda: [str(other.posture) for other in occupants(world.places)] == ["leaving"])
    world.now += LOOK_AT_SEATS_EVERY_S
    world.seated(PAIR[0].name)
    assert world.pid(PAIR[0].name) != first
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_silence_while_redis_was_away_is_nobodys_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.up(PAIR[0])
    ledger = world.supervisor.hearing._ledger
    assert ledger is not None
    with monkeypatch.context() as away:
        away.setattr(ledger, "workers", _redis_is_away)
        for _ in range(100):
            world.now += 5
            world.supervisor.tick()
    world.now += 5
    world.supervisor.tick()
    assert world.states() == {PAIR[0].name: "running"}


def _redis_is_away(_: float) -> list[WorkerBeat]:
    raise wire.Unreachable("pretended")


def test_more_workers_of_a_queue_are_numbered_and_idle_new_ones_go_first(world: World) -> None:
    world.script = SITTING
    world.start(PAIR[1])
    world.seated("worker-datasets")
    world.ask("scale", counts={"datasets": 3, "training": 1})
    names = ["worker-datasets", "worker-datasets-2", "worker-datasets-3", "worker-training"]
    world.seated(*names)
    assert [row["slots"] for row in world.supervisor.status()["workers"]] == [4, 4, 4, 1]
    job = Job("j1", "download", "d", "datasets", {})
    world.ledger.submit(job)
    assert world.ledger.claim("j1", full_name("worker-datasets-3"), "h") is not None
    world.ask("scale", counts={"datasets": 2})
    world.ticks_until_rows([(name, "running") for name in names if name != "worker-datasets-2"])
    world.ask("scale", counts={"datasets": 3, "training": 0})
    world.seated("worker-datasets-2")
    world.ticks_until_rows(
        [("worker-datasets", "running"), ("worker-datasets-3", "running"), ("worker-datasets-2", "running")]
    )


def test_one_more_worker_beside_a_profile(world: World) -> None:
    world.up(PAIR[1])
    world.start(WorkerSpec("mine", ("training",), 1), profile=None)
    world.answer("mine")
    world.ticks_until("mine", "running")
    assert world.start(PAIR[1])["profile"] == "p"
    assert world.rows() == [("worker-datasets", "running"), ("mine", "running")]
    assert world.start(WorkerSpec("mine", ("training",), 2), profile=None)["error"] == "others run"
