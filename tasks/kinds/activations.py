"""`activations`: what passes one hook of a model, over a corpus, as files to train many SAEs from."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.activations.hook_sites import SITES
from tasks.errors import UserError
from tasks.jobs.kind import RESUMABLE_ATTEMPTS, Catalog, Context, Estimate, JobKind, Request, option
from tasks.models.model_dtype import AUTO, CHOICES, HELP
from tasks.parsing.redact import HUB_SECRETS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from tasks.activations.storage import ShardWriter
    from tasks.activations.stream import ModelVectors

#: Bytes of a number in each type.
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Params:
    """Which model, where in it, on which tokens, how precisely."""

    model: str = option(help="A model in the store, a model folder, or a Hub id (ID@REVISION)", artifact="models")
    dataset: str = option(help="Tokens or a dataset in the store, a file or folder, or a Hub id", artifact="tokens")
    layer: int = option(help="Layer index, from 0", minimum=0, mark="l")
    hook: str = option(
        "resid",
        help="Hook point: resid (resid_post), mlp (mlp_out), attn (attn_out) or mlp-in",
        choices=SITES,
    )
    dtype: str = option(
        "bfloat16", help="dtype on disk; bfloat16 takes half the space of float32", choices=sorted(_BYTES)
    )
    max_tokens: int | None = option(None, help="Maximum tokens to read, evenly spread; default: all", minimum=1)
    skip_bos: bool = option(
        True, help="Skip BOS and the first token of each row, whose activation norms are far larger"
    )
    allow_no_bos: bool = option(False, help="Accept tokens without BOS for a model that expects it")
    model_dtype: str = option(AUTO, help=HELP, choices=CHOICES)
    compile: bool = option(False, help="Compile the model's blocks with torch.compile: starts later, then runs faster")


def default_name(params: Params) -> str:
    """Model, layer, hook and tokens."""
    from tasks.jobs.short_names import shortened
    from tasks.models.loading import model_slug
    from tasks.text.dataset_ref import slug

    model, dataset = shortened(model_slug(params.model), 45), shortened(slug(params.dataset), 40)
    return f"{model}-l{params.layer}-{params.hook}-{dataset}"


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Find the model and the tokens, or ask for the jobs that make them; refuse what cannot work."""
    from tasks.activations.token_source import find_tokens
    from tasks.models.loading import check_dtype, check_layer, look_up

    model, shape = look_up(params.model, known, readable=True)
    check_dtype(params.model_dtype, model, known)
    check_layer(model, shape or {}, params.layer)
    tokens, requests = find_tokens(params.dataset, model, shape or {}, known, params.allow_no_bos)
    return dataclasses.replace(params, model=model, dataset=tokens), requests


def estimate(params: Params, known: Catalog) -> Estimate:
    """Disk by the tokens that are read at most, memory by shapes; time by an earlier reading of the same model."""
    from tasks.models.size_estimate import seconds_like_earlier, shape_of_model, shape_of_tokens
    from tasks.sae.memory_estimate import of_reading, with_compiler

    shape = shape_of_model(known, params.model)
    rows = shape_of_tokens(known, params.dataset)
    limits = [tokens for tokens in (rows and math.prod(rows), params.max_tokens) if tokens is not None]
    tokens = min(limits, default=None)
    estimated = Estimate() if shape is None else of_reading(shape, rows, params.model_dtype)
    if params.compile:
        estimated = with_compiler(estimated)
    if tokens is None:
        return estimated
    alike = ("model", "layer", "hook")
    seconds = seconds_like_earlier(
        known, "activations", tokens, lambda earlier: all(earlier.get(key) == getattr(params, key) for key in alike)
    )
    disk = None if shape is None else tokens * shape.d_model * _BYTES[params.dtype]
    return dataclasses.replace(estimated, seconds=seconds, disk_bytes=disk)


KIND = JobKind(
    "activations",
    queue="extraction",
    params=Params,
    summary="Store a model's activations, to train many SAEs on them",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="activations",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
    max_attempts=RESUMABLE_ATTEMPTS,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Read shard after shard, resuming after those of an earlier attempt; then describe them."""
    from tasks.activations.hook_sites import Hook
    from tasks.activations.storage import ShardWriter
    from tasks.activations.stream import open_model
    from tasks.features.collect import choose_rows
    from tasks.models.cpu_backend import choose
    from tasks.models.model_commit import pin, pinned
    from tasks.models.model_dtype import keep, wanted

    choose(context.device)
    context.progress("loading", 0, None, "tokens")
    hooks, model = [Hook(params.hook, params.layer)], pinned(params.model, context.workdir)
    dtype = wanted(params.model_dtype, context.workdir, _shards(context).exists(), context.device)
    source = open_model(
        context.store, model, params.dataset, hooks, params.skip_bos, context.device, params.allow_no_bos, dtype
    )
    pin(source.model, context.workdir)
    keep(source.model, context.workdir, context.note)
    if params.compile:
        source.compile(context.workdir, context.note)
    numbers = choose_rows(*source.shape, params.max_tokens)
    counts, began = source.counts[numbers], time.monotonic()
    writer = ShardWriter(_shards(context), counts, source.shape[1], source.d_in, params.dtype)
    _check_space(writer)
    fresh = _write(writer, source, numbers, context)
    seconds = time.monotonic() - began
    info = writer.finish(
        context.output,
        model=params.model,
        tokens=params.dataset,
        hook_name=source.points[0].name,
        hook_module=source.points[0].module,
        left_out=dataclasses.asdict(source.mask),
        dtype=params.dtype,
        context=source.shape[1],
        bos=source.bos,
        model_dtype=source.model_dtype,
    )
    if not info.vectors:
        raise UserError("Every token is padding or left out: there is nothing to read.", "Use other tokens")
    return {
        "vectors": info.vectors,
        "rows": info.rows,
        "d_in": info.d_in,
        "mean_norm": info.mean_norm,
        "shards": writer.shards,
        "bytes": info.vectors * info.d_in * _BYTES[params.dtype],
        "tokens_per_s": round(fresh / seconds) if fresh else None,
        "hook": info.hook_module,
        **source.origin,
    }


def _shards(context: Context) -> Path:
    """Where the shards are until all are written."""
    return context.workdir / "shards"


def _check_space(writer: ShardWriter) -> None:
    """Raise UserError when the disk cannot hold what is still to be written, before hours have gone into it."""
    wanted, free = writer.missing_bytes(), shutil.disk_usage(writer.folder).free
    if wanted > free:
        raise UserError(
            f"The activations take {wanted / 1e9:.1f} GB more, and the store's disk has {free / 1e9:.1f} GB free.",
            "Give --max-tokens or --dtype bfloat16, or make room",
        )


def _write(writer: ShardWriter, source: ModelVectors, numbers: np.ndarray, context: Context) -> int:
    """Write the shards that are not there yet; how many vectors those have."""
    total, done, fresh = int(writer.counts.sum()), 0, 0
    for shard in range(writer.shards):
        rows = writer.rows_of(shard)
        size = int(writer.counts[rows.start : rows.stop].sum())
        if not writer.has(shard):

            def after_piece(written: int, before: int = done) -> None:
                context.progress("reading", before + written, total, "vectors")

            writer.write(shard, source.read(numbers[rows.start : rows.stop]), after_piece)
            fresh += size
        done += size
    return fresh
