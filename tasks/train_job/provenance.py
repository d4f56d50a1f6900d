"""What an SAE's metadata say of its model and text, in the words by which SAELens finds both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.models.loading import is_store_name, names_hub, split_revision
from tasks.sae.formats.foreign_sae import HOOKED, TRANSFORMERS
from tasks.sae.formats.hooked_transformer_ids import HOOKED_MODELS
from tasks.text.dataset_ref import is_hub_id

if TYPE_CHECKING:
    from tasks.activations.hooks import HookPoint
    from tasks.storage.store import Store

#: From a set of tokens to the corpus: more steps than any chain of artifacts has.
_LONGEST_CHAIN = 8
_PARTS = ("config", "split", "column")


def of_model(
    model: str,
    points: Sequence[HookPoint],
    written: Sequence[HookPoint],
    store: Store | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Which model, where it is, what loads it, and torch's name of the `dtype` that it ran in, where that is known.

    `model` is a Hub id, a folder's path, or a name in the store.

    transformers' hooks catch what modules give: a hook on what one is given has no name there.
    """
    is_stored = store is not None and is_store_name(model) and store.find_manifest("models", model) is not None
    kind = "store" if is_stored else "local" if model.startswith("/") else "hub" if names_hub(model) else "store"
    name, revision = split_revision(model) if kind == "hub" else (model, None)
    found: dict[str, Any] = {"model_name": name, "model_source": kind}
    if revision is not None:
        found["model_revision"] = revision
    if dtype is not None:
        found["model_dtype"] = dtype
    found["model_class_name"] = HOOKED if name in HOOKED_MODELS else TRANSFORMERS
    for way, hooks in (("", points), ("_out", written)):
        if hooks and not hooks[0].input:
            found[f"hf_hook_name{way}"] = hooks[0].module
    return found


def of_text(store: Store, tokens: str) -> dict[str, Any]:
    """Which text the store's `tokens` were made of: the Hub id or path it was read from, and what was read of it."""
    family, name = "tokens", tokens
    for _ in range(_LONGEST_CHAIN):
        manifest = store.find_manifest(family, name) or {}
        params = manifest.get("params", {})
        if family == "datasets" and params.get("source"):
            source = str(params["source"])
            read = {key: params[key] for key in _PARTS if params.get(key) is not None}
            kind = "hub" if is_hub_id(source) else "local"
            return {"dataset_path": source, "dataset_source": {"kind": kind, "tokens": tokens, **read}}
        made_from = manifest.get("made_from", {}).get("dataset")
        if made_from is None:
            break
        family, _, name = made_from.partition("/")
    return {"dataset_path": tokens, "dataset_source": {"kind": "store", "tokens": tokens}}
