"""What a job will take, from shapes alone and before anything is loaded: the only place that adds it up.

What tensors weigh follows from their shapes. What Python with torch holds, how many copies are about at the worst
moment, and what the allocator keeps was measured (CPU build of torch); tests/core/test_estimate.py holds the sum to
within a fifth of real runs. Time is that of a like job in the store, else not known. No torch in here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.job import Estimate, Known
from tasks.models import describe_config, is_hub_id, resolve

#: Python, torch, transformers and Celery, before anything of the job is loaded.
RUNNER = 365 << 20

FLOAT = 4

#: As in tasks.activations: tokens of one forward pass, and the buffer of vectors. As in tasks.sae.metrics: a slice.
_FORWARD_TOKENS, _BUFFER_BATCHES, _BUFFER_BYTES, _SLICE = 4096, 16, 512 << 20, 2048
#: As in tasks.kinds.train: what is measured on. As in tasks.sae.baselines: numbers in its largest tensor.
_HELD_OUT_SHARE, _HELD_OUT_VECTORS, _HELD_OUT_NUMBERS = 0.1, 32768, 1 << 25
_BASELINE_NUMBERS = 1 << 23

#: Vectors as long as the residual stream that a token has at the worst moment of a forward pass.
_VECTORS_A_TOKEN = 12
#: An SAE in training: its weights, their gradient, the gradient to come, and Adam's two moments.
_COPIES_IN_TRAINING = 5
#: Held-out vectors at the worst moment of the comparison with PCA: three sets of them, and what is made of those.
_COPIES_IN_PCA, _COPIES_HELD = 12, 3
#: Matrices of float64 at the worst moment of the comparison with random directions.
_MATRICES = 4
#: A checkpoint has weights and two moments; the new one is written before the old one goes.
CHECKPOINTS = 2 * 3

_NEWEST = 50


@dataclass(frozen=True)
class ModelShape:
    """What of a model matters here: the length of its residual stream, its parameters, its vocabulary."""

    d_model: int
    parameters: int
    vocab: int | None = None


def of_training(
    known: Known, model: str, dataset: str, *, arch: str, k: int, width: int | None, expansion: int, batch: int
) -> Estimate:
    """Memory and disk of the training of an SAE; nothing is known while its model's shape is not."""
    shape = shape_of_model(known, model)
    if shape is None:
        return Estimate()
    d_in, d_sae = shape.d_model, width or expansion * shape.d_model
    parameters = 2 * d_in * d_sae + d_sae + d_in
    active = k if arch == "topk" else d_in
    held_out = _held_out(tokens_in(known, dataset), d_in)
    lasting = shape.parameters + _COPIES_IN_TRAINING * parameters + _buffer(d_in, batch) + _codes(arch, batch, d_sae)
    training = _FORWARD_TOKENS * _VECTORS_A_TOKEN * d_in
    pca = _COPIES_IN_PCA * held_out * d_in
    random = _COPIES_HELD * held_out * d_in + _random_directions(min(active, d_in - 1), d_in, d_sae, held_out)
    measuring = max(pca, random) + 3 * min(_SLICE, held_out) * d_sae
    memory = RUNNER + FLOAT * (lasting + max(training, measuring))
    return Estimate(memory_bytes=memory, disk_bytes=FLOAT * (1 + CHECKPOINTS) * parameters)


def shape_of_model(known: Known, model: str) -> ModelShape | None:
    """The shape of a model on this machine or of a toy that will be made; None for any other."""
    if "/" not in model and known.coming("models", model):
        kind, params = known.coming_from("models", model)
        return shape_of_toy(params["width"], params["layers"], params["vocab"]) if kind == "toy-model" else None
    folder = resolve(model, known)
    told = None if is_hub_id(folder) else describe_config(model, known)
    weights = 0 if told is None else sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    if not told or not told["d_model"] or not weights:
        return None
    return ModelShape(told["d_model"], weights // _bytes_a_parameter(Path(folder)), told["vocab_size"])


def shape_of_toy(width: int, layers: int, vocab: int) -> ModelShape:
    """The shape of a toy model: twelve square matrices a block, and the embeddings in and out."""
    return ModelShape(width, 12 * width * width * layers + 2 * vocab * width, vocab)


def tokens_in(known: Known, name: str) -> int | None:
    """How many tokens that artifact holds; None for one that is not there yet."""
    if known.manifest("tokens", name) is None:
        return None
    told = json.loads((known.path("tokens", name) / "tokens.json").read_text(encoding="utf-8"))
    return told["rows"] * told["context"]


def seconds_like_earlier(
    known: Known, family: str, amount: float, is_like: Callable[[dict[str, Any]], bool]
) -> float | None:
    """The time for that many tokens at the pace of the newest artifact whose parameters are alike; else None."""
    for manifest in _newest_first(known, family):
        pace = manifest.get("result", {}).get("tokens_per_s")
        if pace and is_like(manifest.get("params", {})):
            return amount / pace
    return None


def _newest_first(known: Known, family: str) -> Iterator[dict[str, Any]]:
    paths = known.path(family, "any").parent.glob("*/manifest.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:_NEWEST]:
        yield _read_manifest(path, path.stat().st_mtime_ns)


@lru_cache(2 * _NEWEST)
def _read_manifest(path: Path, _changed_at: int) -> dict[str, Any]:
    """A manifest as it was at that time; the jobs of a sweep all look at the same ones."""
    return json.loads(path.read_text(encoding="utf-8"))


def _held_out(tokens: int | None, d_in: int) -> int:
    """Vectors that are kept to measure on; as many as there can be when the tokens are not there yet."""
    most = min(_HELD_OUT_VECTORS, _HELD_OUT_NUMBERS // d_in)
    return most if tokens is None else min(most, int(tokens * _HELD_OUT_SHARE))


def _buffer(d_in: int, batch: int) -> int:
    batches = max(1, min(_BUFFER_BATCHES, _BUFFER_BYTES // (FLOAT * d_in * batch)))
    return batches * batch * d_in


def _codes(arch: str, batch: int, d_sae: int) -> int:
    """The buffers that a step's codes are written to: one of a whole batch, or two of a part of it."""
    return 2 * min(batch, 1024) * d_sae if arch == "standard" else batch * d_sae


def _random_directions(active: int, d_in: int, d_sae: int, held_out: int) -> int:
    """Numbers at the worst moment of the comparison with random directions that have so many of them active."""
    vectors = min(held_out, max(1, _BASELINE_NUMBERS // max(d_sae, active * d_in)))
    return d_sae * d_in + vectors * (2 * active * d_in + 2 * _MATRICES * active * active)


def _bytes_a_parameter(folder: Path) -> int:
    """By what its configuration says of the weights' precision; on a CPU each becomes a float32."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    words = str(told.get("dtype") or told.get("torch_dtype") or "float32")
    return 2 if words in ("float16", "bfloat16") else FLOAT
