"""Forward passes to a hook at half depth in float32 and in bfloat16, of a random GPT-NeoX of pythia-70m's shape.

Each round runs both dtypes one after the other on the same 4096 tokens; the figures are medians of five rounds.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.whole_job import Job, model_of
from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.stream import FORWARD_TOKENS, read
from tasks.models.cpu_backend import chosen

ROUNDS, CONTEXTS = 5, (64, 128, 256, 1024)


def measure() -> list[dict[str, Any]]:
    """A row for each context length, with how far the activations differ (relative error, L2)."""
    return rows(Job(context=max(CONTEXTS)), CONTEXTS)


def rows(job: Job, contexts: Sequence[int]) -> list[dict[str, Any]]:
    """The same for a model of another shape."""
    torch.manual_seed(0)
    model = model_of(job)
    half = copy.deepcopy(model).bfloat16()
    with chosen():
        return [_row(job, [model, half], context) for context in contexts]


def _row(job: Job, models: list[Any], context: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(job.vocabulary, size=(FORWARD_TOKENS // context, context))
    seconds: list[list[float]] = [[] for _ in models]
    found: list[torch.Tensor] = []
    for _ in range(ROUNDS + 1):
        found = []
        for model, times in zip(models, seconds, strict=True):
            point = find(model, Hook("resid", job.layer))
            began = time.perf_counter()
            found += read(model, ids, [point])
            times.append(time.perf_counter() - began)
    in32, in16 = (statistics.median(times[1:]) for times in seconds)
    whole, rounded = found
    return {
        "context": context,
        "float32 ms": round(1e3 * in32),
        "bfloat16 ms": round(1e3 * in16),
        "ratio": round(in32 / in16, 2),
        "relative error": round(float((rounded - whole).norm() / whole.norm()), 4),
    }
