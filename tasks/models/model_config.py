"""What a model's config.json says, validated: any JSON value can be at any key.

Read at submit time, so without torch and transformers. What cannot be loaded here is refused by its config alone.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import Malformed, read_json_object

#: Larger files are no configuration.
_LARGEST_FILE = 16 << 20
#: No count in a configuration is larger.
_LARGEST = 2**31 - 1

#: The names of each number, preferred one first.
_NAMES = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks", "decoder_layers"),
    "d_model": ("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_dim"),
    "vocab_size": ("vocab_size",),
}
#: The names of the width of an MLP's hidden layer; where none has a value it is four times the model's.
_MLP_NAMES = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "hidden_dim", "d_inner")
#: Sections that hold the language model's part of a configuration, as `get_text_config` of transformers reads them.
_SECTIONS = ("text_config", "decoder", "generator", "text_encoder")

#: Keys that say that the weights are quantized: transformers', compressed-tensors', MLX's.
_QUANTIZED = ("quantization_config", "compression_config", "quantization")
_FILE_OF_WEIGHTS = "transformers_weights"
#: Packages that transformers imports only when it builds a model of that type.
_PACKAGES = {"gemma3n": "timm", "timm_wrapper": "timm"}
_FLOATS = ("auto", "float64", "float32", "float16", "bfloat16")

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
#: Families that count no positions: recurrent ones, ALiBi, and relative positions without a bound.
_UNBOUNDED = {"bloom", "falcon_mamba", "mamba", "mamba2", "rwkv", "xlnet", "xlstm"}
#: Families whose positions begin after the padding token's id, so that fewer than `max_position_embeddings` are left.
_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
_PADDING = 1


def read_config(folder: Path, model: str) -> dict[str, Any]:
    """The config.json in the folder, with the text section's values in place of the outer ones.

    Raises UserError for a file that cannot be read, for one that is no object, and for a section that is none.
    """
    path = folder / "config.json"
    config = read_object(path, f"The config.json of model {model!r}")
    _refuse_without_package(config.get("model_type"), model)
    section = config.get("text_config")
    if section is not None and not isinstance(section, dict):
        raise _odd(model, "text_config", section, "an object")
    for name in _SECTIONS:
        if isinstance(config.get(name), dict):
            kept = {key: config[key] for key in (*_QUANTIZED, _FILE_OF_WEIGHTS) if config.get(key) is not None}
            return {**config, **config[name], **kept}  # a section cannot take back what the whole is refused for
    return config


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; `what` begins the sentence of the UserError when there is none."""
    try:
        return read_json_object(path, strict=False, largest=_LARGEST_FILE)
    except Malformed as malformed:
        where = "" if malformed.line is None else f"line {malformed.line}: "
        raise UserError(f"{what} cannot be read: {where}{malformed.reason}.") from malformed
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error}.") from error


def describe(config: dict[str, Any], model: str) -> dict[str, Any]:
    """The numbers that matter here: `n_layers`, `d_model`, `vocab_size`, `context` and `model_type`.

    None where the file does not say. Raises UserError for a value that cannot be what its key says.
    """
    numbers = {key: _whole(config, model, names) for key, names in _NAMES.items()}
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise _odd(model, "model_type", kind, "text")
    return {**numbers, "context": _context(config, model, kind), "model_type": kind}


def mlp_shape(config: dict[str, Any], d_model: int | None) -> tuple[int, int] | None:
    """The width of the model and of its MLPs' hidden layer; None where that of the model is not known."""
    if d_model is None:
        return None
    named = [config[name] for name in _MLP_NAMES if type(config.get(name)) is int and 0 < config[name] <= _LARGEST]
    return d_model, named[0] if named else 4 * d_model


def refuse_what_cannot_be_loaded(config: dict[str, Any], model: str) -> None:
    """Raise UserError for weights that are quantized, of no known type, or in a file of the configuration's choice."""
    for key in _QUANTIZED:
        if config.get(key) is not None:
            method = config[key].get("quant_method") if isinstance(config[key], dict) else None
            how = f" ({method})" if isinstance(method, str) else ""
            raise UserError(
                f"{model} is quantized{how}, by {key!r} in its config.json; only full weights are read here.",
                "Give the model that it was made from",
            )
    for key in ("dtype", "torch_dtype"):
        dtypes = config.get(key)
        for name in dtypes.values() if isinstance(dtypes, dict) else [dtypes]:
            if name is not None and (not isinstance(name, str) or name.removeprefix("torch.") not in _FLOATS):
                raise _odd(model, key, dtypes, f"one of {', '.join(_FLOATS[1:])}")
    if config.get(_FILE_OF_WEIGHTS) is not None:
        raise UserError(
            f"The config.json of {model} names a file of weights (transformers_weights), which is not followed.",
            "Save the model again with save_pretrained",
        )


def _refuse_without_package(kind: Any, model: str) -> None:
    package = _PACKAGES.get(kind) if isinstance(kind, str) else None
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"{model} is of type {kind!r}, which needs the package {package}; it is not installed here.",
            f"Install it where the workers run: pip install {package}",
        )


def is_encoder_decoder(config: dict[str, Any]) -> bool:
    """Whether the model reads two texts."""
    return config.get("is_encoder_decoder") is True


def _whole(config: dict[str, Any], model: str, names: tuple[str, ...], least: int = 1) -> int | None:
    """The number under the first of these names that has a value."""
    for name in names:
        value = config.get(name)
        if value is not None:
            if type(value) is not int or not least <= value <= _LARGEST:
                raise _odd(model, name, value, f"a whole number from {least} to {_LARGEST}")
            return value
    return None


def _context(config: dict[str, Any], model: str, kind: str | None) -> int | None:
    """The longest input in tokens that the model's positions allow; None where nothing bounds it."""
    if kind in _UNBOUNDED or config.get("alibi") is True:
        return None
    longest = _whole(config, model, _POSITIONS)
    is_shifted = kind in _AFTER_PADDING or (
        kind == "esm" and config.get("position_embedding_type") in (None, "absolute")
    )
    if longest is None or not is_shifted:
        return longest
    padding = _whole(config, model, ("pad_token_id",), least=0)
    left = longest - (_PADDING if padding is None else padding) - 1
    if left < 1:
        raise UserError(f"The config.json of model {model!r} leaves no positions: {longest} less those up to padding.")
    return left


def _odd(model: str, key: str, value: Any, wanted: str) -> UserError:
    shown = json.dumps(value) if not isinstance(value, dict | list) else f"a JSON {type(value).__name__}"
    shown = shown if len(shown) <= 60 else f"{shown[:60]} …"
    return UserError(f"The config.json of model {model!r} has {key} = {shown}; it must be {wanted}.")
