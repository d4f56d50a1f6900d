"""A job whose checkpoint takes longer than the usual grace is not killed while it writes it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tasks.jobs.record import Job, State
from tasks.jobs.stop_grace import FACTOR, LONGEST_S, record_stop_time, recorded_stop_time, stop_grace_s
from tasks.submission.checkpoints import resume_point
from tests.conftest import compile_library, until
from tests.fixtures.stack import Stack
from tests.fixtures.work_folders import left_by
from tests.jobs.test_estimate import add_model, add_tokens

SLOW_DISK = Path(__file__).parent.parent / "supervisor" / "slow_disk.c"
#: The grace of a training that has measured nothing, what the disk takes for each of its SAEs, and those.
GRACE_S, FSYNC_S, SAES = 8.0, 0.8, 6
BATCH = 64


def test_the_grace_follows_the_measured_time_between_its_bounds() -> None:
    assert stop_grace_s(20, None) == 20
    assert stop_grace_s(20, 1) == 20
    assert stop_grace_s(20, 15) == 15 * FACTOR
    assert stop_grace_s(20, 1e9) == LONGEST_S
    assert stop_grace_s(1000, 1e9) == 1000, "a kind that says more keeps it"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seconds": null}', b'{"seconds": "x"}', b"\xff", b"7"])
def test_a_time_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    assert recorded_stop_time(tmp_path) is None
    record_stop_time(tmp_path, 12.3456)
    assert recorded_stop_time(tmp_path) == 12.346
    (tmp_path / "stop-time.json").write_bytes(content)
    assert recorded_stop_time(tmp_path) is None


def training(stack: Stack, tmp_path: Path, checkpoint_s: float) -> Job:
    """Six SAEs in one job, under way on a disk that takes longer for all of their checkpoints than the grace."""
    add_model(stack, "model", 16)
    add_tokens(stack, "words", 400)
    slow = {"LD_PRELOAD": str(compile_library(SLOW_DISK, tmp_path / "slow_disk.so"))}
    slow |= {"SLOW_FSYNC_MS": str(int(FSYNC_S * 1000)), "TRAIN_STOP_GRACE_S": str(GRACE_S)}
    stack.start_worker(OMP_NUM_THREADS="1", **slow)
    flags = {"model": "model", "dataset": "words", "layer": 1, "batch": BATCH, "steps": 1_000_000, "evaluate": 0}
    ks = {"k": list(range(2, 2 + SAES))}
    job = stack.submit("train", name="six", checkpoint_s=checkpoint_s, together=ks, **flags)
    until(lambda: done(stack, job) > 0, "the training to begin")
    return job


def done(stack: Stack, job: Job) -> float:
    """How far the job has reported to be."""
    progress = stack.ledger.need(job.id).progress
    return progress.done if progress else 0


def steps_of(stack: Stack, job: Job) -> list[int]:
    """The step of the newest checkpoint of each SAE that has one."""
    parts = (left_by(stack.store, job.id) / "parts").glob("*")
    found = [[int(path.name.rpartition("-")[2]) for path in part.glob("checkpoint-*")] for part in parts]
    return [max(steps) for steps in found if steps]


def test_a_cancel_waits_for_the_checkpoints_of_all_saes_of_a_job(stack: Stack, tmp_path: Path) -> None:
    job = training(stack, tmp_path, checkpoint_s=20)  # so the cancel comes long before the next ones
    until(lambda: (recorded_stop_time(left_by(stack.store, job.id)) or LONGEST_S) < LONGEST_S / FACTOR, stack.log())
    assert len(steps_of(stack, job)) == SAES
    before = max(steps_of(stack, job))
    until(lambda: done(stack, job) > before * BATCH, "steps of all after the checkpoints")
    asked_at = time.monotonic()
    stack.ledger.request_cancel(job.id)
    ended = stack.ended(job)
    assert ended.reason == "cancelled by the user; stopped on request", ended
    assert time.monotonic() - asked_at > GRACE_S, "it would have been killed"
    steps = steps_of(stack, job)
    assert len(steps) == SAES
    assert max(steps) - min(steps) <= 1, "it was stopped between the steps of two of them"
    assert min(steps) >= before
    assert resume_point(stack.store, ended) == f"step {min(steps)}"


def test_a_shutdown_waits_for_the_very_first_checkpoints_too(stack: Stack, tmp_path: Path) -> None:
    """Nothing was measured yet: what the first of six takes says what all will take."""
    job = training(stack, tmp_path, checkpoint_s=1000)
    assert steps_of(stack, job) == []
    asked_at = time.monotonic()
    stack.stop_worker(signal.SIGQUIT)
    assert time.monotonic() - asked_at > GRACE_S
    assert stack.reasons(job)[-1] == "its worker was shut down; stopped on request"
    assert stack.ledger.need(job.id).state is State.QUEUED
    steps = steps_of(stack, job)
    assert len(steps) == SAES
    assert max(steps) - min(steps) <= 1


def test_a_job_that_writes_nothing_is_still_killed_after_the_usual_grace(stack: Stack) -> None:
    stack.start_worker(NAP_STOP_GRACE_S="1")
    job = stack.submit("nap", ticks=1, end="hang")
    stack.under_way(job)  # so it has made its last tick, and will never look again whether it shall stop
    folder = left_by(stack.store, job.id)
    (folder / "stop-time.json").write_text(json.dumps({"seconds": 1}))
    asked_at = time.monotonic()
    stack.ledger.request_cancel(job.id)
    assert stack.ended(job).reason.endswith("killed: it did not stop within 3 s of the request")
    assert time.monotonic() - asked_at >= 3
