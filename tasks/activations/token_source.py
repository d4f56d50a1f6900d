"""The tokens that a job reads with a model: found in the store, or made by a prerequisite job; refused on a
mismatch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.jobs.kind import Catalog, Request, kind_named
from tasks.jobs.prerequisites import exists_or_pending
from tasks.models.loading import resolve
from tasks.text.compatibility import check_bos, check_ids, check_tokenizer_file
from tasks.text.dataset_ref import local_path, resolve_dataset
from tasks.text.source_state import refuse_if_changed, refuse_if_of_earlier, state_of

#: Context length of tokens made for a job, if the model can read that many.
_CONTEXT = 128


def find_tokens(
    dataset: str, model: str, config: dict[str, Any], known: Catalog, allow_no_bos: bool = False
) -> tuple[str, list[Request]]:
    """The name of the tokens to read, and the jobs that make them where they are not there.

    `dataset` is tokens, or whatever a dataset can be; `config` is `describe_config` of the model, empty when it is not
    known yet. Raises UserError for tokens that do not fit the model and for a dataset that is nothing.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", dataset):
        if known.manifest("tokens", dataset) is not None:
            check_known(known.path("tokens", dataset), model, config, known, allow_no_bos)
            return dataset, []
        if known.is_pending("tokens", dataset):
            return dataset, []
    path = local_path(dataset)
    dataset, requests = resolve_dataset(dataset, known)
    kind = kind_named("tokenize")
    values = {"dataset": dataset, "model": model, "context": min(_CONTEXT, config.get("context") or _CONTEXT)}
    name = kind.default_name(kind.read_params(values)) if kind.default_name else dataset
    wanted = Request("tokenize", name, values)
    if not exists_or_pending(wanted, known):
        return name, [*requests, wanted]
    if known.manifest("tokens", name) is not None:
        if path is not None and requests and state_of(known.manifest("datasets", dataset)) is None:
            refuse_if_changed(path, "tokens", name, known)
        refuse_if_of_earlier(name, dataset, known)
        check_known(known.path("tokens", name), model, config, known, allow_no_bos)
    return name, []


def check_known(tokens: Path, model: str, described: dict[str, Any], known: Catalog, allow_no_bos: bool) -> None:
    """Raise UserError for tokens that do not fit a model, as far as that is known before the model is loaded."""
    check_ids(tokens, model, described.get("vocab_size"))
    if described:
        check_tokenizer_file(tokens, model, Path(resolve(model, known)) / "tokenizer.json")
    check_bos(tokens, model, described.get("model_type"), allow_no_bos)
