"""The tokens that a job wants to read with a model: found in the store, or asked for; refused when they do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tasks.job import Known, Request, kind_named
from tasks.problem import Problem
from tasks.text.naming import resolve_dataset

#: Tokens in a row of those that are made for a job, if the model can read so many.
_CONTEXT = 128


def find_tokens(dataset: str, model: str, told: dict[str, Any], known: Known) -> tuple[str, list[Request]]:
    """The name of the tokens to read, and the jobs that make them where they are not there.

    `dataset` is tokens, or whatever a dataset can be; `told` is `describe_config` of the model, empty when it is not
    known yet. Raises Problem for tokens that the model does not have and for a dataset that is nothing.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", dataset):
        if known.manifest("tokens", dataset) is not None:
            check_vocabulary(known.path("tokens", dataset), model, told.get("vocab_size"))
            return dataset, []
        if known.coming("tokens", dataset):
            return dataset, []
    dataset, requests = resolve_dataset(dataset, known)
    kind = kind_named("tokenize")
    values = {"dataset": dataset, "model": model, "context": min(_CONTEXT, told.get("context") or _CONTEXT)}
    name = kind.default_name(kind.read_params(values)) if kind.default_name else dataset
    if known.manifest("tokens", name) is not None or known.coming("tokens", name):
        return name, []
    return name, [*requests, Request("tokenize", name, values)]


def check_vocabulary(tokens: Path, model: str, vocab_size: int | None) -> None:
    """Raise Problem for tokens, in that folder, with ids that the model does not have."""
    used = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))["vocab_size"]
    if vocab_size is not None and used > vocab_size:
        raise Problem(
            f"The tokens {tokens.name} come from a vocabulary of {used}, but {model} has {vocab_size} tokens.",
            f"Tokenize the dataset for this model: mistudio submit tokenize --model {model}",
        )
