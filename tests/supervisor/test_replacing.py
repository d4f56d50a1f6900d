"""Workers that are replaced, drained and scaled under running jobs, and processes that are none of ours."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.record import Job, State
from tests.conftest import PATIENCE_S, until
from tests.soak.fleet import Fleet, fleet_up
from tests.soak.processes import Being, Role

STREAM = 500


@pytest.fixture(scope="module")
def up() -> Iterator[Fleet]:
    with fleet_up() as fleet:
        yield fleet


@pytest.fixture
def fleet(up: Fleet) -> Fleet:
    up.start()  # each test finds both workers, whatever the one before it did
    return up


def once(fleet: Fleet, job: Job) -> Job:
    done = fleet.ended(job)
    assert (done.state, done.attempt, fleet.reasons(job)) == (State.SUCCEEDED, 1, ["submitted", "claimed", "done"])
    return done


def at_lock(fleet: Fleet, name: str = "worker-training") -> dict[int, str]:
    """The living workers of that lock, and their states."""
    return {row["pid"]: row["state"] for row in fleet.rows(name) if row["pid"] is not None}


def test_a_new_supervisor_finds_a_busy_old_worker_waits_and_then_fills_the_slot(fleet: Fleet) -> None:
    job, runner = fleet.nap()
    around = fleet.around(runner)
    fleet.siege.send(around[Role.SUPERVISOR], signal.SIGKILL)
    until(lambda: not around[Role.SUPERVISOR].lives)
    fleet.start()
    waiting = fleet.submit("nap", ticks=1)
    old = around[Role.WORKER].pid
    states = at_lock(fleet)
    assert states.pop(old) == "draining"
    assert list(states.values()) == ["running"]
    until(
        lambda: not fleet.ledger.queues.messages("training"),
        "the new worker to take the message of the job that waits",
    )
    assert fleet.ledger.need(waiting.id).state is State.QUEUED
    fleet.wake(job)
    first, second = once(fleet, job), once(fleet, waiting)
    assert second.started_at is not None
    assert first.finished_at is not None
    assert second.started_at >= first.finished_at, "there is one slot at this lock"
    until(lambda: old not in at_lock(fleet), "the old worker to be gone")


def test_a_recycled_pid_is_neither_shown_nor_signalled(fleet: Fleet) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        note = fleet.home.places.worker_lock("worker-training") / f"{innocent.pid}.json"
        (true,) = (path for path in note.parent.glob("*.json") if int(path.stem) in at_lock(fleet))
        note.write_text(json.dumps({**json.loads(true.read_text()), "pid": innocent.pid, "supervisor": 1}))
        assert innocent.pid not in at_lock(fleet)
        assert not note.exists()
        note.write_text(json.dumps({**json.loads(true.read_text()), "pid": innocent.pid, "supervisor": 1}))
        assert fleet("workers stop --all --now").returncode == 0
        assert innocent.poll() is None
        assert fleet.siege.everybody() == []
    finally:
        innocent.kill()
        innocent.wait()


def test_a_restart_under_a_training_costs_it_nothing(fleet: Fleet) -> None:
    job, runner = fleet.nap()
    old = fleet.around(runner)[Role.WORKER]
    restarted = fleet("workers restart worker-training")
    assert restarted.returncode == 0, restarted.stderr
    assert sorted(at_lock(fleet).values()) == ["draining", "running"]
    assert at_lock(fleet)[old.pid] == "draining"
    assert [being for being in fleet.siege.everybody() if being.job] == [runner]
    fleet.wake(job)
    once(fleet, job)
    until(lambda: not old.lives, "the old worker to be gone")


def test_a_stream_of_jobs_flows_on_through_a_restart(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    before = at_lock(fleet, "worker-high-priority")
    stream = [fleet.submit("blink", note=str(number)) for number in range(STREAM // 2)]
    restarting = fleet.begin("workers restart worker-high-priority")
    while restarting.poll() is None or len(stream) < STREAM:
        stream.append(fleet.submit("blink", note=str(len(stream))))
    assert restarting.returncode == 0, restarting.communicate()
    restarting.communicate()
    done = [once(fleet, job) for job in stream]
    assert [job.result for job in done] == [{"note": str(number)} for number in range(len(stream))]
    until(lambda: not set(before) & set(at_lock(fleet, "worker-high-priority")), "the old worker to be gone")
    starts = sorted(job.started_at or 0.0 for job in done)
    gap_s = max(later - earlier for earlier, later in itertools.pairwise(starts))
    with capsys.disabled():
        print(f"\nlongest gap between two starts of {len(stream)} through a restart: {gap_s:.3f} s")


def test_new_code_that_does_not_load_replaces_nothing(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text("raise SystemExit('this celery is broken')")
    job, runner = fleet.nap()
    old = fleet.around(runner)[Role.WORKER]
    failed = fleet("workers restart worker-training", PYTHONPATH=str(tmp_path))
    first, *lines, hint = failed.stderr.splitlines()
    assert failed.returncode == Code.FAILED == 1
    assert first == "worker-training does not start (exit code 1; the old one continues)."
    assert lines[-1] == "  | this celery is broken"
    assert hint == "  See: mistudio workers logs worker-training"
    assert old.lives
    assert at_lock(fleet) == {old.pid: "running"}
    fleet.wake(job)
    once(fleet, job)
    once(fleet, fleet.submit("nap", ticks=1))


def test_drain_waits_for_the_last_job_however_long_it_takes(fleet: Fleet) -> None:
    job, runner = fleet.nap()
    worker = fleet.around(runner)[Role.WORKER]
    draining = fleet.begin("workers drain worker-training")
    until(lambda: at_lock(fleet) == {worker.pid: "draining"}, "the worker to drain")
    waiting = fleet.submit("nap", ticks=1)
    assert draining.poll() is None
    fleet.wake(job)
    _, said = draining.communicate(timeout=PATIENCE_S)
    assert (draining.returncode, worker.lives) == (0, False), said
    assert fleet.ledger.need(job.id).state is State.SUCCEEDED
    once(fleet, job)
    assert fleet.ledger.need(waiting.id).state is State.QUEUED
    fleet.start()
    once(fleet, waiting)


def test_scaling_down_never_takes_the_busy_one(fleet: Fleet) -> None:
    assert fleet("workers scale training=2").stderr.splitlines()[-1] == "New: worker-training-2."
    job, runner = fleet.nap()
    busy = fleet.around(runner)[Role.WORKER]
    idle = "worker-training" if busy.worker_lock == "worker-training-2" else "worker-training-2"
    scaled = fleet("workers scale training=1")
    assert scaled.stderr.splitlines()[-1] == f"Leaving, after their last jobs: {idle}."
    until(lambda: not active(fleet, idle), "the idle one to be gone")
    assert busy.lives
    fleet.wake(job)
    once(fleet, job)
    assert busy.lives


def active(fleet: Fleet, name: str) -> list[Being]:
    return [being for being in fleet.siege.everybody() if being.role is Role.WORKER and being.worker_lock == name]
