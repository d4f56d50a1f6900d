"""Jobs on the GPUs of a machine that a fake driver reports: who waits, why, and what comes free when somebody dies."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tasks.accelerators import card_watch, nvml_process
from tasks.accelerators.devices import ABSENT, Device, Devices
from tasks.errors import UserError
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import kind_named
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import Unreachable
from tasks.system.process_identity import is_alive
from tasks.worker import device_assignment, slot
from tasks.worker.lease_keeper import LeaseKeeper
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack

FOR_EVER = 100_000


class Driver:
    """A fake driver whose cards may change while workers read them."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / "cards"
        self.environment = {"LD_LIBRARY_PATH": str(library), "FAKE_FILE": str(self._file)}

    def says(self, **numbers: int) -> None:
        part = self._file.with_suffix(".part")
        part.write_text("".join(f"FAKE_{name}={number}\n" for name, number in numbers.items()))
        os.replace(part, self._file)


@pytest.fixture
def cards(driver: Path, short_tmp: Path) -> Driver:
    return Driver(driver, short_tmp)


def nap(stack: Stack, name: str, ticks: int = FOR_EVER) -> Job:
    return stack.submit("nap", name=name, ticks=ticks)


def why(stack: Stack, job: Job) -> str:
    result = stack.ledger.need(job.id).progress
    return result.phase if result else ""


def waits(stack: Stack, job: Job, because: str) -> None:
    until(lambda: why(stack, job) == f"waiting for a GPU: {because}", f"it waits because: {because}")
    assert stack.ledger.need(job.id).device is None


def test_who_waits_says_who_has_the_card_and_gets_it_next(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1)
    stack.start_worker("--queues", "training", **cards.environment)
    first = nap(stack, "first")
    runner = stack.under_way(first)
    assert runner.environ()["CUDA_VISIBLE_DEVICES"] == "GPU-fake-0"
    second = nap(stack, "second", 3)
    waits(stack, second, f"cuda:0 is held by job {first.name}")
    stack.ledger.request_cancel(first.id)
    assert (stack.ended(second).state, stack.ended(second).device) == (State.SUCCEEDED, "cuda:0")
    assert stack.ledger.leases() == {}


def test_workers_of_different_queues_share_one_card_by_turns(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1)
    trainer = stack.start_worker("--name", "a", "--queues", "training", **cards.environment)
    first = nap(stack, "first")
    stack.under_way(first)
    try:
        stack.start_worker("--name", "b", "--queues", "training", **cards.environment)
        second, third = nap(stack, "second", 3), nap(stack, "third", 3)
        for job in (second, third):
            waits(stack, job, f"cuda:0 is held by job {first.name}")
        stack.ledger.request_cancel(first.id)
        assert {stack.ended(job).state for job in (second, third)} == {State.SUCCEEDED}
    finally:
        trainer.send_signal(signal.SIGQUIT)
        trainer.wait(PATIENCE_S)


def test_jobs_share_a_card_only_when_their_memory_fits(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1, USED_GIB_0=0)
    stack.start_worker("--queues", "training", "--gpu-jobs", "3", slots=3, NAP_GPU_GB="10", **cards.environment)
    jobs = [nap(stack, f"nap-{number}") for number in range(3)]
    until(lambda: len(stack.ledger.leases()) == 2, stack.log())
    (third,) = [job for job in jobs if job.id not in stack.ledger.leases()]
    waits(stack, third, "needs 10 GB, 5.8 are free on cuda:0")  # 24 GiB are 25.8 GB
    stack.ledger.request_cancel(next(job.id for job in jobs if job != third))
    until(lambda: stack.ledger.need(third.id).device == "cuda:0", stack.log())
    for job in jobs:
        stack.ledger.request_cancel(job.id)
        stack.ended(job)
    assert stack.ledger.leases() == {}


def test_a_job_waits_for_memory_that_others_hold_and_starts_when_they_give_it_back(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=2, USED_GIB_0=20, USED_GIB_1=16, TOTAL_GIB_1=16)
    stack.start_worker(NAP_GPU_GB="10", **cards.environment)
    job = nap(stack, "patient", 3)
    waits(stack, job, "needs 10 GB, 4.3 are free on cuda:0, 0 are free on cuda:1")
    cards.says(GPUS=2, USED_GIB_0=20, USED_GIB_1=1, TOTAL_GIB_1=16)
    assert stack.ended(job).device == "cuda:1"


@pytest.mark.parametrize(
    ("trouble", "because"),
    [
        ({"Init": 999}, "the GPUs cannot be read: Unknown Error"),
        ({"Count": 18}, "the GPUs cannot be read: RM has detected an NVML/RM version mismatch."),
        ({"LOST": 0}, "the GPUs cannot be read: GPU 0: GPU is lost"),
        ({"Name": 999, "UUID": 999, "MemoryInfo": 999}, "the GPUs cannot be read: GPU 0: Unknown Error"),
    ],
)
def test_gpus_that_cannot_be_read_are_waited_for_and_never_replaced_by_the_cpu(
    stack: Stack, cards: Driver, trouble: dict[str, int], because: str
) -> None:
    cards.says(GPUS=1, **trouble)
    stack.start_worker(**cards.environment)
    job = nap(stack, "patient", 3)
    waits(stack, job, because)
    cards.says(GPUS=1)
    assert (stack.ended(job).state, stack.ended(job).device) == (State.SUCCEEDED, "cuda:0")


def test_without_any_gpu_the_cpu_is_used(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=0)
    stack.start_worker(**cards.environment)
    assert stack.ended(nap(stack, "without", 1)).device == "cpu"


def slot_of(runner: psutil.Process) -> psutil.Process:
    slot = runner.parent()
    assert slot is not None
    return slot


@pytest.mark.parametrize(
    "victim",
    [lambda runner: runner, slot_of, lambda runner: slot_of(slot_of(runner))],
    ids=["runner", "slot", "worker"],
)
def test_the_card_of_a_job_whose_processes_are_killed_comes_back(
    stack: Stack, cards: Driver, victim: Callable[[psutil.Process], psutil.Process]
) -> None:
    cards.says(GPUS=1)
    worker = stack.start_worker(**cards.environment)
    job = stack.submit("nap", name="struck", ticks=FOR_EVER, until=str(stack.folder / "enough"))
    runner = stack.under_way(job)
    assert set(stack.ledger.leases()) == {job.id}
    struck = victim(runner)
    struck.kill()
    if struck.pid == worker.pid:
        worker.wait()
        stack.start_worker(**cards.environment)
    until(lambda: stack.ledger.need(job.id).attempt == 2, stack.log())
    until(lambda: stack.ledger.need(job.id).device == "cuda:0", stack.log())
    (stack.folder / "enough").touch()
    assert stack.ended(job).state is State.SUCCEEDED
    assert not is_alive(runner)
    assert stack.ledger.leases() == {}


def test_mig_instances_are_leased_as_devices_of_their_own(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1, MIG=0, INSTANCES=2)
    stack.start_worker("--queues", "training", slots=3, **cards.environment)
    jobs = [nap(stack, f"nap-{number}") for number in range(3)]
    until(lambda: len(stack.ledger.leases()) == 2, stack.log())
    ran = [job for job in jobs if job.id in stack.ledger.leases()]
    (third,) = [job for job in jobs if job not in ran]
    assert {stack.ledger.leases()[job.id].key for job in ran} == {"MIG-fake-1", "MIG-fake-2"}
    visible = {stack.under_way(job).environ()["CUDA_VISIBLE_DEVICES"] for job in ran}
    assert visible == {"MIG-fake-1", "MIG-fake-2"}
    assert {stack.ledger.need(job.id).device for job in ran} == {"cuda:0:1", "cuda:0:2"}
    until(lambda: "cuda:0:1 is held by job" in why(stack, third), stack.log())
    for job in jobs:
        stack.ledger.request_cancel(job.id)
        stack.ended(job)
    assert stack.ledger.leases() == {}


LOST = f"GPU 0 of {socket.gethostname()} fell off the bus: GPU is lost"


def waits_for_the_card_to_come_back(stack: Stack, cards: Driver) -> None:
    after = nap(stack, "after", 3)
    waits(stack, after, "the GPUs cannot be read: GPU 0: GPU is lost")
    cards.says(GPUS=1)
    assert (stack.ended(after).state, stack.ended(after).device) == (State.SUCCEEDED, "cuda:0")


def test_a_card_that_falls_off_the_bus_fails_its_job_and_is_leased_again_once_it_answers(
    stack: Stack, cards: Driver
) -> None:
    cards.says(GPUS=1)
    stack.start_worker(CARD_LOOK_EVERY_S="0.5", **cards.environment)
    job = nap(stack, "struck")
    stack.under_way(job)
    cards.says(GPUS=1, LOST=0)
    ended = stack.ended(job)
    assert (ended.state, ended.attempt, (ended.error or {})["type"]) == (State.FAILED, 1, "CardLost")
    assert ended.reason.startswith(f"{LOST}; ")
    assert ended.reason.endswith("Reset the GPU or restart the machine, then: mistudio jobs retry ID")
    assert stack.ledger.leases() == {}
    waits_for_the_card_to_come_back(stack, cards)


def test_an_error_of_cudas_on_a_card_that_is_lost_is_reported_as_that(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1)
    stack.start_worker(CARD_LOOK_EVERY_S="600", **cards.environment)
    job = stack.submit("nap", name="struck", ticks=FOR_EVER, end="lost-gpu", until=str(stack.folder / "now"))
    stack.under_way(job)
    cards.says(GPUS=1, LOST=0)
    (stack.folder / "now").touch()
    ended = stack.ended(job)
    assert (ended.state, ended.attempt, (ended.error or {})["type"]) == (State.FAILED, 1, "Problem")
    assert ended.reason == f"{LOST}. Reset the GPU or restart the machine, then: mistudio jobs retry ID"
    waits_for_the_card_to_come_back(stack, cards)


def test_another_error_of_cudas_stays_what_it_is(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1)
    stack.start_worker(**cards.environment)
    ended = stack.ended(stack.submit("nap", ticks=1, end="lost-gpu"))
    assert ended.reason == "RuntimeError: CUDA error: unspecified launch failure"


ANSWERS, GONE = Device(0, uuid="GPU-0"), Device(1, problem="GPU is lost", is_lost=True)
INSTANCE = Device(2, uuid="MIG-1", instance=1, gpu_uuid="GPU-2")


@pytest.mark.parametrize(
    ("visible", "found", "lost"),
    [
        ("GPU-0", (ANSWERS, GONE), None),
        ("GPU-1", (ANSWERS, GONE), GONE),
        ("1", (ANSWERS, GONE), GONE),
        ("0", (ANSWERS, GONE), None),
        ("MIG-1", (GONE, INSTANCE), None),
        ("MIG-7", (GONE, INSTANCE), GONE),
        ("MIG-GPU-2/1/0", (GONE, INSTANCE), None),
        ("GPU-1", (ANSWERS,), None),
        ("GPU-1", (), None),
        ("GPU-1", (ANSWERS, replace(GONE, uuid="GPU-1")), replace(GONE, uuid="GPU-1")),
    ],
)
def test_only_the_card_of_the_job_itself_counts_as_lost(
    monkeypatch: pytest.MonkeyPatch, visible: str, found: tuple[Device, ...], lost: Device | None
) -> None:
    monkeypatch.setattr(nvml_process, "read", lambda patience_s: Devices(found))
    assert card_watch.lost_card(visible) == lost


def test_an_error_that_says_itself_that_the_card_is_broken_needs_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_process, "read", lambda patience_s: Devices(reason="NVML cannot be read: Unknown Error"))
    result = r"A GPU of .* failed: uncorrectable ECC error encountered\. Reset the GPU"
    with pytest.raises(UserError, match=result), card_watch.card_errors_translated():
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), card_watch.card_errors_translated():
        raise RuntimeError("size mismatch")


# -- the gpu option -------------------------------------------------------------------------------------------------

TWO = Devices((Device(0, "a", "GPU-a", 24, 20), Device(1, "b", "GPU-b", 24, 0)))


def device(
    ledger: Ledger, option: str, *found: Devices, kind: str = "train"
) -> tuple[device_assignment.Placement | None, Job]:
    """What a job is given where the devices are read as these, one after the other."""
    readings = iter(found)
    job = ledger.submit(Job(new_job_id(), kind, "a", kind_named(kind).queue, {}))
    claim = ledger.claim(job.id, "w@h", "h")
    assert isinstance(claim, Claim)
    took = device_assignment.device_for(
        ledger, claim, kind_named(kind), stop=lambda: False, option=option, read=lambda: next(readings)
    )
    return took, ledger.need(job.id)


def test_any_takes_the_card_with_most_free_memory_and_indices_take_those(ledger: Ledger) -> None:
    took, job = device(ledger, "any", TWO)
    assert took is not None
    assert (took.torch_name, took.environment["CUDA_VISIBLE_DEVICES"], job.device) == ("cuda", "GPU-b", "cuda:1")
    _, job = device(ledger, "0,1", TWO)
    assert job.device == "cuda:0", "the other is taken"
    ledger.request_cancel(job.id)
    took, job = device(ledger, "0", Devices((Device(0), Device(1))))
    assert took is not None
    assert (took.environment["CUDA_VISIBLE_DEVICES"], job.device) == ("0", "cuda:0")
    assert ledger.leases()[job.id].key == f"{socket.gethostname()}:0", "a card without a UUID is its host's"


def test_none_and_work_that_wants_no_gpu_run_on_the_cpu_and_read_no_card(ledger: Ledger) -> None:
    unreadable = Devices(reason="NVML cannot be read: Unknown Error")
    for option, kind in (("none", "train"), ("any", "tokenize"), ("7", "tokenize")):
        took, job = device(ledger, option, unreadable, kind=kind)
        assert took is not None
        assert (took.torch_name, took.environment["CUDA_VISIBLE_DEVICES"], job.device) == ("cpu", "", "cpu")


def test_a_card_that_is_not_there_is_not_waited_for(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="has no GPU 2: its GPUs are 0, 1"):
        device(ledger, "1,2", TWO)
    for reason in ABSENT:
        with pytest.raises(UserError, match=f"has no GPU 0: {reason}"):
            device(ledger, "0", Devices(reason=reason))


@pytest.mark.parametrize("reason", ABSENT)
def test_a_machine_that_is_too_busy_to_say_at_once_that_it_has_no_gpu_is_asked_again(
    ledger: Ledger, reason: str
) -> None:
    late = Devices(reason="NVML cannot be read: NVML does not answer")
    took, job = device(ledger, "any", late, Devices(reason=reason))
    assert took is not None
    assert (took.torch_name, job.device) == ("cpu", "cpu")
    with pytest.raises(UserError, match=f"has no GPU 0: {reason}"):
        device(ledger, "0", late, Devices(reason=reason))


def test_an_estimate_that_redis_did_not_answer_for_is_asked_for_again(ledger: Ledger) -> None:
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    claim, answers = ledger.claim(job.id, "w@h", "h"), iter([Unreachable("away"), 30 << 30, 30 << 30])
    assert isinstance(claim, Claim)
    full, free = Device(0, "a", "GPU-a", 80 << 30, 70 << 30), Device(1, "b", "GPU-b", 80 << 30, 0)
    readings = iter([Devices((full,)), Devices((full,)), Devices((full, free))])

    def need() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    took = device_assignment.device_for(
        ledger, claim, kind_named("train"), stop=lambda: False, need=need, read=lambda: next(readings)
    )
    assert took is not None
    assert ledger.need(job.id).device == "cuda:1"
    assert next(answers) == 30 << 30, "what was answered once is remembered"


def test_a_job_whose_gpu_option_cannot_be_met_fails_in_its_first_attempt_and_says_why(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}, gpu="7"))
    claim = ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    requested = partial(device_assignment.device_for, read=lambda: TWO)
    monkeypatch.setattr(slot.device_assignment, "device_for", requested)
    slot._run(ledger, claim, LeaseKeeper(ledger, claim))
    failed = ledger.need(job.id)
    assert (failed.state, failed.attempt, (failed.error or {})["type"]) == (State.FAILED, 1, "Problem")
    assert "has no GPU 7: its GPUs are 0, 1. Submit the job again with another --gpu" in failed.reason


def test_the_index_of_a_gpu_stands_for_all_its_mig_instances(ledger: Ledger) -> None:
    cut = [Device(1, "a", f"MIG-{n}", 10, 0, instance=n, gpu_uuid="GPU-1") for n in (0, 1)]
    found = Devices((Device(0, "b", "GPU-0", 80, 0), *cut))
    got = [device(ledger, "1", found)[1].device for _ in range(2)]
    assert sorted(got) == ["cuda:1:0", "cuda:1:1"]
    assert device(ledger, "0", found)[1].device == "cuda:0"


def test_a_card_cut_in_instances_is_named_by_its_index_and_leased_by_slots(ledger: Ledger) -> None:
    took, job = device(ledger, "any", Devices((Device(0, "a", "GPU-a", 24, 24, in_instances=True),)))
    assert took is not None
    assert (took.environment["CUDA_VISIBLE_DEVICES"], ledger.leases()[job.id].key) == ("0", "GPU-a")
