"""A training that ended without success, tried again: the SAE is the one that would have come of it undisturbed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.jobs.kind import Job, State
from tasks.storage.attempts import newest
from tasks.submission.plan import ArtifactCatalog
from tasks.submission.retry import plan_retry
from tests.conftest import RedisServer, until
from tests.core.lab import Lab
from tests.sae.conftest import Bench
from tests.work_folders import left_by

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
def lab(own_redis: RedisServer, short_tmp: Path) -> Iterator[Lab]:
    lab = Lab(own_redis, short_tmp)
    bench = Bench(lab.store.root, lab.store)
    bench.add_model("tiny")
    bench.add_tokens("words", rows=200)
    yield lab
    lab.stop_worker()
    lab.ledger.client.close()
    lab.app.close()


def cancel(lab: Lab, job: Job) -> None:
    lab.ledger.request_cancel(job.id)


def kill_until_given_up(lab: Lab, job: Job) -> None:
    lab.ledger.client.call("HSET", f"mistudio:job:{job.id}", "max_attempts", 1)
    lab.under_way(job).kill()


def fill_the_disk(lab: Lab, job: Job) -> None:
    """Every write to the file of metrics fails from now on as on a full disk."""
    metrics = left_by(lab.store, job.id) / "metrics.jsonl"
    metrics.with_name("aside").hardlink_to(metrics)
    metrics.with_name("full").symlink_to("/dev/full")
    metrics.with_name("full").rename(metrics)


def make_room(lab: Lab, job: Job) -> None:
    metrics = left_by(lab.store, job.id) / "metrics.jsonl"
    if metrics.is_symlink():
        metrics.with_name("aside").rename(metrics)


def submitted(lab: Lab, name: str) -> Job:
    return lab.submit("train", name=name, checkpoint_s=0.2, **SHORT)


def reached(lab: Lab, job: Job) -> int:
    """The step of the checkpoint that lies there."""
    folder = newest(lab.store.work_folder(job.id))
    names = [path.name for path in folder.glob("checkpoint-*") if not path.suffix] if folder else []
    return max((int(name.rpartition("-")[2]) for name in names), default=0)


def ended(lab: Lab, job: Job) -> Job:
    """The training, once it is over; a busy machine may take its time."""
    until(lambda: lab.ledger.need(job.id).state.ended, 240, lab.log())
    return lab.ledger.need(job.id)


def files(lab: Lab, name: str) -> dict[str, bytes]:
    return {file: (lab.store.path("saes", name) / file).read_bytes() for file in SAME}


def again(lab: Lab, job: Job, **how: bool) -> Job:
    return ended(lab, lab.ledger.submit_all(plan_retry(ArtifactCatalog(lab.ledger, lab.store), job, **how))[-1])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("disturb", "state", "why"),
    [
        (cancel, State.CANCELLED, "cancelled by the user; stopped on request"),
        (kill_until_given_up, State.FAILED, "its process was killed (SIGKILL), perhaps because memory ran out"),
        (fill_the_disk, State.FAILED, "The disk is full."),
    ],
)
def test_it_goes_on_from_its_checkpoint_or_from_scratch_and_the_outcome_is_the_same(
    lab: Lab, whole: dict[str, bytes], disturb: Callable[[Lab, Job], None], state: State, why: str
) -> None:
    lab.start_worker("--queues", "training", slots=1, OMP_NUM_THREADS="1")
    if not whole:
        assert ended(lab, submitted(lab, "whole")).state is State.SUCCEEDED
        whole |= files(lab, "whole")
    first = submitted(lab, "disturbed")
    until(lambda: reached(lab, first) and (left_by(lab.store, first.id) / "metrics.jsonl").exists(), 240, lab.log())
    disturb(lab, first)
    first = ended(lab, first)
    assert (first.state, first.reason.startswith(why)) == (state, True), first.reason
    assert not lab.store.path("saes", "disturbed").exists()
    make_room(lab, first)
    left = reached(lab, first)
    assert 0 < left < STEPS

    if disturb is cancel:  # whoever begins anew does not care how it ended
        scratch = again(lab, first, from_checkpoint=False)
        assert scratch.result is not None
        assert scratch.result["steps_in_last_attempt"] == STEPS
        assert files(lab, "disturbed") == whole
        assert reached(lab, first) == left, "nobody touched it"
        (lab.store.path("saes", "disturbed")).rename(lab.folder / "aside")

    resumed = again(lab, first)
    assert resumed.result is not None
    assert (resumed.result["steps"], resumed.result["steps_in_last_attempt"]) == (STEPS, STEPS - left)
    assert files(lab, "disturbed") == whole
    assert [json.loads(line)["step"] for line in whole["metrics.jsonl"].splitlines()] == list(range(1, STEPS + 1))
    assert f"took over the checkpoint of job {first.id}, at step {left}" in lab.reasons(resumed)
