"""Language models: the only place a model reference is resolved, described and loaded.

A reference is the name of a model in the store, a local folder written by `save_pretrained`, or a Hugging Face Hub id
`owner/name`. Weights are read from safetensors only and no code from a model's folder is ever run. torch and
transformers are imported when a model is loaded, so asking what a reference is stays cheap.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.job import Known
from tasks.problem import Problem

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SLUG_LENGTH = 60

#: What is fetched from the Hub. Folders below (onnx, original, …) and Mistral's second copy are left there.
_SMALL_FILES = ["*.json", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]
_LEFT_THERE = ["*/*", "consolidated*"]


class Shelf(Protocol):
    """The part of the store that finding a model needs."""

    def path(self, family: str, name: str) -> Path:
        """Where that artifact is or would be."""


def look_up(reference: str, known: Known) -> tuple[str, dict[str, Any] | None]:
    """What to write into a job's record for a reference given at submit time, and `describe_config` of it.

    A store model stays a name, a folder becomes an absolute path, a Hub id stays. The description is None also for a
    model that a job has yet to make. Raises Problem as `resolve` does.
    """
    if _STORE_NAME.fullmatch(reference):
        if known.manifest("models", reference) is not None:
            return reference, describe_config(reference, known)
        if known.coming("models", reference):
            return reference, None
    resolved = resolve(reference, known)
    return resolved, describe_config(resolved, known)


def resolve(reference: str, store: Shelf) -> str:
    """The absolute folder of a store model or a local model, else the Hub id itself.

    Raises Problem for a folder that holds no model and for a word that is none of the three.
    """
    if _STORE_NAME.fullmatch(reference) and (store.path("models", reference) / "manifest.json").is_file():
        return str(store.path("models", reference))
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise Problem(f"{reference!r} holds no config.json, so it is not a model folder.")
        return str(folder.absolute())
    if _HUB_ID.fullmatch(reference):
        return reference
    raise Problem(
        f"{reference!r} is no model in the store, no folder here, and no Hub id like owner/name.",
        "Give a model folder or a Hub id, or make a model: mistudio submit toy-model --help",
    )


def is_hub_id(resolved: str) -> bool:
    """Whether what `resolve` answered is a Hub id rather than a folder."""
    return _HUB_ID.fullmatch(resolved) is not None


def model_slug(reference: str) -> str:
    """The reference as part of an artifact's name; two folders of the same name get different slugs."""
    folder = Path(reference).expanduser()
    is_folder = folder.is_dir() and "/" in reference
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name if is_folder else reference.replace("/", "--"))
    slug = text.strip("-._")[:_SLUG_LENGTH] or "model"
    return f"{slug}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:6]}" if is_folder else slug


def describe_config(reference: str, store: Shelf) -> dict[str, Any] | None:
    """What a local model's config.json says, or None for a Hub id.

    Keys: `n_layers`, `d_model`, `vocab_size`, `context` (longest input in tokens) and `model_type`; None where the
    file does not say. Raises Problem as `resolve` does, and for an unreadable file.
    """
    resolved = resolve(reference, store)
    if is_hub_id(resolved):
        return None
    try:
        config = json.loads((Path(resolved) / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise Problem(f"The config.json of model {reference!r} cannot be read: {error}.") from error
    config = {**config, **config.get("text_config", {})}
    return {
        "n_layers": _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "d_model": _first(config, "hidden_size", "n_embd", "d_model", "dim"),
        "vocab_size": _first(config, "vocab_size"),
        "context": _first(config, "max_position_embeddings", "n_positions", "max_seq_len"),
        "model_type": _first(config, "model_type"),
    }


def check_layer(model: str, told: dict[str, Any], layer: int) -> None:
    """Raise Problem for a layer that the model does not have; `told` is `describe_config` of it, empty if not known."""
    layers = told.get("n_layers")
    if layers is not None and layer >= layers:
        raise Problem(f"{model} has no layer {layer}: its layers are 0 to {layers - 1}.")


def _first(config: dict[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def load_model(reference: str, store: Shelf, device: str = "cpu") -> PreTrainedModel:
    """The language model in evaluation mode, without gradients, on `device`.

    A causal language model where its family has one, else the encoder alone, as of DistilBERT. float32 on the CPU,
    where half precision is many times slower; the checkpoint's own precision elsewhere. Raises Problem when the model
    cannot be had, and for one with a decoder beside its encoder, which reads two texts.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a job's log is no terminal
    folder = _fetch(reference, store, weights=True)
    dtype = torch.float32 if device == "cpu" else "auto"
    local = {"trust_remote_code": False, "local_files_only": True}
    with _told(reference):
        config = AutoConfig.from_pretrained(folder, **local)
        if config.is_encoder_decoder:
            raise Problem(f"{reference} has an encoder and a decoder; only models with one of them are read.")
        made_by: Any = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
        model: Any = made_by.from_pretrained(folder, dtype=dtype, use_safetensors=True, **local)
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(reference: str, store: Shelf) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises Problem when it cannot be had."""
    from transformers import AutoTokenizer

    folder = _fetch(reference, store, weights=False)
    with _told(reference):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of a causal LM's transformer blocks and its module path, such as `gpt_neox.layers`.

    It is the outermost ModuleList with as many members as the configuration says there are hidden layers.
    Raises Problem when there is none.
    """
    from torch import nn

    count = model.config.get_text_config().num_hidden_layers
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        raise Problem(f"The {count} layers of a {type(model).__name__} were not found.")
    return min(found, key=lambda item: item[0].count("."))


def _fetch(reference: str, store: Shelf, weights: bool) -> str:
    """The folder with the model's files, fetched from the Hub first if they are not on this machine."""
    resolved = resolve(reference, store)
    if not is_hub_id(resolved):
        return resolved
    from huggingface_hub import snapshot_download

    patterns = _SMALL_FILES + (_WEIGHTS if weights else [])
    with _told(reference):
        folder = snapshot_download(resolved, allow_patterns=patterns, ignore_patterns=_LEFT_THERE)
    if weights and not any(Path(folder).glob("*.safetensors")):
        raise Problem(f"{reference} has no weights as safetensors, the only format read here.")
    return folder


@contextmanager
def _told(reference: str) -> Iterator[None]:
    """Turn what the libraries raise about a model into one sentence."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from safetensors import SafetensorError

    try:
        yield
    except GatedRepoError as error:
        raise Problem(f"{reference} is gated on the Hub.", "Accept its terms there and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise Problem(
            f"The Hub has no model {reference}, or it is private.", "Check the name; for a private one set HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise Problem(
            f"{reference} is not on this machine and the Hub cannot be reached.",
            "Check the network, or give the path of a local model folder",
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise Problem(f"The model {reference} cannot be loaded: {first_line}") from error
