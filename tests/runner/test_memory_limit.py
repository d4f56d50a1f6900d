"""What a job asks for and does not get: too little memory is one sentence and a fix."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tasks.accelerators.card_processes import describe_memory
from tasks.accelerators.devices import NO_DRIVER, Device, Devices, GpuProcess
from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.jobs.record import State
from tasks.runner import memory_limit
from tasks.runner.memory_limit import enough_for
from tests.fixtures.stack import Stack
from tests.jobs.test_estimate import add_model, add_tokens

FIX = "Use a smaller --batch-size or --d-sae or --expansion or a larger --accumulate."


@pytest.mark.parametrize("sizes", [(10**15, 16), (2**62, 16)], ids=["too much", "not even to be counted"])
@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_too_little_memory_is_reported_in_a_sentence(allocate: Callable[..., Any], sizes: tuple[int, int]) -> None:
    with pytest.raises(UserError) as raised, enough_for(kind_named("train")):
        allocate(sizes)
    assert str(raised.value) == f"There is not enough memory for this train job. {FIX}"


@pytest.mark.parametrize(
    "raised",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["GiB", "MiB", "cuBLAS"],
)
def test_too_little_memory_of_a_gpu_is_reported_as_such(raised: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "read_devices", lambda: Devices(reason=NO_DRIVER))
    with pytest.raises(UserError) as result, enough_for(kind_named("train")):
        raise raised
    wanted = {"2.00 GiB": ": it wanted 2.1 GB more", "512.00 MiB": ": it wanted 0.5 GB more"}
    why = next((why for words, why in wanted.items() if words in str(raised)), "")
    assert str(result.value) == f"There is not enough GPU memory for this train job{why}. {FIX}"


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    """A process of another group."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as started:
        yield psutil.Process(started.pid)
        started.kill()


def test_who_holds_the_rest_of_a_gpu_is_named_as_far_as_it_can_be_read(
    monkeypatch: pytest.MonkeyPatch, other: psutil.Process
) -> None:
    held = {os.getpid(): 3, other.pid: 9, 2**22 + 1: None}
    processes = tuple(GpuProcess(pid, None if gib is None else gib << 30) for pid, gib in held.items())
    card = Device(0, memory_total=24 << 30, memory_used=23 << 30, processes=processes)
    monkeypatch.setattr(memory_limit, "read_devices", lambda: Devices((Device(0), card)))
    with pytest.raises(UserError) as raised, enough_for(kind_named("tokenize")):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 24.00 GiB of which ..."
        )
    first, second, third = (
        f"process {other.pid} ({other.name()}, user {other.username()}) held 9.7 GB",
        "this job held 3.2 GB",
        f"process {2**22 + 1} held n/a",
    )
    assert raised.value.sentence == (
        "There is not enough GPU memory for this tokenize job: it wanted 2.1 GB more, 1.1 of 25.8 GB were free, and "
        f"{first}, {second}, {third}."
    )


def test_more_processes_than_can_be_named_are_counted() -> None:
    card = Device(0, processes=tuple(GpuProcess(2**22 + n, n << 30) for n in range(1, 8)))
    assert describe_memory(card).endswith(f"process {2**22 + 4} held 4.3 GB, 3 more held 6.4 GB")


def test_a_job_that_fills_a_gpu_fails_once_and_says_who_holds_it(stack: Stack, driver: Path) -> None:
    cards = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(os.getpid()), "FAKE_USED_GIB_0": "23"}
    stack.start_worker("--queues", "training", **cards)
    ended = stack.ended(stack.submit("nap", end="full-gpu"))
    assert (ended.state, ended.attempt, ended.device) == (State.FAILED, 1, "cuda:0")
    me = psutil.Process()
    assert ended.reason == (
        "There is not enough GPU memory for this nap job: it wanted 2.1 GB more, 1.1 of 25.8 GB were free, and "
        f"process {me.pid} ({me.name()}, user {me.username()}) held 3.2 GB. Run it where there is more."
    )


@pytest.mark.parametrize(
    ("own", "there"),
    [
        ({}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
    ],
)
def test_torchs_allocator_grows_its_segments_unless_the_user_says_otherwise(
    stack: Stack, driver: Path, own: dict[str, str], there: dict[str, str]
) -> None:
    stack.start_worker("--queues", "training", LD_LIBRARY_PATH=str(driver), FAKE_GPUS="1", **own)
    job = stack.submit("nap", ticks=100_000)
    environment = stack.under_way(job).environ()
    assert {name: value for name, value in environment.items() if name.endswith("ALLOC_CONF")} == there
    stack.ledger.request_cancel(job.id)
    stack.ended(job)


def test_a_kind_with_nothing_to_make_smaller_needs_another_machine() -> None:
    with pytest.raises(UserError) as raised, enough_for(kind_named("tokenize")):
        raise MemoryError
    assert str(raised.value) == "There is not enough memory for this tokenize job. Run it where there is more."


def test_what_has_another_cause_is_reported_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="must match the size"), enough_for(kind_named("train")):
        torch.ones(2).add_(torch.ones(3))


def test_a_training_that_asks_for_more_memory_than_there_is_fails_once_and_says_so(stack: Stack) -> None:
    add_model(stack, "model", 16)
    add_tokens(stack, "words", 100)
    stack.start_worker()
    ended = stack.ended(stack.submit("train", model="model", dataset="words", layer=0, width=10**15, k=8, steps=4))
    assert (ended.state, ended.attempt) == (State.FAILED, 1)
    assert ended.reason == f"There is not enough memory for this train job. {FIX}"
