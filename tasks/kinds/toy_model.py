"""`toy-model`: a tiny language model and its tokenizer, trained from scratch on a corpus; for demos and tests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, Estimate, JobKind, Request, option
from tasks.jobs.stop_grace import record_stop_time

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from tasks.models.toy_lm import ToyTraining

#: More text than this teaches a toy nothing more.
_CORPUS_BYTES = 32 << 20
_SAVE_EVERY_S = 10.0
#: Rows of a step, as in tasks.models.toy_lm.
_ROWS = 16


@dataclass(frozen=True)
class Params:
    """The corpus, the shape, the length. The defaults: 1.6 million parameters, trained for about 75 s on 2 cores."""

    dataset: str = option(help="A dataset in the store, a file or folder, or a Hub id", artifact="datasets")
    layers: int = option(4, help="Transformer blocks", minimum=1)
    width: int = option(128, flag="--d-model", help="Width of the residual stream, a multiple of 32", minimum=32)
    vocab: int = option(3072, help="Vocabulary size of the byte-level BPE", minimum=257)
    context: int = option(128, flag="--context-length", help="Context length (tokens per sequence)", minimum=8)
    steps: int = option(600, help="Training steps, 16 sequences each", minimum=1)
    seed: int = option(0, help="Random seed of weights and data order", minimum=0)


def default_name(params: Params) -> str:
    """The dataset's name and what it is."""
    from tasks.text.dataset_ref import slug

    return f"toy-{slug(params.dataset)}"


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Find the dataset, or ask for its download first."""
    from tasks.text.dataset_ref import resolve_dataset

    if params.width % 32:
        raise UserError(f"--d-model must be a multiple of 32, not {params.width}.")
    dataset, requests = resolve_dataset(params.dataset, known)
    return dataclasses.replace(params, dataset=dataset), requests


def estimate(params: Params, known: Catalog) -> Estimate:
    """Disk by the shape, for the moment when a checkpoint replaces another; time by a like one in the store."""
    from tasks.models.size_estimate import CHECKPOINT, FLOAT, seconds_like_earlier, shape_of_toy

    alike, tokens = ("layers", "width", "vocab", "context"), params.steps * _ROWS * params.context
    seconds = seconds_like_earlier(
        known, "models", tokens, lambda earlier: all(earlier.get(key) == getattr(params, key) for key in alike)
    )
    shape = shape_of_toy(params.width, params.layers, params.vocab)
    return Estimate(seconds, None, 2 * CHECKPOINT * shape.parameters * FLOAT)


def resume_point(workdir: Path) -> str | None:
    """The step in the checkpoint of `tasks.models.toy_lm`."""
    from tasks.parsing.tensor_files import read_notes

    notes = read_notes(workdir / "checkpoint.safetensors")
    return f"step {notes['step']}" if notes else None


KIND = JobKind(
    "toy-model",
    queue="training",
    params=Params,
    summary="Train a tiny language model and its tokenizer from scratch",
    module=__name__,
    produces="models",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
    resume_point=resume_point,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Train, resuming from the newest checkpoint, and save as `save_pretrained` does."""
    from tasks.models.cpu_backend import choose
    from tasks.models.toy_lm import CHECKPOINT, ToyConfig, ToyTraining, make_model
    from tasks.text.tokenizers import end_of_text, save_tokenizer

    choose(context.device)
    corpus = context.store.path("datasets", params.dataset)
    tokenizer = _tokenizer(params, context, corpus)
    stream = _stream(params, context, corpus, tokenizer)
    recipe = ToyConfig(params.layers, params.width, len(tokenizer), params.context, params.steps, seed=params.seed)
    training = ToyTraining(make_model(recipe, end_of_text(tokenizer)), recipe, context.device)
    if not training.resume(context.workdir) and (context.workdir / CHECKPOINT).exists():
        context.note("starts from scratch: its checkpoint is damaged")
    first, began = training.step, time.monotonic()
    _train(training, stream, context)
    seconds = time.monotonic() - began
    training.model.save_pretrained(context.output)
    save_tokenizer(tokenizer, context.output)
    trained = (training.step - first) * recipe.batch * recipe.context
    return {
        "mean_loss": round(sum(training.losses) / len(training.losses), 4),
        "steps": training.step,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "vocab": len(tokenizer),
        "tokens_per_s": round(trained / seconds),
    }


def _train(training: ToyTraining, stream: torch.Tensor, context: Context) -> None:
    """Run to the last step, saving on the way and when asked to stop."""
    saved_at = time.monotonic()

    def after_step() -> None:
        nonlocal saved_at
        if context.stopping() or time.monotonic() - saved_at > _SAVE_EVERY_S:
            began = time.monotonic()
            training.save(context.workdir)
            saved_at = time.monotonic()
            record_stop_time(context.workdir, saved_at - began)
        context.metrics(training.step, {"loss": training.losses[-1]})
        context.progress("training", training.step, training.recipe.steps, "steps")

    context.progress("training", training.step, training.recipe.steps, "steps")
    training.run(stream, after_step)
    training.save(context.workdir)


def _tokenizer(params: Params, context: Context, corpus: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an earlier attempt, else a new one kept for the next."""
    from transformers import PreTrainedTokenizerFast

    from tasks.text.tokenizers import save_tokenizer, train_bpe

    kept = context.workdir / "tokenizer"
    if not kept.exists():
        context.progress("learning the vocabulary", 0, None, "documents")
        draft = context.workdir / "tokenizer.part"
        draft.mkdir(exist_ok=True)
        save_tokenizer(train_bpe(_text(corpus), params.vocab), draft)
        draft.rename(kept)
    return PreTrainedTokenizerFast.from_pretrained(kept)


def _stream(params: Params, context: Context, corpus: Path, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The corpus as one stream of int32 token ids: (tokens,)."""
    import numpy as np
    import torch

    from tasks.text.encoding import TextEncoder
    from tasks.text.packing import by_size

    encoder, parts = TextEncoder(tokenizer), []
    for group in _text(corpus):
        parts += [encoder.encode(batch).astype(np.int32) for batch in by_size(group)]
        context.progress("tokenizing", sum(map(len, parts)), None, "tokens")
    stream = np.concatenate(parts)
    if len(stream) <= params.context:
        raise UserError(
            f"The dataset has only {len(stream)} tokens, less than one row of {params.context}.",
            "Give a larger dataset or a smaller --context-length",
        )
    return torch.from_numpy(stream)


def _text(corpus: Path) -> Iterator[list[str]]:
    """Documents up to a bounded amount of text."""
    from tasks.text.corpus import read_corpus

    size = 0
    for group in read_corpus(corpus):
        yield group
        size += sum(map(len, group))
        if size > _CORPUS_BYTES:
            return
