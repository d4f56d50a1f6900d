"""Checks a loaded model's weights: none may be missing, randomly initialized, left out or not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.models.model_files import Saved, some

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What `torch.compile`, FSDP and DataParallel put before the names of what they wrap.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "module.")
#: Buffers of older versions: transformers makes them itself.
_BUFFERS = ("masked_bias", "inv_freq", "position_ids", "cos_cached", "sin_cached", "num_batches_tracked")
_MASKS = 1 << 28  # numbers in masks and tables that a model makes for itself
_MASK_DIMENSIONS = 4  # of a causal mask, which GPT-2 and its kin call `attn.bias`
_PART = 1 << 20  # numbers that are looked at at once


def lacks_its_head_only(model: PreTrainedModel, info: Mapping[str, Any]) -> bool:
    """Whether all missing weights are those of the head: then the model without one is whole."""
    missing = _missing(info)
    inside = f"{model.base_model_prefix}."
    return bool(missing) and model.base_model is not model and not any(name.startswith(inside) for name in missing)


def check_size(made_by: Any, config: Any, saved: Mapping[str, Saved], name: str) -> None:
    """Raise UserError for a model that is far larger by its config.json than what is saved, before it gets any memory.

    Up to twice as large is left to `check_loaded`: a head or a pooler may be missing.
    """
    import torch

    try:
        with torch.device("meta"):
            model = made_by.from_config(config)
    except Exception:  # noqa: BLE001 - loading raises the same, unless a family cannot be built without memory
        return
    wanted = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    there = sum(tensor.numbers for tensor in saved.values())
    if wanted > 2 * there + _MASKS:
        raise UserError(f"{name} has {wanted:,} numbers by its config.json, but only {there:,} are saved.")


def check_loaded(model: PreTrainedModel, info: Mapping[str, Any], saved: Mapping[str, Saved], name: str) -> None:
    """Raise UserError, with names, for weights that are missing, of another shape, without a place, or not finite.

    `info` is the `output_loading_info` of transformers, which leaves out tied heads; a pooler is not read here.
    """
    for key, there, wanted in sorted(info["mismatched_keys"]):
        raise UserError(
            f"{name} cannot be loaded: {key} is {_shape(there)} in the file, but {_shape(wanted)} by its config.json."
        )
    if missing := _missing(info):
        wrapper = next((w for w in _WRAPPERS if any(key.startswith(w) for key in info["unexpected_keys"])), None)
        hint = f"The names in the file begin with {wrapper!r}: save the model without that wrapper" if wrapper else ""
        raise UserError(f"{name} lacks weights: {some(missing)}.", hint or "Fetch or save the model again, whole")
    if extra := [key for key in _within_blocks(model, info["unexpected_keys"]) if not _is_buffer(key, saved)]:
        raise UserError(f"{name} has weights that its config.json makes no use of: {some(extra)}.")
    if broken := [key for key, tensor in model.named_parameters() if not _is_finite(tensor)]:
        raise UserError(f"{name} has weights that are not finite numbers: {some(broken)}.", "Fetch the model again")


def _missing(info: Mapping[str, Any]) -> list[str]:
    """The missing weights that are read here: not those of a pooler, which comes after all blocks."""
    return [key for key in info["missing_keys"] if "pooler" not in key.split(".")]


def _within_blocks(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Those of the names that begin as those of a list of modules do, which the blocks are; other parts are heads."""
    from torch import nn

    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    inside = f"{model.base_model_prefix}."
    paths = tuple(f"{path}." for path in {*lists, *(path.removeprefix(inside) for path in lists)})
    return [key for key in keys if key.startswith(paths) or key.removeprefix(inside).startswith(paths)]


def _is_buffer(key: str, saved: Mapping[str, Saved]) -> bool:
    """Whether it is no weight but a mask or positions, which older versions have saved too."""
    is_mask = key.endswith(".bias") and key in saved and len(saved[key].shape) == _MASK_DIMENSIONS
    return key.endswith(_BUFFERS) or is_mask


def _is_finite(tensor: Any) -> bool:
    """Whether all numbers are finite. In parts: of a sum of bfloat16 numbers torch makes a copy in float32."""
    return not tensor.is_floating_point() or all(map(_is_finite_part, tensor.detach().reshape(-1).split(_PART)))


def _is_finite_part(numbers: Any) -> bool:
    """Whether these are finite. Their sum is not where one is not, and is had sooner."""
    import torch

    return bool(numbers.sum(dtype=torch.float32).isfinite()) or bool(numbers.isfinite().all())


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "a single number"
