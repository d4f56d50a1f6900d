"""Wherever a training is struck, with TERM or KILL, it ends with the weights and the metrics it would have had.

Each architecture is trained in processes of its own, of which five are struck at random steps.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.sae.architectures import coder_class, names
from tasks.storage.store import Store
from tests.fixtures.bench import Bench
from tests.fixtures.work_folders import left_by
from tests.train_job.killed_attempt import attempt

SEED = os.environ.get("MISTUDIO_TEST_SEED", "1")
STEPS = 60
BLOWS = [signal.SIGKILL] * 3 + [signal.SIGTERM] * 2

FLAGS: dict[str, dict[str, Any]] = {
    **{name: {"arch": name} for name in names()},
    "transcoder": {"arch": "topk", "hook": "mlp-in", "target": "mlp", "skip": True},
    "crosscoder": {"arch": "batchtopk", "layer": None, "crosscode": "0,1"},
}
SPARSITY = {"standard": {"l1": 0.1}, "gated": {"l1": 0.1}, "p_anneal": {"l1": 0.1}, "jumprelu": {"l0": 0.01}}


def values_of(name: str) -> dict[str, Any]:
    flags = FLAGS[name]
    by_k = {"k": 4} if "k" in {spec.name for spec in dataclasses.fields(coder_class(flags["arch"]).Options)} else {}
    sparsity = SPARSITY.get(flags["arch"], by_k)
    shared = {"model": "tiny", "dataset": "words", "layer": 1, "batch": 64, "steps": STEPS, "expansion": 4, "lr": 0.01}
    result = {**shared, "checkpoint_s": 0.0, **sparsity, **flags}
    return {key: value for key, value in result.items() if value is not None}


def made_by(root: Path, job: str, number: int) -> Path:
    return left_by(Store(root / "store"), job) / "output"


@pytest.mark.parametrize("name", FLAGS)
def test_a_training_that_is_struck_at_five_random_steps_ends_as_if_it_had_not_been(bench: Bench, name: str) -> None:
    chance, values = random.Random(f"{SEED} {name}"), values_of(name)
    assert attempt(bench.root, "whole", values, 1, None) == 0
    steps, blows = sorted(chance.sample(range(2, STEPS, 2), len(BLOWS))), chance.sample(BLOWS, len(BLOWS))
    for number, (step, blow) in enumerate(zip(steps, blows, strict=True), 1):
        assert attempt(bench.root, "struck", values, number, (step, blow)) == -blow, (SEED, steps)
        if blow is signal.SIGTERM:
            assert (left_by(bench.store, "struck") / f"checkpoint-{step:09}").is_dir(), "it resumes from there"
    last = len(BLOWS) + 1
    assert attempt(bench.root, "struck", values, last, None) == 0
    whole, struck = made_by(bench.root, "whole", 1), made_by(bench.root, "struck", last)
    for file in ("sae_weights.safetensors", "metrics.jsonl", "evaluations.jsonl", "cfg.json"):
        assert (struck / file).read_bytes() == (whole / file).read_bytes(), (file, SEED, steps)
    lines, evaluations = (
        [json.loads(line) for line in (struck / file).read_text().splitlines()]
        for file in ("metrics.jsonl", "evaluations.jsonl")
    )
    for line in evaluations:
        result = line["density_histogram"]
        assert result["never"] + sum(result["counts"]) == 64
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
