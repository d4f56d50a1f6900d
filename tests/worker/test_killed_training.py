"""A training of a real worker, whose runner is killed and whose worker is asked to quit at random steps."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest

from tasks.jobs.record import Job, State
from tasks.sae.architectures import names
from tests.conftest import until
from tests.fixtures.stack import Stack, TrainLimit
from tests.jobs.test_estimate import add_model, add_tokens

SEED = os.environ.get("MISTUDIO_TEST_SEED", "1")
BLOWS = 5 if os.environ.get("MISTUDIO_TEST_DEEPER") else 2
STEPS, BATCH = 700, 64
TOKENS = STEPS * BATCH


def strike(stack: Stack, job: Job, at: int, attempt: int, chance: random.Random) -> str:
    """Strike the job once it has done `at` tokens in that attempt; the reason that its history must have then."""

    def is_there() -> bool:
        result = stack.ledger.need(job.id)
        assert not result.state.ended, f"it ended before it could be struck, with seed {SEED}: {result}"
        there = result.progress and result.progress.phase == "training" and result.progress.done > at
        return bool(result.attempt == attempt and there)

    until(is_there, stack.log())
    if chance.random() < 0.5:
        stack.under_way(job).kill()
        return "SIGKILL"
    stack.stop_worker(signal.SIGQUIT)
    stack.start_worker(**environment(stack))
    return "shut"


def environment(stack: Stack) -> dict[str, str]:
    """The variables of a worker whose trainings wait where they may go no further."""
    return {"OMP_NUM_THREADS": "1", **TrainLimit(stack.folder).variables}


@pytest.mark.timeout(900)
def test_a_struck_job_leaves_the_bytes_of_one_that_was_let_alone(stack: Stack) -> None:
    chance = random.Random(SEED)
    architecture = chance.choice(names())
    add_model(stack, "model", 16)
    add_tokens(stack, "words", 400)
    stack.start_worker(**environment(stack))
    flags = {"model": "model", "dataset": "words", "layer": 1, "arch": architecture, "batch": BATCH, "steps": STEPS}
    flags |= {"eval_tokens": 2048}
    whole = stack.submit("train", name="whole", checkpoint_s=0.2, **flags)
    until(lambda: stack.ledger.need(whole.id).state.ended, stack.log(), seconds=300)
    at, limit = 0, TrainLimit(stack.folder)
    limit.may_reach(TOKENS // 4)
    struck = stack.submit("train", name="struck", checkpoint_s=0.2, **flags)
    for attempt in range(1, BLOWS + 1):
        reason = strike(stack, struck, at, attempt, chance)
        until(lambda reason=reason: reason in " ".join(stack.reasons(struck)), stack.log())
        at += chance.randrange(BATCH, TOKENS // (2 * BLOWS))
        limit.may_reach(at + TOKENS // 4)
    limit.ends()
    until(lambda: stack.ledger.need(struck.id).state.ended, stack.log(), seconds=300)
    ended = stack.ledger.need(struck.id)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, BLOWS + 1)
    for file in ("sae_weights.safetensors", "metrics.jsonl"):
        one, other = (stack.store.path("saes", job.name) / file for job in (whole, struck))
        assert one.read_bytes() == other.read_bytes(), (file, architecture, SEED, stack.reasons(struck))
    lines = (stack.store.path("saes", "struck") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
