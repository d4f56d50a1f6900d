"""How workers take over from one another: what the supervisor decides when it restarts, scales and finds others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mistudio_cli.fleet import start_stop
from mistudio_cli.supervisor import worker_process
from mistudio_cli.supervisor.states import SILENCE_S
from mistudio_cli.supervisor.workers import CHECK_LOCKS_EVERY_S, full_name
from tasks.jobs.record import Job
from tasks.worker.slot_locks import living_workers
from tests.conftest import until
from tests.supervisor.manual_supervisor import BROKEN, OBEDIENT, PAIR, SITTING, World


def busy(world: World) -> Path:
    """Have one worker sit, and not end before the file is gone that is returned."""
    world.script = SITTING
    work = world.places.home / "work"
    work.touch()
    world.start(PAIR[0])
    world.active(PAIR[0].name)
    return work


def test_a_restarted_worker_finishes_its_jobs_while_the_new_one_takes_new_ones(world: World) -> None:
    work = busy(world)
    old = world.pid(PAIR[0].name)
    assert world.ask("restart")["restart"] == {"pending": [PAIR[0].name], "failures": {}}
    until(lambda: world.supervisor.tick() or world.pid(PAIR[0].name) != old)
    world.active(PAIR[0].name)
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    world.supervisor.tick()
    assert world.supervisor.status()["restart"] == {"pending": [], "failures": {}}
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_one_after_the_other_is_restarted_and_all_with_the_slots_that_were_asked_for(world: World) -> None:
    world.script = SITTING
    world.start()
    world.active(*(spec.name for spec in PAIR))
    old = {spec.name: world.pid(spec.name) for spec in PAIR}
    world.ask("restart", slots=6)
    for first, left in ((PAIR[0].name, [PAIR[1].name]), (PAIR[1].name, [])):
        until(lambda name=first: world.supervisor.tick() or world.pid(name) != old[name])
        assert world.supervisor.status()["restart"]["pending"] == [first, *left]
        assert all(world.pid(name) == old[name] for name in left)
        world.active(first)
    world.ticks_until_rows([(spec.name, "running") for spec in PAIR])
    assert [row["slots"] for row in world.supervisor.status()["workers"]] == [6, 6]


def test_new_code_that_does_not_load_replaces_nothing(world: World) -> None:
    world.script = SITTING
    world.start()
    world.active(*(spec.name for spec in PAIR))
    old = [world.pid(spec.name) for spec in PAIR]
    world.script = BROKEN
    world.ask("restart")
    until(lambda: world.supervisor.tick() or world.supervisor.status()["restart"]["failures"])
    failure = {"name": PAIR[0].name, "why": "exit code 3; the old one continues"}
    assert world.supervisor.status()["restart"] == {
        "pending": [],
        "failures": {spec.name: failure for spec in PAIR},
    }
    assert [world.pid(spec.name) for spec in PAIR] == old
    assert world.rows() == [(spec.name, "running") for spec in PAIR]


def test_new_code_that_hangs_while_it_loads_holds_up_no_later_restart(world: World) -> None:
    world.script = SITTING
    world.start(PAIR[0])
    world.active(PAIR[0].name)
    old = world.pid(PAIR[0].name)
    world.script = OBEDIENT  # it never asks for its lock
    world.ask("restart")
    world.supervisor.tick()
    world.now += SILENCE_S
    world.supervisor.tick()
    assert world.supervisor.status()["restart"]["pending"] == [PAIR[0].name], "it may still come"
    world.now += 1
    world.supervisor.tick()
    failure = {"name": PAIR[0].name, "why": "it has not loaded for 120 s; the old one continues"}
    assert world.supervisor.status()["restart"] == {"pending": [], "failures": {PAIR[0].name: failure}}
    assert world.pid(PAIR[0].name) == old
    world.script = SITTING
    world.ask("restart")
    until(lambda: world.supervisor.tick() or world.pid(PAIR[0].name) != old, "the next one to take over")


def test_a_restart_fails_with_the_failure_that_concerns_its_workers() -> None:
    of_two = {"name": "one", "why": "exit code 3"}
    now = {"pending": [], "failures": {"one": of_two, "two": of_two}}
    assert start_stop._failure(now, ["two"]) == of_two
    assert start_stop._failure(now, ["three"]) is None
    earlier_version = {"pending": [], "failed": of_two}
    assert start_stop._failure(earlier_version, ["two"]) == of_two


def test_what_is_stopped_is_not_restarted_any_more(world: World) -> None:
    world.script = SITTING
    world.start()
    world.active(*(spec.name for spec in PAIR))
    world.ask("restart")
    world.ask("stop", grace_s=10)
    until(lambda: world.supervisor.tick() or world.supervisor.worker_set.is_gone)
    assert world.rows() == [(spec.name, "stopped") for spec in PAIR]


def test_a_new_worker_may_sit_where_one_is_being_stopped(world: World) -> None:
    work = busy(world)
    world.ask("stop", grace_s=None)
    assert world.rows() == [(PAIR[0].name, "draining")]
    world.start(PAIR[0])
    world.active(PAIR[0].name)
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_workers_of_an_earlier_supervisor_are_known_and_can_be_stopped(world: World) -> None:
    busy(world)
    old = world.supervisor.worker_set.children[PAIR[0].name].process
    assert isinstance(old, worker_process.WorkerProcess)
    note = world.places.worker_lock(PAIR[0].name) / f"{old.pid}.json"
    note.write_text(note.read_text().replace(f'"supervisor": {os.getpid()}', '"supervisor": 1'))
    world.supervisor.worker_set.children.clear()  # what a new supervisor knows
    assert world.rows() == [(PAIR[0].name, "draining")]
    world.ask("stop", grace_s=0)
    assert world.rows() == [(PAIR[0].name, "stopping")]
    until(lambda: old.poll() is not None)
    world.ticks_until_rows([])


def test_one_that_somebody_else_stopped_is_replaced_while_its_last_jobs_run(world: World) -> None:
    work = busy(world)
    first = world.pid(PAIR[0].name)
    os.kill(first, signal.SIGTERM)
    until(lambda: [str(other.phase) for other in living_workers(world.places)] == ["leaving"])
    world.now += CHECK_LOCKS_EVERY_S
    world.active(PAIR[0].name)
    assert world.pid(PAIR[0].name) != first
    assert world.rows() == [(PAIR[0].name, "running"), (PAIR[0].name, "draining")]
    work.unlink()
    world.ticks_until_rows([(PAIR[0].name, "running")])


def test_more_workers_of_a_queue_are_numbered_and_idle_new_ones_go_first(world: World) -> None:
    world.script = SITTING
    world.start(PAIR[1])
    world.active("worker-datasets")
    world.ask("scale", counts={"datasets": 3, "training": 1})
    names = ["worker-datasets", "worker-datasets-2", "worker-datasets-3", "worker-training"]
    world.active(*names)
    assert [row["slots"] for row in world.supervisor.status()["workers"]] == [4, 4, 4, 1]
    job = Job("j1", "download", "d", "datasets", {})
    world.ledger.submit(job)
    assert world.ledger.claim("j1", full_name("worker-datasets-3"), "h") is not None
    world.ask("scale", counts={"datasets": 2})
    world.ticks_until_rows([(name, "running") for name in names if name != "worker-datasets-2"])
    world.ask("scale", counts={"datasets": 3, "training": 0})
    world.active("worker-datasets-2")
    world.ticks_until_rows(
        [("worker-datasets", "running"), ("worker-datasets-3", "running"), ("worker-datasets-2", "running")]
    )
