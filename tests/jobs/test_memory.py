"""A training holds what was estimated beforehand, however many stored activations it reads; `make soak` reads 50 M."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tasks.activations.storage import ShardWriter
from tasks.jobs.record import Job
from tests.conftest import PATIENCE_S
from tests.fixtures.stack import Stack
from tests.jobs.test_estimate import (
    add_model,
    add_tokens,
    close_to,
    estimated,
    most_held,
    published,
    start_measured_worker,
)

CONTEXT = 128
DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))
#: Rows of a small and of a large artifact, both with more than is ever held out, and the length of a vector.
ROWS, D_IN = ((2_600, 390_625), 8) if DEEPER else ((2_600, 16_000), 32)
#: What a dense architecture's flags are.
STANDARD = {"arch": "standard", "l1": 0.1}


def add_activations(stack: Stack, name: str, rows: int, d_in: int) -> int:
    """Stored activations as a reading would leave them, and how many bytes they are."""
    params = {"model": "model", "dataset": "words", "layer": 0, "hook": "resid", "skip_bos": False}
    folder = published(stack, "activations", name, params=params, result={"d_in": d_in, "vectors": rows * CONTEXT})
    writer = ShardWriter(stack.folder / f"draft-{name}", np.full(rows, CONTEXT, np.int32), CONTEXT, d_in, "float32")
    for shard in range(writer.shards):
        writer.write(shard, vectors(len(writer.rows_of(shard)), d_in, shard), lambda written: None)
    about = {"model": "model", "tokens": "words", "hook_name": "blocks.0.hook_resid_post", "hook_module": "layers.0"}
    left_out = {"first": False, "ids": [], "pad": None}
    writer.finish(folder, **about, left_out=left_out, dtype="float32", context=CONTEXT)
    return rows * CONTEXT * d_in * 4


def vectors(rows: int, d_in: int, seed: int) -> Iterator[torch.Tensor]:
    drawn = torch.randn(64 * CONTEXT, d_in, generator=torch.Generator().manual_seed(seed))
    for start in range(0, rows, 64):
        yield drawn[: min(64, rows - start) * CONTEXT]


def peak(stack: Stack, job: Job) -> int:
    return most_held(stack, job, 3000.0 if DEEPER else PATIENCE_S)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flags", [{"arch": "topk", "k": 8}, STANDARD][: 1 + DEEPER], ids=lambda flags: flags["arch"])
def test_the_memory_of_a_training_does_not_grow_with_what_it_reads(stack: Stack, flags: dict[str, Any]) -> None:
    sizes = [add_activations(stack, name, rows, D_IN) for name, rows in zip(("small", "large"), ROWS, strict=True)]
    start_measured_worker(stack)
    held = []
    for name, rows, size in zip(("small", "large"), ROWS, sizes, strict=True):
        job = stack.submit(
            "train", name=name, activations=name, tokens=rows * CONTEXT, batch=2048, expansion=4, **flags
        )
        before = estimated(stack, job)
        held.append(peak(stack, job))
        result = f"{rows * CONTEXT:,} vectors in {size:,} bytes; held at most {held[-1]:,}"
        print(f"{flags['arch']}: {result}, estimated {before.memory_bytes:,}")
        ended = stack.ended(job)
        assert ended.result is not None, ended
        assert ended.result["steps"] * 2048 >= rows * CONTEXT
        assert before.memory_bytes == close_to(held[-1])
    assert held[1] - held[0] < (sizes[1] - sizes[0]) / 4


def test_the_memory_of_a_dense_training_is_known_within_a_fifth_too(stack: Stack) -> None:
    add_model(stack, "model", 128)
    add_tokens(stack, "words", 8000)
    start_measured_worker(stack)
    sizes = {"steps": 10, "batch": 1024, "expansion": 16, "eval_tokens": 2048}
    job = stack.submit("train", model="model", dataset="words", layer=0, **sizes, **STANDARD)
    assert estimated(stack, job).memory_bytes == close_to(most_held(stack, job))


def test_the_memory_of_a_training_on_large_batches_in_parts_is_known_within_a_fifth_too(stack: Stack) -> None:
    batch, d_in = 65_536, 256
    add_activations(stack, "stored", 1_200, d_in)
    start_measured_worker(stack)
    sizes = {"batch": batch, "accumulate": 64, "k": 8, "expansion": 2}
    job = stack.submit("train", activations="stored", steps=4, **sizes)
    result = estimated(stack, job).memory_bytes
    assert result is not None
    assert result == close_to(peak(stack, job))
    one = 4 * batch * d_in
    assert (
        result - estimated(stack, dataclasses.replace(job, params=job.params | {"batch": 1024})).memory_bytes > 2 * one
    )
