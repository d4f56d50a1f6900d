"""Checks an SAE's files before anything is published or used: the configuration's types, and each tensor's shape.

Nothing is drawn or allocated for what does not fit: shapes are compared with the files' headers first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.lazy_import import torch
from tasks.parsing.position_slices import positions_of
from tasks.parsing.tensor_files import describe, load_tensors, shown
from tasks.sae.architectures import coder_class, names
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.foreign_sae import OWN_NAME

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

_MOST = 1 << 31
_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < _MOST


def _is_place(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and value.removeprefix("torch.") in _DTYPES


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_exclusion(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and all(_is_place(item) for item in value))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_Rule = tuple[Callable[[Any], bool], str]
_SIZE, _PLACE, _TEXT, _FLAG = (
    (_is_size, "a whole number above 0"),
    (_is_place, "a whole number from 0"),
    (_is_text, "a text"),
    (_is_flag, "true or false"),
)
#: What each field of `cfg.json` must be where it is there; those of the metadata may also be null.
_CONFIG: dict[str, _Rule] = {
    **dict.fromkeys(("d_in", "d_sae", "d_out", "blocks"), _SIZE),
    **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), _FLAG),
    "architecture": _TEXT,
    "dtype": (_is_dtype, f"one of {', '.join(_DTYPES)}"),
    "metadata": (_is_object, "an object"),
}
_METADATA: dict[str, _Rule] = {
    **dict.fromkeys(("model_name", "hook_name", "hook_name_out", "hook_module", "hook_module_out"), _TEXT),
    **dict.fromkeys(("dataset_path", "model_class_name", "hf_hook_name", "hf_hook_name_out", "trained_as"), _TEXT),
    **dict.fromkeys((OWN_NAME, f"{OWN_NAME}_out", "model_source", "model_revision", "bos"), _TEXT),
    **dict.fromkeys(("hook_layer", "hook_layer_out"), _PLACE),
    "context_size": _SIZE,
    "training_tokens": (_is_count, "a whole number from 0"),
    **dict.fromkeys(("hook_names", "hook_modules"), (_is_texts, "a list of texts")),
    "prepend_bos": _FLAG,
    "exclude_special_tokens": (_is_exclusion, "true, false or a list of token ids"),
    "model_from_pretrained_kwargs": (_is_object, "an object"),
}


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for a field of an SAE's description, or of its metadata, that is not what it must be.

    `path` is the file it was read from, or would be written to. Fields that are not there are not missed.
    """
    _check_fields(config, _CONFIG, path, may_be_null=False)
    about = config.get("metadata", {})
    _check_fields(about, _METADATA, path, may_be_null=True)
    _check_slice(about.get("seqpos_slice"), path)
    if len(about.get("hook_names") or []) != len(about.get("hook_modules") or about.get("hook_names") or []):
        raise UserError(f"{path}: hook_names and hook_modules have different lengths.")


def _check_fields(fields: Mapping[str, Any], rules: Mapping[str, _Rule], path: Path, may_be_null: bool) -> None:
    for name, (holds, expected) in rules.items():
        if name in fields and not holds(fields[name]) and not (may_be_null and fields[name] is None):
            raise UserError(f"{path}: {name} is {shown(fields[name])}, expected {expected}.")


def _check_slice(value: Any, path: Path) -> None:
    try:
        positions_of(value)
    except UserError as problem:
        raise UserError(f"{path}: {problem.sentence}") from problem


def require(config: Mapping[str, Any], fields: Iterable[str], path: Path) -> None:
    """Raise UserError where a field is not there."""
    if missing := [name for name in fields if name not in config]:
        raise UserError(f"{path} has no {', '.join(missing)}.")


def saved_architectures() -> list[str]:
    """The architectures that a saved SAE may have; the others are ways of training."""
    return sorted({coder_class(name).saved_as for name in names()})


def check_architecture(name: str, path: Path) -> None:
    """Raise UserError for an architecture that no saved SAE has."""
    if name not in (known := saved_architectures()):
        raise UserError(f"There is no SAE architecture {shown(name)} ({path}).", f"Architectures: {', '.join(known)}")


def check_shape(config: CoderConfig, path: Path) -> None:
    """Raise UserError for a shape that no saved SAE has."""
    k = getattr(config.options, "k", None)
    if k is not None and k > config.d_sae:
        raise UserError(f"{path}: k is {k}, but the SAE has {config.d_sae} features.")
    if config.d_in % config.blocks or (config.d_out or config.d_in) % config.blocks:
        raise UserError(f"{path}: vectors of {config.d_in} numbers cannot be those of {config.blocks} layers.")


def expected_shapes(config: CoderConfig) -> Shapes:
    """The saved tensors of an SAE with their shapes, as SAELens lays them out."""
    d_in, d_sae, d_out = config.d_in, config.d_sae, config.d_out or config.d_in
    special: Shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    found = {name: special.get(name, (d_sae,)) for name in coder_class(config.architecture).parameter_names}
    return {**found, "W_skip": (d_out, d_in)} if config.skip else found


def load_exactly(path: Path, expected: Shapes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, float32: exactly these names and shapes, every number finite.

    Raises UserError that names the file, the tensor, and what was found and expected.
    """
    check_shapes({name: stored.shape for name, stored in describe(path).items()}, expected, path)
    return in_single(load_tensors(path), path)


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Shapes, path: Path) -> None:
    """Raise UserError unless these are the names and shapes that are expected."""
    if missing := sorted(set(expected) - set(found)):
        raise UserError(f"{path} has no {', '.join(missing)} among its weights.")
    if extra := sorted(set(found) - set(expected)):
        raise UserError(f"{path} has {shown(', '.join(extra))} among its weights, which is not known of such an SAE.")
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise UserError(f"{path}: tensor {name} has shape {shown(tuple(found[name]))}, expected {shape}.")


def in_single(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same tensors as float32. Raises UserError for one with a number that is not finite there."""
    made = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    for name, tensor in made.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: tensor {name} holds NaN or infinite numbers.")
    return made
