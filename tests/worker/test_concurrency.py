"""A queue's concurrency holds in every worker, and heavy jobs take turns on a processor as they do on a card."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from mistudio_cli.monitor.explain import explain, look_around
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import kind_named
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.queues import QUEUES, Queue, share
from tasks.worker import device_assignment, thread_limits
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

ONE_AT_A_TIME = {"MISTUDIO_CPU_JOBS": "1"}


def sentences(stack: Stack, job: Job) -> list[str]:
    result = stack.ledger.need(job.id)
    return [cause.sentence for cause in explain(result, look_around(stack.ledger, result))]


def turns(marks: Path) -> list[str]:
    """Who worked, in the order of the ticks, each turn once."""
    tokens = [line.split()[1] for line in marks.read_text().splitlines()]
    return [token for place, token in enumerate(tokens) if place == 0 or tokens[place - 1] != token]


def test_a_worker_of_all_queues_runs_one_training_at_a_time_and_other_queues_beside_it(stack: Stack) -> None:
    marks = stack.folder / "marks"
    enough = {"until": str(stack.folder / "enough"), "marks": str(marks)}
    jobs = [stack.submit("nap", name="nap-0", ticks=100_000, **enough)]
    jobs += [stack.submit("nap", name=f"nap-{number}", ticks=30, marks=str(marks)) for number in (1, 2)]
    stack.start_worker(slots=8)
    stack.under_way(jobs[0])
    assert stack.ended(stack.submit("blink", note="quick")).state is State.SUCCEEDED
    assert [stack.ledger.need(job.id).state for job in jobs] == [State.RUNNING, State.QUEUED, State.QUEUED]
    assert sentences(stack, jobs[1])[0] == f"Its workers run 1 job of training at a time: {jobs[0].id} (nap nap-0)."
    stack.wake(jobs[0])
    assert [stack.ended(job).attempt for job in jobs] == [1, 1, 1]
    assert len(turns(marks)) == 3, "each worked alone, from its first tick to its last"


def test_a_worker_that_takes_over_begins_no_training_beside_its_predecessors(stack: Stack) -> None:
    marks = stack.folder / "marks"
    enough = {"until": str(stack.folder / "enough"), "marks": str(marks)}
    first = stack.submit("nap", name="first", ticks=100_000, **enough)
    old = stack.start_worker(slots=8)
    stack.under_way(first)
    old.send_signal(signal.SIGTERM)  # it finishes what it runs, and gives up its lock
    second = stack.submit("nap", name="second", ticks=5, marks=str(marks))
    stack.start_worker(slots=8)
    until(lambda: not stack.ledger.queues.messages("training"), "the new one to take the message")
    assert stack.ledger.need(second.id).state is State.QUEUED
    stack.wake(first)
    assert stack.ended(second).state is State.SUCCEEDED
    old.wait(PATIENCE_S)
    assert len(turns(marks)) == 2


def test_two_workers_take_turns_on_the_processor_and_who_waits_says_for_whom(stack: Stack) -> None:
    first = stack.submit("nap", name="first", ticks=100_000)
    other = stack.start_worker("--name", "a", "--queues", "training", slots=1, **ONE_AT_A_TIME)
    stack.under_way(first)
    try:
        stack.start_worker("--name", "b", "--queues", "training", slots=1, **ONE_AT_A_TIME)
        second = stack.submit("nap", name="second", ticks=3)
        because = f"; waiting for the processor: cpu is held by job {first.name}."
        until(lambda: sentences(stack, second)[0].endswith(because), stack.log())
        stack.ledger.request_cancel(first.id)
        assert (stack.ended(second).state, stack.ended(second).device) == (State.SUCCEEDED, "cpu")
        assert stack.ledger.leases() == {}
    finally:
        other.send_signal(signal.SIGQUIT)
        other.wait(PATIENCE_S)


def test_a_job_that_waits_for_the_processor_can_be_cancelled(stack: Stack) -> None:
    first = stack.submit("nap", name="first", ticks=100_000)
    stack.start_worker("--queues", "training", slots=2, **ONE_AT_A_TIME)
    stack.under_way(first)
    second = stack.submit("nap", name="second", ticks=100_000)
    until(lambda: stack.ledger.need(second.id).state is State.RUNNING)
    stack.ledger.request_cancel(second.id)
    assert stack.ended(second).reason == "cancelled by the user; while it waited for a device"


def test_the_processor_of_a_killed_worker_comes_back(stack: Stack) -> None:
    job = stack.nap()
    worker = stack.start_worker(**ONE_AT_A_TIME)
    stack.under_way(job)
    assert {lease.key for lease in stack.ledger.leases().values()} == {f"{socket.gethostname()}:cpu"}
    worker.kill()
    worker.wait()
    stack.start_worker(**ONE_AT_A_TIME)
    stack.resumed(job)
    assert stack.ledger.leases() == {}


# -- who takes a lease ------------------------------------------------------------------------------------------------


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_CPU_JOBS", "1")
    monkeypatch.setattr(device_assignment, "_ASK_EVERY_S", 0.01)


def took(ledger: Ledger, kind: str, option: str = "any") -> str | None:
    """On what a job of that kind computes; None when it waits."""
    job = ledger.submit(Job(new_job_id(), kind, "a", kind_named(kind).queue, {}))
    claim = ledger.claim(job.id, "w@h", "h")
    assert isinstance(claim, Claim)
    looks = iter([False, True])
    given = device_assignment.device_for(
        ledger,
        claim,
        kind_named(kind),
        stop=lambda: next(looks),
        option=option,
        read=lambda: device_assignment.devices.Devices(reason=device_assignment.devices.NO_GPU),
    )
    return given and given.torch_name


def test_what_could_have_had_a_gpu_leases_the_processor_and_nothing_else_does(
    ledger: Ledger, one_at_a_time: None
) -> None:
    assert took(ledger, "train") == "cpu"
    assert [took(ledger, kind) for kind in ("train", "extract", "toy-model")] == [None, None, None]
    assert took(ledger, "train", option="none") is None, "it would compute on the same processor"
    assert [took(ledger, kind) for kind in ("tokenize", "download", "export")] == ["cpu", "cpu", "cpu"]


def test_more_may_share_a_processor_that_is_large_enough(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_CPU_JOBS", "2")
    assert thread_limits.cpu_jobs() == 2
    assert [took(ledger, "train") for _ in range(2)] == ["cpu", "cpu"]


@pytest.mark.parametrize("row", QUEUES, ids=lambda row: row.name)
def test_a_queue_has_its_concurrency_in_a_worker_of_several_and_all_slots_in_its_own(row: Queue) -> None:
    names = [queue.name for queue in QUEUES]
    assert share(row.name, names, 8) == row.concurrency
    assert share(row.name, names, 1) == 1
    assert share(row.name, [row.name], 12) == 12
    assert share(row.name, [], 8) == 0
