"""`tokenize`: a corpus to packed rows of a model's tokens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.jobs.kind import Catalog, Context, Estimate, JobKind, Request, option
from tasks.parsing.redact import HUB_SECRETS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.text.tokens import TokenWriter

#: Approximate bytes of text per token.
_BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class Params:
    """Which corpus, whose tokenizer, how long a row."""

    dataset: str = option(help="A dataset in the store, a file or folder, or a Hub id", artifact="datasets")
    model: str = option(
        help="The model whose tokenizer is used: in the store, a folder, or a Hub id (ID@REVISION)", artifact="models"
    )
    context: int = option(
        128, flag="--context-length", help="Context length (tokens per sequence), BOS included", minimum=2
    )
    bos: str = option(
        "auto",
        help="Where to add BOS: each row, each document, or nowhere; auto: rows if the tokenizer adds BOS",
        choices=("auto", "row", "document", "no"),
    )


def default_name(params: Params) -> str:
    """The dataset, the model, the context, and where BOS goes if that was chosen."""
    from tasks.jobs.short_names import LONGEST_NAME, shortened
    from tasks.models.loading import model_slug
    from tasks.text.dataset_ref import slug

    dataset, model = shortened(slug(params.dataset), 50), shortened(model_slug(params.model), 40)
    bos = "" if params.bos == "auto" else f"-bos-{params.bos}"
    return shortened(f"{dataset}-{model}-{params.context}{bos}", LONGEST_NAME)


def prepare(params: Params, known: Catalog) -> tuple[Params, list[Request]]:
    """Find the dataset (or ask for its download) and the model; refuse a context the model cannot read."""
    from tasks.models.loading import look_up
    from tasks.text.dataset_ref import resolve_dataset

    dataset, requests = resolve_dataset(params.dataset, known)
    model, description = look_up(params.model, known)
    longest = (description or {}).get("context")
    if longest and params.context > longest:
        raise UserError(
            f"--context-length {params.context} is more than {params.model} can read: {longest} tokens.",
            f"Give --context-length {longest} or less",
        )
    return dataclasses.replace(params, dataset=dataset, model=model), requests


def estimate(params: Params, known: Catalog) -> Estimate:
    """Disk by the size of the corpus; time by a tokenization with the same tokenizer in the store."""
    from tasks.models.size_estimate import seconds_like_earlier, shape_of_model

    written = ((known.manifest("datasets", params.dataset) or {}).get("result") or {}).get("bytes")
    if written is None:
        return Estimate()
    shape, tokens = shape_of_model(known, params.model), written // _BYTES_A_TOKEN
    seconds = seconds_like_earlier(known, "tokens", tokens, lambda earlier: earlier.get("model") == params.model)
    width = None if shape is None or shape.vocab is None else 2 if shape.vocab <= 1 << 16 else 4
    return Estimate(seconds, None, None if width is None else tokens * width)


KIND = JobKind(
    "tokenize",
    queue="processing",
    params=Params,
    summary="Tokenize a corpus and pack it into fixed-length sequences",
    module=__name__,
    secrets=HUB_SECRETS,
    produces="tokens",
    default_name=default_name,
    prepare=prepare,
    estimate=estimate,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Write the packed rows and a copy of the tokenizer; documents are joined by the end-of-text token."""
    from tasks.models.loading import load_tokenizer
    from tasks.models.model_commit import commit_record
    from tasks.text.encoding import TextEncoder
    from tasks.text.packing import Packer
    from tasks.text.source_state import state_of
    from tasks.text.tokenizers import bos_ids, save_tokenizer

    context.progress("tokenizing", 0, None, "documents")
    tokenizer = load_tokenizer(params.model, context.store)
    bos, ids = bos_ids(tokenizer, params.bos)
    encoder = TextEncoder(tokenizer, ids if bos == "document" else ())
    packer, documents, began = Packer(params.context, ids if bos == "row" else ()), 0, time.monotonic()
    with _writer(context.output, params.context, tokenizer, bos, ids) as writer:
        for batch, total in _batches(context.store.path("datasets", params.dataset)):
            writer.append(packer.push(encoder.encode(batch)))
            documents += len(batch)
            context.progress("tokenizing", documents, total, "documents")
    dropped, tokens = len(packer.tail), writer.rows * params.context
    if not tokens:
        raise UserError(
            f"The dataset has only {dropped} tokens, less than one row of {params.context}.",
            "Give a smaller --context-length or a larger dataset",
        )
    save_tokenizer(tokenizer, context.output / "tokenizer")
    seconds = time.monotonic() - began
    return {
        "tokens": tokens,
        "rows": writer.rows,
        "documents": documents,
        "dropped_tokens": dropped,
        "bos": bos,
        "special_tokens_in_text": encoder.special_tokens_in_text,
        "tokens_per_s": round((tokens + dropped) / seconds),
        "source_state": state_of(context.store.find_manifest("datasets", params.dataset)),
        **commit_record(tokenizer),
    }


def _writer(
    folder: Path, context: int, tokenizer: PreTrainedTokenizerBase, bos: str, ids: tuple[int, ...]
) -> TokenWriter:
    """What writes the rows, and describes them by their tokenizer."""
    from tasks.text.compatibility import file_sha256
    from tasks.text.tokenizers import begin_and_pad, end_of_text, rust_tokenizer, vocabulary_sha256, vocabulary_size
    from tasks.text.tokens import TokenWriter

    fast, file = rust_tokenizer(tokenizer), Path(tokenizer.name_or_path) / "tokenizer.json"
    return TokenWriter(
        folder,
        context,
        vocabulary_size(tokenizer),
        end_of_text(tokenizer),
        *begin_and_pad(tokenizer),
        bos=bos,
        bos_ids=ids,
        digest=lambda largest: vocabulary_sha256(fast, largest),
        tokenizer_sha256=file_sha256(file) if file.is_file() else None,
    )


def _batches(corpus: Path) -> Iterator[tuple[list[str], int]]:
    """Documents in batches of bounded size, each with the number of documents in all."""
    from tasks.text.corpus import count_rows, read_corpus
    from tasks.text.packing import by_size

    total = count_rows(corpus)
    for group in read_corpus(corpus):
        for batch in by_size(group):
            yield batch, total
