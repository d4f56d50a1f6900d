"""Language models: model references resolved, described and loaded.

A reference is the name of a model in the store, a local folder written by `save_pretrained`, or a Hugging Face Hub id:
`owner/name`, or `name` alone as of the oldest models, and `@revision` behind it for a branch, a tag or a commit.
Weights are read from safetensors only and no code from a model's folder is ever run. What config.json and the weights
hold is checked before it is used: see `model_config`, `model_files` and `model_weights`. torch and transformers are
imported when a model is loaded, so asking what a reference is stays cheap.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.errors import UserError
from tasks.jobs.kind import Catalog
from tasks.jobs.short_names import shortened
from tasks.models.model_config import describe, is_encoder_decoder, mlp_shape, read_config, refuse_what_cannot_be_loaded
from tasks.models.model_dtype import BF16, FLOAT32, OWN, Wanted, choose, dtype_in_files, refuse_slow
from tasks.models.model_errors import hub_translated, translated
from tasks.models.model_files import Saved, check_weights
from tasks.models.model_weights import check_loaded, check_size, lacks_its_head_only
from tasks.text.dataset_ref import is_mistyped_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("mistudio.models")

_WORD = r"[A-Za-z0-9][\w.-]{0,95}"
_HUB_ID = re.compile(rf"(?P<repo>(?:{_WORD}/)?{_WORD})(?:@(?P<revision>(?!.*\.\.)[A-Za-z0-9][\w./-]{{0,199}}))?")
#: The Hub's oldest models, which have no owner; no others came after them. With a revision any name may be meant.
_OWNERLESS = re.compile(
    r"(albert|bert|camembert|ctrl|distilbert|distilgpt2|distilroberta|gpt2|openai-gpt|roberta|t5|transfo-xl|xlm|xlnet)"
    r"(-[\w-]+)?"
)
_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SLUG_LENGTH, _TIMEOUT_S = 60, "10"

#: What is fetched from the Hub. Folders below (onnx, original, …) and Mistral's second copy are left there.
_SMALL_FILES = ["*.json", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]
_LEFT_THERE = ["*/*", "consolidated*"]


class ModelCatalog(Protocol):
    """The part of the store that finding a model needs."""

    def path(self, family: str, name: str) -> Path:
        """Where that artifact is or would be."""


def look_up(reference: str, known: Catalog, readable: bool = False) -> tuple[str, dict[str, Any] | None]:
    """What to write into a job's record for a reference given at submit time, and `describe_config` of it.

    A store model stays a name, a folder becomes an absolute path, a Hub id stays. The description is None also for a
    model that a job has yet to make. Raises UserError as `resolve` does; with `readable` also for a local model whose
    weights cannot be loaded here.
    """
    is_name = is_store_name(reference)
    is_stored = is_name and known.manifest("models", reference) is not None
    if is_name and not is_stored and known.is_pending("models", reference):
        return reference, None
    if readable:
        check_readable(reference, known)
    return reference if is_stored else resolve(reference, known), describe_config(reference, known)


def resolve(reference: str, store: ModelCatalog) -> str:
    """The absolute folder of a store model or a local model, else the Hub id itself, with its revision.

    Raises UserError for a folder that holds no model and for a word that is none of the three.
    """
    if is_store_name(reference) and (store.path("models", reference) / "manifest.json").is_file():
        return str(store.path("models", reference))
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{reference!r} holds no config.json, so it is not a model folder.")
        return str(folder.absolute())
    if names_hub(reference):
        return reference
    raise UserError(
        f"{reference!r} is not a model: tried the store, a local folder, and the Hub (owner/name).",
        "Give a model folder or a Hub id, or make a model: mistudio submit toy-model --help",
    )


def _is_no_hub_id(reference: str) -> bool:
    """Whether a word of that form is rather a path that leads nowhere, or to a file; one with a revision is not."""
    if "@" in reference:
        return False
    if "/" in reference:
        return is_mistyped_path(reference)
    return _OWNERLESS.fullmatch(reference) is None or Path(reference).exists()


def is_hub_id(resolved: str) -> bool:
    """Whether what `resolve` answered is a Hub id rather than a folder."""
    return _HUB_ID.fullmatch(resolved) is not None


def names_hub(reference: str) -> bool:
    """Whether a reference that is neither a path nor a name in the store is one of the Hub's."""
    return is_hub_id(reference) and not _is_no_hub_id(reference)


def is_store_name(reference: str) -> bool:
    """Whether a reference can be the name of a model in the store."""
    return _STORE_NAME.fullmatch(reference) is not None


def split_revision(reference: str) -> tuple[str, str | None]:
    """A Hub id as repository and revision; None where none is given, which means the main branch."""
    found = _HUB_ID.fullmatch(reference)
    return (found["repo"], found["revision"]) if found else (reference, None)


def model_slug(reference: str) -> str:
    """The reference as part of an artifact's name; two folders of the same name get different slugs."""
    folder = Path(reference).expanduser()
    is_folder = folder.is_dir() and "/" in reference
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name if is_folder else reference.replace("/", "--"))
    slug = shortened(text.strip("-._"), _SLUG_LENGTH) or "model"
    return f"{slug}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:6]}" if is_folder else slug


def describe_config(reference: str, store: ModelCatalog) -> dict[str, Any] | None:
    """What a local model's config.json says, or None for a Hub id.

    Keys: `n_layers`, `d_model`, `vocab_size`, `context` (longest input in tokens) and `model_type`; None where the
    file does not say. Raises UserError as `resolve` does, for an unreadable file, and for one that says what cannot be.
    """
    resolved = resolve(reference, store)
    return None if is_hub_id(resolved) else _described(Path(resolved), reference)


def _described(folder: Path, reference: str) -> dict[str, Any]:
    config = read_config(folder, reference)
    refuse_what_cannot_be_loaded(config, reference)
    return describe(config, reference)


def check_layer(model: str, shape: dict[str, Any], layer: int) -> None:
    """Raise UserError for a layer the model does not have; `shape` is its `describe_config`, empty if unknown."""
    layers = shape.get("n_layers")
    if layers is not None and layer >= layers:
        raise UserError(f"{model} has no layer {layer}: its layers are 0 to {layers - 1}.")


def check_readable(reference: str, store: ModelCatalog) -> None:
    """Raise UserError, at submit time, for a local model that `load_model` would refuse by its files."""
    resolved = resolve(reference, store)
    if not is_hub_id(resolved):
        _check_files(Path(resolved), reference)


def _check_files(folder: Path, reference: str) -> dict[str, Saved]:
    layers = _described(folder, reference)["n_layers"]
    if is_encoder_decoder(read_config(folder, reference)):
        raise UserError(f"{reference} has an encoder and a decoder; only models with one of them are read.")
    return check_weights(folder, reference, layers)


def check_dtype(word: str, reference: str, known: Catalog) -> None:
    """Raise UserError, at submit time, for bf16 where jobs run on this machine's CPU and the model is slower in it
    there.

    Nothing is known of a model that is not on this machine yet, and for other words torch is not even imported.
    """
    if word != BF16 or not known.jobs_run_on_this_cpu():
        return
    is_made_later = is_store_name(reference) and known.manifest("models", reference) is None
    if not is_made_later and not is_hub_id(resolved := resolve(reference, known)):
        refuse_slow(_mlp_in(Path(resolved), reference), "cpu", reference)


def _mlp_in(folder: Path, reference: str) -> tuple[int, int] | None:
    return mlp_shape(read_config(folder, reference), _described(folder, reference)["d_model"])


def load_model(reference: str, store: ModelCatalog, device: str = "cpu", dtype: Wanted = OWN) -> PreTrainedModel:
    """The language model in evaluation mode, without gradients, on `device`, in the dtype of
    `tasks.models.model_dtype`.

    A causal language model where its family has one and the weights have its head, else the model without a head.
    Raises UserError when the model cannot be had, for one with a decoder beside its encoder, which reads two texts, for
    weights that are missing, of another shape, quantized or no numbers, and for bf16 where it is slower or impossible.
    A family of which some parts are float32 whatever is asked for, such as XLNet, runs in float32 as a whole.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM

    from tasks.models.blocks import fault_of

    folder = _fetch(reference, store, weights=True)
    saved = _check_files(Path(folder), reference)
    chosen = choose(dtype, dtype_in_files(saved), _mlp_in(Path(folder), reference), device, reference)
    log.info("%s runs in %s: %s", reference, chosen.dtype, chosen.reason)
    with translated(f"The model {reference} cannot be loaded"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if config.is_encoder_decoder:
        raise UserError(f"{reference} has an encoder and a decoder; only models with one of them are read.")
    has_head = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not has_head and type(config) not in MODEL_MAPPING:
        raise UserError(f"{reference} is of type {config.model_type!r}, which is no model by itself in transformers.")
    made_by = AutoModelForCausalLM if has_head else AutoModel
    check_size(made_by, config, saved, reference)
    model = _whole(made_by, folder, reference, saved, chosen.dtype).to(device)
    if chosen.dtype == FLOAT32 or (fault := fault_of(model)) is None:
        return model
    if dtype.word == BF16:
        raise UserError(f"{reference} cannot run in {chosen.dtype}: {fault}", "Leave --model-dtype out")
    log.info("%s runs in float32: it cannot in %s: %s", reference, chosen.dtype, fault)
    return _whole(made_by, folder, reference, saved, FLOAT32).to(device)


def _whole(made_by: Any, folder: str, reference: str, saved: dict[str, Saved], dtype: str) -> Any:
    """The checked model on the CPU, in that dtype, without a head where none is saved."""
    from transformers import AutoModel

    model, info = _read(made_by, folder, reference, dtype)
    if lacks_its_head_only(model, info):
        model, info = _read(AutoModel, folder, reference, dtype)
    check_loaded(model, info, saved, reference)
    return model.eval().requires_grad_(False)


def _read(made_by: Any, folder: str, reference: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    """The model of that class and dtype on the CPU, and the keys that transformers found missing and so on."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a job's log is no terminal
    with translated(f"The model {reference} cannot be loaded"):
        return made_by.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named, and refused
        )


def load_tokenizer(reference: str, store: ModelCatalog) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises UserError when it cannot be had."""
    from transformers import AutoTokenizer

    folder = _fetch(reference, store, weights=False)
    with translated(f"The tokenizer of {reference} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    names = {*tokenizer.vocab_files_names.values()} - {"tokenizer_config.json"}
    if names and not any((Path(folder) / name).is_file() for name in names) and not _other_vocabularies(Path(folder)):
        raise UserError(  # transformers makes one up then, of a few special tokens, for which all text is nothing
            f"{reference} has no tokenizer: there is none of {', '.join(sorted(names))}.",
            "Give the model that it was trained from, or copy its tokenizer there",
        )
    return tokenizer


def _other_vocabularies(folder: Path) -> list[Path]:
    return [path for pattern in ("*.model", "*.tiktoken", "tekken.json") for path in folder.glob(pattern)]


def _fetch(reference: str, store: ModelCatalog, weights: bool) -> str:
    """The folder with the model's files, fetched from the Hub first if they are not on this machine."""
    resolved = resolve(reference, store)
    if not is_hub_id(resolved):
        return resolved
    repo, revision = split_revision(resolved)
    patterns = _SMALL_FILES + (_WEIGHTS if weights else [])
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _TIMEOUT_S)
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _TIMEOUT_S)
    from huggingface_hub import snapshot_download

    with hub_translated(reference):
        return snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=_LEFT_THERE)
