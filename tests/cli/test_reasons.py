"""A command that waits says once, on standard error, why a job does not start, and again when the reason changes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from mistudio_cli.jobs import wait_reasons
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tests.cli.conftest import Cli, repeated
from tests.conftest import PATIENCE_S, until

HEARTBEAT = WorkerHeartbeat("worker-training@here", "here", 7, ("training",), 1, 0.0)


def submit(cli: Cli, **changes: object) -> Job:
    return cli.ledger.submit(Job(new_job_id(), "nap", "a", "training", {"ticks": 1}, **changes))


def finish(cli: Cli, job: Job, state: State = State.SUCCEEDED) -> None:
    claim = cli.ledger.claim(job.id, HEARTBEAT.name, "here")
    assert claim is not None
    cli.ledger.finish(claim, state, "done")


@contextmanager
def suspended(command: subprocess.Popen[str]) -> Iterator[None]:
    """It does nothing while the block runs."""
    command.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(command.pid).status() == psutil.STATUS_STOPPED, "it to stop")
    yield
    command.send_signal(signal.SIGCONT)


def said(command: subprocess.Popen[str], count: int = 1) -> list[str]:
    assert command.stderr is not None
    return [command.stderr.readline().rstrip("\n") for _ in range(count)]


@pytest.mark.parametrize("words", ["jobs wait {}", "jobs logs -f {}", "submit nap --wait"])
def test_without_a_worker_it_says_so(cli: Cli, words: str) -> None:
    job = None if "submit" in words else submit(cli)
    command = cli.start(*words.format(job and job.id).split())
    if job is None:
        until(lambda: cli.ledger.page().jobs)
        (job,) = cli.ledger.page().jobs
        said(command)  # how to follow it
    hint = "(mistudio workers start full)"
    assert said(command) == [f"{job.id} is queued. No worker consumes its queue training.  {hint}"]
    finish(cli, job)
    _, rest = command.communicate(timeout=PATIENCE_S)
    assert "No worker consumes" not in rest
    assert command.returncode == 0


def test_a_paused_queue_and_an_unfinished_parent_are_named(cli: Cli) -> None:
    cli.ledger.queues.pause("training")
    parent = submit(cli)
    child = submit(cli, parents=(parent.id,))
    with repeated(cli, lambda ledger: ledger.heartbeat(HEARTBEAT)):
        command = cli.start("jobs", "wait", parent.id, child.id)
        result = sorted(said(command, 2), key=lambda line: not line.startswith(parent.id))
    assert result[0].startswith(f"{parent.id} is queued. Its queue training has been paused for ")
    assert result[0].endswith("(mistudio queue resume training)")
    cause = f"It waits for {parent.id} (nap a), which is queued."
    assert result[1] == f"{child.id} is waiting. {cause}  (mistudio jobs explain {parent.id})"
    with suspended(command):  # else it might see, and say, what is true for a moment
        cli.ledger.queues.resume("training")
        finish(cli, parent)
        finish(cli, child)
    assert command.communicate(timeout=PATIENCE_S)[1] == ""


def test_a_reason_is_said_once_and_a_new_one_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(wait_reasons.output, "talk", lines.append)
    monkeypatch.setattr(wait_reasons, "AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr(wait_reasons, "FIRST_AFTER_S", 0.0)
    job, looked = submit(cli), wait_reasons.Reasons(cli.ledger)
    for _ in range(3):
        looked.look([job])
    cli.ledger.queues.pause("training")
    for _ in range(3):
        looked.look([job])
    assert ["No worker consumes" in line for line in lines] == [True, False]
    assert "has been paused" in lines[1]
    looked.look([cli.ledger.need(job.id)] * 5)
    assert len(lines) == 2


def test_a_job_that_starts_at_once_is_not_explained(cli: Cli) -> None:
    job = submit(cli)
    claim = cli.ledger.claim(job.id, HEARTBEAT.name, "here")
    command = cli.start("jobs", "wait", job.id)
    cli.ledger.finish(claim, State.SUCCEEDED, "done")
    out, err = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, err) == (0, "")
    assert job.id in out
