"""What is estimated of a job beforehand, held against what a real worker's runner then holds and writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.jobs.kind import Estimate, kind_named
from tasks.jobs.record import Job, State
from tasks.storage import attempts
from tasks.submission.plan import ArtifactCatalog, plan
from tasks.text.tokens import TokenWriter
from tests.conftest import PATIENCE_S
from tests.fixtures.stack import Stack

CONTEXT = 64


def add_model(stack: Stack, name: str, width: int, vocabulary: int = 997, dtype: torch.dtype = torch.float32) -> None:
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4 * width}
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt_neox", **sizes, vocab_size=vocabulary, bos_token_id=0, eos_token_id=0)
    folder = published(stack, "models", name)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)


def add_tokens(stack: Stack, name: str, rows: int, context: int = CONTEXT) -> None:
    with TokenWriter(published(stack, "tokens", name), context, 997) as writer:
        writer.append(np.random.default_rng(0).integers(997, size=(rows, context)))


def published(stack: Stack, family: str, name: str, **result: Any) -> Path:
    folder = stack.store.path(family, name)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"name": name, **result}))
    return folder


def estimated(stack: Stack, job: Job) -> Estimate:
    kind = kind_named(job.kind)
    assert kind.estimate is not None
    return kind.estimate(kind.read_params(job.params), ArtifactCatalog(stack.ledger, stack.store))


#: Bytes that a runner's libraries hold more or less than estimated: they have other code for other processors.
LIBRARIES = 50_000_000


def close_to(held: int) -> Any:
    """What an estimate shall be equal to where a runner held that many bytes: within a fifth, but for the libraries."""
    return pytest.approx(held, abs=0.2 * held + LIBRARIES)


def start_measured_worker(stack: Stack) -> None:
    """A worker whose runners write how much they held at most, before they record the end of their job.

    A look at them from outside may come too late, and once the end is recorded they may be killed.
    """
    folder = stack.folder / "most-held"
    folder.mkdir()
    stack.start_worker(OMP_NUM_THREADS="1", MOST_HELD=str(folder))


def most_held(stack: Stack, job: Job, seconds: float = 2 * PATIENCE_S) -> int:
    """The most the job's runner ever held: its PSS if no other process maps the same libraries, as here others may."""
    ended = stack.ended(job, seconds)
    assert ended.state is State.SUCCEEDED, f"{ended}\n{stack.log()}"
    return int((stack.folder / "most-held" / job.id).read_text()) << 10


@pytest.mark.parametrize(
    ("width", "rows", "flags"),
    [
        (16, 200, {"batch": 256, "k": 4, "expansion": 4}),
        (128, 8000, {"batch": 1024, "k": 16, "expansion": 64, "eval_tokens": 2048}),
    ],
)
def test_the_memory_of_a_training_is_known_within_a_fifth_before_it_starts(
    stack: Stack, width: int, rows: int, flags: dict[str, Any]
) -> None:
    add_model(stack, "model", width)
    add_tokens(stack, "words", rows)
    start_measured_worker(stack)
    job = stack.submit("train", model="model", dataset="words", layer=0, steps=10, **flags)
    before = estimated(stack, job)
    assert before.memory_bytes == close_to(most_held(stack, job))
    weights = (stack.store.path("saes", job.name) / "sae_weights.safetensors").stat().st_size
    assert before.disk_bytes == pytest.approx(9 * weights, rel=0.2)


def test_the_memory_of_a_transcoder_with_a_way_past_its_features_is_known_too(stack: Stack) -> None:
    add_model(stack, "model", 256)
    add_tokens(stack, "words", 1000)
    start_measured_worker(stack)
    wired = {"hook": "mlp-in", "target": "mlp", "skip": True, "layer": 1}
    sizes = {"batch": 16384, "accumulate": 16, "k": 8, "expansion": 4, "steps": 3, "eval_tokens": 2048}
    job = stack.submit("train", model="model", dataset="words", **wired, **sizes)
    before = estimated(stack, job)
    assert before.memory_bytes == close_to(most_held(stack, job))
    weights = (stack.store.path("saes", job.name) / "sae_weights.safetensors").stat().st_size
    assert before.disk_bytes == pytest.approx(9 * weights, rel=0.01)


def test_the_memory_of_several_trained_together_is_known_too(stack: Stack) -> None:
    add_model(stack, "model", 128)
    add_tokens(stack, "words", 8000)
    start_measured_worker(stack)
    several = {"layer": [0, 1], "k": [8, 16]}
    sizes = {"steps": 10, "batch": 1024, "expansion": 32, "eval_tokens": 1024}
    job = stack.submit("train", model="model", dataset="words", together=several, **sizes)
    before = estimated(stack, job)
    assert before.memory_bytes == close_to(most_held(stack, job))
    folders = [stack.store.root / artifact for artifact in job.artifacts]
    weights = sum((folder / "sae_weights.safetensors").stat().st_size for folder in folders)
    assert before.disk_bytes == pytest.approx(7 * weights, rel=0.2)


def test_what_a_model_with_a_large_vocabulary_predicts_is_known_too(stack: Stack) -> None:
    add_model(stack, "model", 16, vocabulary=200_000)
    add_tokens(stack, "words", 40, context=512)
    start_measured_worker(stack)
    sizes = {"batch": 256, "k": 4, "expansion": 4, "steps": 2, "eval_tokens": 512}
    job = stack.submit("train", model="model", dataset="words", layer=0, evaluate=1, **sizes)
    before, unmeasured = (
        estimated(stack, dataclasses.replace(job, params=job.params | {"evaluate": n})) for n in (1, 0)
    )
    assert before.memory_bytes - unmeasured.memory_bytes > 2 * 512 * 200_000 * 4
    assert before.memory_bytes == close_to(most_held(stack, job))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_memory_of_a_model_in_bfloat16_is_known_too(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    add_model(stack, "model", 256, vocabulary=200_000, dtype=torch.bfloat16)
    add_tokens(stack, "words", 200)
    monkeypatch.setattr("tasks.models.bfloat16.has_units", lambda: dtype == "bfloat16")
    job = stack.submit("activations", model="model", dataset="words", layer=0)
    begun = attempts.begin(stack.store, job.id, 1, "7e57")  # as if an attempt on such a machine had begun
    (begun / "model-dtype.txt").write_text(dtype)
    start_measured_worker(stack)
    before = estimated(stack, job)
    assert before.memory_bytes == close_to(most_held(stack, job))
    assert stack.ended(job).result["model_dtype"] == dtype


def test_the_model_that_a_planned_job_will_make_counts_as_if_it_were_there(stack: Stack) -> None:
    known = ArtifactCatalog(stack.ledger, stack.store)
    published(stack, "datasets", "text")
    plan(known, "toy-model", {"dataset": "text", "width": 64, "layers": 3, "vocab": 500}, name="toy")
    *_, job = plan(known, "train", {"model": "toy", "dataset": "text", "layer": 1, "batch": 256})
    kind = kind_named("train")
    small = kind.estimate(kind.read_params(job.params), known)
    large = kind.estimate(kind.read_params({**job.params, "expansion": 64}), known)
    assert small.memory_bytes < large.memory_bytes
    assert small.disk_bytes == 9 * 4 * (2 * 64 * 512 + 512 + 64)


def test_what_cannot_be_known_is_none(stack: Stack) -> None:
    job = Job("x", "train", "x", "training", {"model": "owner/model", "dataset": "words", "layer": 0})
    assert estimated(stack, job) == Estimate()
    assert estimated(stack, dataclasses.replace(job, kind="extract", params={"sae": "none"})) == Estimate()


def test_time_is_that_of_a_like_job_in_the_store(stack: Stack) -> None:
    add_model(stack, "model", 16)
    add_tokens(stack, "words", 10)
    job = stack.submit("train", model="model", dataset="words", layer=0, tokens=1000, k=4)
    assert estimated(stack, job).seconds is None
    published(stack, "saes", "like", params=job.params | {"k": 5, "seed": 3}, result={"tokens_per_s": 50})
    published(stack, "saes", "unlike", params=job.params | {"batch": 1}, result={"tokens_per_s": 500})
    assert estimated(stack, job).seconds == 20
    again = stack.submit("train", "again", model="model", dataset="words", layer=0, tokens=1000, k=6)
    assert (job.estimate_s, again.estimate_s) == (None, 20), "and a submit records it"


def test_the_pace_of_an_attempt_that_made_only_the_last_of_the_steps_is_not_believed(stack: Stack) -> None:
    add_model(stack, "model", 16)
    add_tokens(stack, "words", 10)
    job = stack.submit("train", model="model", dataset="words", layer=0, tokens=1000, k=4)
    resumed = {"tokens_per_s": 50, "steps": 100, "steps_in_last_attempt": 49}
    published(stack, "saes", "resumed", params=job.params, result=resumed)
    assert estimated(stack, job).seconds is None
    published(stack, "saes", "early", params=job.params, result=resumed | {"steps_in_last_attempt": 50})
    assert estimated(stack, job).seconds == 20
