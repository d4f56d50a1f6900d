"""The files of a model's weights, looked at before a library reads them: which there are, and that they are whole.

Only the headers of safetensors are read, so this is quick, and needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.models.model_config import read_object
from tasks.parsing.tensor_files import LARGEST_NUMBER, MOST_DIMENSIONS

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
#: Other formats: pickles, which can run any code, and what other programs read.
_OTHERS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.gguf")
_LARGEST_HEADER = 100_000_000
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
_SHOWN = 4


@dataclass(frozen=True)
class Saved:
    """A tensor in a file of weights."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def check_weights(folder: Path, model: str, layers: int | None = None) -> dict[str, Saved]:
    """The tensors saved in a model's folder, by name, of whole files that are all there.

    Raises UserError for weights in other formats only, for an index that names files which are missing or elsewhere,
    for a file that was cut short, for quantized tensors, and for fewer tensors than the model has layers.
    """
    if (folder / _ADAPTER).exists():
        raise UserError(f"{model} holds an adapter ({_ADAPTER}), not whole weights.", "Merge it into its model first")
    saved: dict[str, Saved] = {}
    for file in _files_of(folder, model):
        saved.update(_header(folder / file, model))
    quantized = [name for name, tensor in saved.items() if _is_quantized(name, tensor)]
    if quantized:
        which = f"{some(quantized)} ({saved[quantized[0]].dtype})"
        raise UserError(f"The weights of {model} are quantized: {which}.", "Give the model that it was made from")
    if layers is not None and layers > len(saved):
        raise UserError(f"{model} has {layers} layers by its config.json, but only {len(saved)} tensors are saved.")
    return saved


def some(names: list[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _files_of(folder: Path, model: str) -> list[str]:
    """The names of the files that transformers would read, in that order of preference."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed(folder, model)
    others = sorted(path.name for pattern in _OTHERS for path in folder.glob(pattern))
    if others:
        raise UserError(
            f"{model} has no weights as safetensors, the only format read here, but {some(others)}.",
            "Save it with save_pretrained(safe_serialization=True)",
        )
    raise UserError(f"{model} has no weights as safetensors, the only format read here: there is no {WEIGHTS}.")


def _indexed(folder: Path, model: str) -> list[str]:
    """The files that the index of sharded weights names, which are there and in the folder itself."""
    what = f"{INDEX} of model {model!r}"
    names = read_object(folder / INDEX, what).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{what} has no weight_map from tensors to files.")
    files = sorted(set(names.values()))
    if outside := [name for name in files if Path(name).name != name or "\\" in name or not name]:
        raise UserError(f"{what} names a file outside of the model's folder: {outside[0]!r}.")
    if others := [name for name in files if not name.endswith(".safetensors")]:
        raise UserError(
            f"{what} names files that are no safetensors, the only format read here: {some(others)}.",
            "Save the model again with save_pretrained(safe_serialization=True)",
        )
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise UserError(f"{what} names files that are missing: {some(missing)}.", "Fetch or copy the model again")
    return files


def _header(path: Path, model: str) -> Iterator[tuple[str, Saved]]:
    """The tensors of a safetensors file. Raises UserError for one that is none, or was cut short."""
    wrong = UserError(
        f"The model {model} cannot be loaded: {path.name} is no safetensors file.", "Copy or fetch it again"
    )
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LARGEST_HEADER:
            raise wrong
        try:
            header = json.loads(file.read(length))
            tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
            end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
            found = {name: _saved(path.name, tensor) for name, tensor in tensors.items()}
            whole = all(_fits(tensor) for tensor in found.values())
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
            raise wrong from error
    if not whole or path.stat().st_size != 8 + length + end:
        size = f"{path.stat().st_size} bytes where its header says {8 + length + end}"
        raise UserError(
            f"The model {model} cannot be loaded: {path.name} is incomplete: {size}.", "Fetch or copy it again"
        )
    return iter(found.items())


def _saved(file: str, tensor: dict[str, Any]) -> Saved:
    first, end = map(int, tensor["data_offsets"])
    shape = tuple(map(int, tensor["shape"]))
    if len(shape) > MOST_DIMENSIONS or any(size > LARGEST_NUMBER for size in shape):
        raise ValueError("a shape that no tensor has")
    return Saved(file, str(tensor["dtype"]), shape, end - first)


def _fits(tensor: Saved) -> bool:
    """Whether a tensor has as many bytes as its shape says; other types than floats are for the library to judge."""
    bits = _BITS.get(tensor.dtype)
    return bits is None or 8 * tensor.bytes == bits * tensor.numbers


def _is_quantized(name: str, tensor: Saved) -> bool:
    """Whether a tensor is no float of 16 bits or more but a weight: masks and positions may be of any type."""
    is_small_float = tensor.dtype.startswith(("F8", "F6", "F4"))
    return is_small_float or (tensor.dtype not in _BITS and name.endswith(".weight"))
