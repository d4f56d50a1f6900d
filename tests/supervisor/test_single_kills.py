"""Each signal at each process under a running job: what exactly becomes of the job and of everybody around it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mistudio_cli.redis import redis_server
from tasks.jobs.record import Job, State
from tasks.redis_client.redis_retry import patient
from tasks.runner.liveness_pipe import SILENCE_S
from tests.conftest import PATIENCE_S, until
from tests.soak.fleet import Fleet, fleet_up
from tests.soak.processes import Being, Role


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_up() as fleet:
        yield fleet


def undisturbed(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
    """It ends in its first attempt, in the process that began it."""
    fleet.wake(job)
    done = fleet.ended(job)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
    assert fleet.reasons(job) == ["submitted", "claimed", "done"]


def resumed_after(reason: str, is_loss: bool) -> Callable[[Fleet, Job, dict[Role, Being]], None]:
    """It is put back at once for that reason, and resumes from its checkpoint."""

    def expect(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
        fleet.under_way(job, attempt=2)
        fleet.wake(job)
        done = fleet.ended(job)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
        assert [result for result in fleet.reasons(job) if reason in result], fleet.reasons(job)
        assert fleet.first_tick(job, attempt=2) > 0
        losses = fleet.ledger.client.call("HGET", f"mistudio:job:{job.id}", "losses")
        assert int(losses or 0) == int(is_loss)

    return expect


#: Before whoever is alone gives up by itself.
SOON_S = SILENCE_S - 2.0


def lost_with(*gone: Role) -> Callable[[Fleet, Job, dict[Role, Being]], None]:
    """These end at once, another takes their place, and the job waits until its lease has run out."""

    def expect(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
        lease_ends_at = float(fleet.ledger.client.call("ZSCORE", "mistudio:leases", job.id) or 0.0)
        until(lambda: not any(around[role].lives for role in gone), "all of the tree to be gone", seconds=SOON_S)
        is_running, now = fleet.ledger.need(job.id).state is State.RUNNING, fleet.ledger.now()
        assert is_running or now >= lease_ends_at, "while its lease lives nobody else may have it"
        other = fleet.submit("nap", ticks=1)
        fleet.wake(job)  # on a slow machine its lease may have run out by now, and the slot be its own again
        assert fleet.ended(other).state is State.SUCCEEDED

    return expect


def supervised_again(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
    """The worker finishes the job and ends; the next supervisor's takes what comes then."""
    fleet.wake(job)
    fleet.start()
    undisturbed(fleet, job, around)
    until(lambda: not around[Role.WORKER].lives, "the old worker to be gone")
    assert fleet.ended(fleet.submit("nap", ticks=1)).attempt == 1


def replaced(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
    """The worker finishes the job and ends; its supervisor starts another."""
    undisturbed(fleet, job, around)
    until(lambda: not around[Role.WORKER].lives, "the old worker to be gone")
    assert around[Role.SUPERVISOR].lives
    assert fleet.ended(fleet.submit("nap", ticks=1)).attempt == 1


def served_again(fleet: Fleet, job: Job, around: dict[Role, Being]) -> None:
    """Its supervisor starts another Redis, with all that the last one had, and the job runs all the while."""
    until(lambda: not around[Role.REDIS].lives, "the old Redis to be gone")
    assert patient(fleet.ledger).need(job.id).state is State.RUNNING
    undisturbed(fleet, job, around)


CASES = {
    ("KILL", Role.RUNNER): resumed_after("SIGKILL", is_loss=True),
    ("TERM", Role.RUNNER): resumed_after("stopped on request", is_loss=False),
    ("QUIT", Role.RUNNER): resumed_after("SIGQUIT", is_loss=True),
    ("STOP", Role.RUNNER): undisturbed,
    ("KILL", Role.SLOT): lost_with(Role.SLOT, Role.RUNNER),
    ("TERM", Role.SLOT): resumed_after("its worker was shut down", is_loss=False),
    ("QUIT", Role.SLOT): lost_with(Role.SLOT, Role.RUNNER),
    ("STOP", Role.SLOT): undisturbed,
    ("KILL", Role.WORKER): lost_with(Role.WORKER, Role.SLOT, Role.RUNNER),
    ("TERM", Role.WORKER): replaced,
    ("QUIT", Role.WORKER): resumed_after("its worker was shut down", is_loss=False),
    ("STOP", Role.WORKER): undisturbed,
    ("KILL", Role.SUPERVISOR): supervised_again,
    ("TERM", Role.SUPERVISOR): supervised_again,
    ("QUIT", Role.SUPERVISOR): supervised_again,
    ("STOP", Role.SUPERVISOR): undisturbed,
    ("KILL", Role.REDIS): served_again,
    ("TERM", Role.REDIS): served_again,
    ("STOP", Role.REDIS): undisturbed,
}

STOPPED_S = 0.5

#: From the death of a whole worker to the next claim of its job: its lease has run out, and somebody has looked for it.
RECOVERY_S = 30.0


def test_the_job_of_a_worker_that_is_killed_is_in_hand_again_within_half_a_minute(fleet: Fleet) -> None:
    job, runner = fleet.nap()
    killed_at = fleet.ledger.now()
    fleet.siege.send(fleet.around(runner)[Role.WORKER], signal.SIGKILL)
    fleet.under_way(job, attempt=2)
    fleet.wake(job)
    assert fleet.ended(job).state is State.SUCCEEDED
    _, again_at = [event["at"] for event in fleet.ledger.events(job.id) if event["reason"] == "claimed"]
    assert 0 < again_at - killed_at < RECOVERY_S


@pytest.mark.parametrize(("signal_name", "target"), CASES, ids=lambda value: str(value))
def test_one_signal(fleet: Fleet, signal_name: str, target: Role) -> None:
    job, runner = fleet.nap()
    around = fleet.around(runner)
    fleet.siege.send(around[target], signal.Signals[f"SIG{signal_name}"])
    if signal_name == "STOP":
        time.sleep(STOPPED_S)
        fleet.siege.send(around[target], signal.SIGCONT)
    CASES[signal_name, target](fleet, job, around)


@pytest.mark.parametrize("stopped", [Role.SLOT, Role.WORKER])
def test_who_was_stopped_for_good_wakes_and_drains_when_the_supervisor_dies(fleet: Fleet, stopped: Role) -> None:
    job, runner = fleet.nap()
    around = fleet.around(runner)
    fleet.siege.send(around[stopped], signal.SIGSTOP)
    until(lambda: fleet.now(around[stopped]).state == "T", "it to be stopped")
    fleet.siege.send(around[Role.SUPERVISOR], signal.SIGKILL)
    supervised_again(fleet, job, around)


def test_a_worker_stopped_for_good_while_it_drains_is_woken_by_the_next_supervisor(fleet: Fleet) -> None:
    """Nobody's death wakes it: whoever started it is dead already."""
    job, runner = fleet.nap()
    around = fleet.around(runner)
    fleet.siege.send(around[Role.SUPERVISOR], signal.SIGKILL)
    until(lambda: fleet.now(around[Role.WORKER]).parent != around[Role.SUPERVISOR].pid, "its last thread to be gone")
    fleet.siege.send(around[Role.WORKER], signal.SIGSTOP)
    until(lambda: fleet.now(around[Role.WORKER]).state == "T", "the worker to be stopped")
    supervised_again(fleet, job, around)


def test_a_hangup_changes_nothing(fleet: Fleet) -> None:
    """Celery's own workers restart themselves then, and nobody would watch over such a one."""
    job, runner = fleet.nap()
    around = fleet.around(runner)
    fleet.siege.send(around[Role.WORKER], signal.SIGHUP)
    fleet.siege.send(around[Role.SLOT], signal.SIGHUP)
    undisturbed(fleet, job, around)
    assert around[Role.WORKER].lives
    assert around[Role.SLOT].lives


def test_a_worker_whose_supervisor_died_before_it_could_look_ends(fleet: Fleet) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    broker = redis_server.own_url(fleet.home.places)
    result = {**fleet.environment, "CELERY_BROKER_URL": broker, "MISTUDIO_SUPERVISOR": str(dead.pid)}
    command = [sys.executable, "-P", "-m", "tasks.worker", "--name", "late", "--queues", "low_priority"]
    late = subprocess.run(command, env=result, capture_output=True, text=True, timeout=PATIENCE_S, cwd="/")
    assert late.returncode == 0
    assert "the parent process is gone: draining" in late.stderr
