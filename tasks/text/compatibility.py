"""Whether tokens fit a model and an SAE: their ids, the tokenizer that made them, whether rows begin with BOS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.text.tokenizer_file import read_tokenizer
from tasks.text.tokens import TokensInfo, largest_id, read_info

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Models of these types need BOS, whatever their tokenizer's files say. On Gemma 3 270M the cross-entropy of text is
#: 5.06 nats without and 3.25 nats with it.
_NEED_BOS = ("gemma",)

_TOKENIZE = "submit tokenize --dataset DATASET"


def check_ids(tokens: Path, model: str, vocab_size: int | None) -> None:
    """Raise UserError for tokens, in that folder, with ids that the model does not have."""
    needed = read_info(tokens).ids_needed
    if vocab_size is not None and needed > vocab_size:
        raise UserError(
            f"tokens/{tokens.name} contain ids up to {needed - 1}, but {model} has {vocab_size} tokens.",
            f"Tokenize the dataset for this model: mistudio {_TOKENIZE} --model {model}",
        )


def check_tokenizer_file(tokens: Path, model: str, file: Path) -> None:
    """Raise UserError for tokens that another tokenizer made than that of `file`, a tokenizer.json that may be absent.

    Tokenizers are the same when each id up to the largest that occurs stands for the same token.
    """
    info = read_info(tokens)
    if not info.vocabulary_sha256 or not file.is_file() or info.tokenizer_sha256 == file_sha256(file):
        return
    check_tokenizer(tokens, model, read_tokenizer(file, model))


def check_tokenizer(tokens: Path, model: str, tokenizer: Tokenizer) -> None:
    """The same for a tokenizer that is loaded; tokens made before this was recorded are compared by their own copy."""
    from tasks.text.tokenizers import vocabulary_sha256

    info, copy = read_info(tokens), tokens / "tokenizer" / "tokenizer.json"
    largest, made_by = info.max_id, info.vocabulary_sha256
    if made_by is None:
        if not copy.is_file():
            return
        largest = largest_id(tokens)
        made_by = vocabulary_sha256(read_tokenizer(copy, "the tokens"), largest)
    if largest is not None and made_by != vocabulary_sha256(tokenizer, largest):
        raise UserError(
            f"tokens/{tokens.name} were made with another tokenizer than that of {model}: the same ids are other text.",
            f"Tokenize the dataset for this model: mistudio {_TOKENIZE} --model {model}",
        )


def check_bos(tokens: Path, model: str, model_type: str | None, allow_no_bos: bool) -> None:
    """Raise UserError for tokens without BOS where the model's tokenizer puts it before every text.

    Tokens made before this was recorded are judged by the copy of the tokenizer beside them.
    """
    info = read_info(tokens)
    if info.bos != "none" or allow_no_bos:
        return
    if _begins_texts(tokens, info) or (model_type or "").startswith(_NEED_BOS):
        raise UserError(
            f"{model} reads texts that begin with BOS, and the rows of tokens/{tokens.name} do not.",
            f"Make others: mistudio {_TOKENIZE} --model {model} --name NAME; or give --allow-no-bos",
        )


def check_bos_of_sae(sae: str, metadata: Mapping[str, Any], data: str, bos: str, allow_no_bos: bool) -> None:
    """Raise UserError where an SAE was trained on rows that begin with BOS and these do not, or the other way round.

    `metadata` are the SAE's, whose `prepend_bos` may be absent; `bos` is that of the tokens or activations `data`.
    """
    prepend_bos = metadata.get("prepend_bos")
    if prepend_bos is True and bos != "row" and not allow_no_bos:
        raise UserError(
            f"saes/{sae} was trained on rows that begin with BOS, and those of {data} do not.",
            f"Make others: mistudio {_TOKENIZE} --model MODEL --bos row --name NAME; or give --allow-no-bos",
        )
    if prepend_bos is False and bos == "row":
        raise UserError(
            f"saes/{sae} was trained on rows without BOS, and those of {data} begin with it.",
            f"Make others: mistudio {_TOKENIZE} --model MODEL --bos no --name NAME",
        )


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _begins_texts(tokens: Path, info: TokensInfo) -> bool:
    """Whether the tokenizer that made the tokens puts something before a text."""
    if info.bos_ids is not None:
        return bool(info.bos_ids)
    copy = tokens / "tokenizer" / "tokenizer.json"
    if not copy.is_file():
        return False
    from tokenizers import Tokenizer

    from tasks.text.tokenizers import ids_before_text

    return bool(ids_before_text(Tokenizer.from_file(str(copy))))
