"""A training that ended without success, tried again: the SAE is the one that would have come of it undisturbed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.jobs.record import Job, State
from tasks.storage.attempts import newest
from tasks.submission.plan import ArtifactCatalog
from tasks.submission.retry import plan_retry
from tests.conftest import RedisServer, until
from tests.fixtures.bench import Bench
from tests.fixtures.stack import Stack
from tests.fixtures.work_folders import left_by

STEPS = 600
SHORT = {"model": "tiny", "dataset": "words", "layer": 1, "k": 4, "batch": 256, "expansion": 4}
SHORT |= {"steps": STEPS, "eval_tokens": 2048}

#: What of an artifact must be the same byte for byte.
SAME = ("sae_weights.safetensors", "cfg.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """The files of the training that nobody disturbs; read once, by the first test."""
    return {}


@pytest.fixture
def stack(own_redis: RedisServer, short_tmp: Path) -> Iterator[Stack]:
    stack = Stack(own_redis, short_tmp)
    bench = Bench(stack.store.root, stack.store)
    bench.add_model("tiny")
    bench.add_tokens("words", rows=200)
    yield stack
    stack.stop_worker(signal.SIGQUIT)
    stack.ledger.client.close()
    stack.app.close()


def gate(stack: Stack) -> Path:
    """While it is there a training waits after its first checkpoint, so that it is not over before it is disturbed."""
    return stack.folder / "gate"


def cancel(stack: Stack, job: Job) -> None:
    stack.ledger.request_cancel(job.id)


def kill_until_given_up(stack: Stack, job: Job) -> None:
    stack.ledger.client.call("HSET", f"mistudio:job:{job.id}", "max_attempts", 1)
    runner = stack.runner(job)
    assert runner is not None
    runner.kill()


def fill_the_disk(stack: Stack, job: Job) -> None:
    """Every write to the file of metrics fails from now on as on a full disk."""
    metrics = left_by(stack.store, job.id) / "metrics.jsonl"
    metrics.with_name("aside").hardlink_to(metrics)
    metrics.with_name("full").symlink_to("/dev/full")
    metrics.with_name("full").rename(metrics)
    gate(stack).unlink()


def make_room(stack: Stack, job: Job) -> None:
    metrics = left_by(stack.store, job.id) / "metrics.jsonl"
    if metrics.is_symlink():
        metrics.with_name("aside").rename(metrics)


def submitted(stack: Stack, name: str) -> Job:
    return stack.submit("train", name=name, checkpoint_s=0.2, **SHORT)


def reached(stack: Stack, job: Job) -> int:
    """The step of the checkpoint that lies there."""
    folder = newest(stack.store.work_folder(job.id))
    names = [path.name for path in folder.glob("checkpoint-*") if not path.suffix] if folder else []
    return max((int(name.rpartition("-")[2]) for name in names), default=0)


def ended(stack: Stack, job: Job) -> Job:
    """The training, once it is over; a busy machine may take its time."""
    until(lambda: stack.ledger.need(job.id).state.ended, stack.log(), seconds=240)
    return stack.ledger.need(job.id)


def files(stack: Stack, name: str) -> dict[str, bytes]:
    return {file: (stack.store.path("saes", name) / file).read_bytes() for file in SAME}


def again(stack: Stack, job: Job, **how: bool) -> Job:
    return ended(stack, stack.ledger.submit_all(plan_retry(ArtifactCatalog(stack.ledger, stack.store), job, **how))[-1])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("disturb", "state", "why"),
    [
        (cancel, State.CANCELLED, "cancelled by the user; stopped on request"),
        (kill_until_given_up, State.FAILED, "its process was killed (SIGKILL), perhaps because memory ran out"),
        (fill_the_disk, State.FAILED, "The disk is full."),
    ],
)
def test_it_resumes_from_its_checkpoint_or_from_scratch_and_the_outcome_is_the_same(
    stack: Stack, whole: dict[str, bytes], disturb: Callable[[Stack, Job], None], state: State, why: str
) -> None:
    stack.start_worker("--queues", "training", slots=1, OMP_NUM_THREADS="1", TRAINING_GATE=str(gate(stack)))
    if not whole:
        assert ended(stack, submitted(stack, "whole")).state is State.SUCCEEDED
        whole |= files(stack, "whole")
    gate(stack).touch()
    first = submitted(stack, "disturbed")
    until(
        lambda: reached(stack, first) and (left_by(stack.store, first.id) / "metrics.jsonl").exists(),
        stack.log(),
        seconds=240,
    )
    disturb(stack, first)
    first = ended(stack, first)
    gate(stack).unlink(missing_ok=True)
    assert (first.state, first.reason.startswith(why)) == (state, True), first.reason
    assert not stack.store.path("saes", "disturbed").exists()
    make_room(stack, first)
    left = reached(stack, first)
    assert 0 < left < STEPS

    if disturb is cancel:  # a start from scratch does not depend on how it ended
        scratch = again(stack, first, from_checkpoint=False)
        assert scratch.result is not None
        assert scratch.result["steps_in_last_attempt"] == STEPS
        assert files(stack, "disturbed") == whole
        assert reached(stack, first) == left, "nobody touched it"
        (stack.store.path("saes", "disturbed")).rename(stack.folder / "aside")

    resumed = again(stack, first)
    assert resumed.result is not None
    assert (resumed.result["steps"], resumed.result["steps_in_last_attempt"]) == (STEPS, STEPS - left)
    assert files(stack, "disturbed") == whole
    assert [json.loads(line)["step"] for line in whole["metrics.jsonl"].splitlines()] == list(range(1, STEPS + 1))
    assert f"took over the checkpoint of job {first.id}, at step {left}" in stack.reasons(resumed)
