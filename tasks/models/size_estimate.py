"""Estimates for a job before anything is loaded: the shapes of models and tokens, and the throughput of earlier jobs.

Time is that of a like job in the store, else not known. No torch in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.jobs.kind import Catalog
from tasks.models.loading import describe_config, is_hub_id, is_store_name, resolve
from tasks.models.model_config import mlp_shape, read_config
from tasks.models.model_dtype import FLOAT32, dtype_in_files, expected
from tasks.models.model_files import check_weights
from tasks.parsing.documents import read_json_object

#: Bytes of a number.
FLOAT = 4
#: Copies of the weights in a checkpoint: they and Adam's two moments. A new one is written before an old one goes.
CHECKPOINT = 3

_NEWEST = 50


@dataclass(frozen=True)
class ModelShape:
    """What of a model matters here: the length of its residual stream, its parameters, its vocabulary."""

    d_model: int
    parameters: int
    vocab: int | None = None
    in_files: str = FLOAT32  # torch's name of the dtype of most of them
    mlp: tuple[int, int] | None = None  # the widths of its MLPs' products

    def bytes_on(self, device: str, word: str) -> int:
        """What its parameters hold on "cpu" or "cuda" if the job was submitted with that word of --model-dtype."""
        is_whole = expected(word, self.in_files, self.mlp, device) == FLOAT32
        return (FLOAT if is_whole else FLOAT // 2) * self.parameters


def shape_of_model(known: Catalog, model: str) -> ModelShape | None:
    """The shape of a model on this machine or of a toy that will be made; None for any other: a guess would mislead."""
    if is_store_name(model) and known.is_pending("models", model):
        kind, params = known.pending_params("models", model)
        return shape_of_toy(params["width"], params["layers"], params["vocab"]) if kind == "toy-model" else None
    folder = resolve(model, known)
    config = None if is_hub_id(folder) else describe_config(model, known)
    if not config or not config["d_model"]:
        return None
    saved = check_weights(Path(folder), model)
    parameters, mlp = (
        sum(tensor.numbers for tensor in saved.values()),
        mlp_shape(read_config(Path(folder), model), config["d_model"]),
    )
    if not parameters:
        return None
    return ModelShape(config["d_model"], parameters, config["vocab_size"], dtype_in_files(saved), mlp)


def weights_in(folder: Path) -> int:
    """Bytes of the tensors saved in that folder; 0 when there is none."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def shape_of_toy(width: int, layers: int, vocab: int) -> ModelShape:
    """The shape of a toy model, saved in float32: twelve square matrices a block, and the embeddings in and out."""
    return ModelShape(width, 12 * width * width * layers + 2 * vocab * width, vocab)


def shape_of_tokens(known: Catalog, name: str) -> tuple[int, int] | None:
    """How many rows of how many tokens that artifact holds; None for one that is not there yet."""
    if known.manifest("tokens", name) is None:
        return None
    description = read_json_object(known.path("tokens", name) / "tokens.json")
    return description["rows"], description["context"]


def seconds_like_earlier(
    known: Catalog, family: str, amount: float, is_like: Callable[[dict[str, Any]], bool]
) -> float | None:
    """The time for that many tokens at the pace of the newest artifact whose parameters are alike; else None."""
    for manifest in _newest_first(known, family):
        result = manifest.get("result", {})
        pace = result.get("tokens_per_s")
        if pace and _is_of_most_steps(result) and is_like(manifest.get("params", {})):
            return amount / pace
    return None


def _is_of_most_steps(result: dict[str, Any]) -> bool:
    """Whether a pace, which is that of the last attempt, is that of half of the steps or more.

    An attempt that resumes reads much before its first step: over a few steps that is most of its time.
    """
    steps = result.get("steps", 0)
    return 2 * result.get("steps_in_last_attempt", steps) >= steps


def _newest_first(known: Catalog, family: str) -> Iterator[dict[str, Any]]:
    paths = known.path(family, "any").parent.glob("*/manifest.json")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:_NEWEST]:
        yield _read_manifest(path, path.stat().st_mtime_ns)


@lru_cache(2 * _NEWEST)
def _read_manifest(path: Path, _changed_at: int) -> dict[str, Any]:
    """A manifest as it was at that time; the jobs of a sweep all look at the same ones."""
    return read_json_object(path, strict=False)
