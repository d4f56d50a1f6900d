"""The saved form of an SAE: writes and reads SAELens' `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors`.

Weights are float32: W_enc (d_in, d_sae), W_dec (d_sae, d_out) and the rest by the names of SAELens. The scale of the
training is folded in, so a saved SAE takes the model's activations as they are, here and in
`sae_lens.SAE.load_from_disk` alike. An architecture that is only a way of training is saved as what it is in use: a
BatchTopK SAE as JumpReLU. How it was trained stands in the metadata.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.parsing.tensor_files import describe, load_tensors, save_tensors, shown
from tasks.sae.architectures import build, coder_class
from tasks.sae.coder import Coder, CoderConfig
from tasks.sae.formats import files
from tasks.sae.formats.validation import (
    check_architecture,
    check_config,
    check_shape,
    check_shapes,
    expected_shapes,
    load_exactly,
    require,
)
from tasks.storage.store import write_json

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS, DENSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"

#: SAELens adds this to a density before it takes the logarithm; that of a share of 1 may be rounded up.
_SILENT = 1e-10
_MOST_LOG = 1e-3

#: The SAELens release whose form this is: without it, SAELens takes the file for an older one and drops the metadata.
_FORM = "6.0.0"

#: What a loaded SAE must say, because nothing else is understood here.
_UNDERSTOOD = {
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}
#: How SAELens names a coder that writes vectors of another place than it reads.
_TRANSCODER, _SKIP, _CROSSCODER = "transcoder", "skip_transcoder", "crosscoder"


@dataclasses.dataclass(frozen=True)
class Scales:
    """What the vectors read and written were multiplied with in training: a number for each layer of a crosscoder."""

    read: tuple[float, ...]
    written: tuple[float, ...]

    def fold(self, coder: Coder) -> dict[str, torch.Tensor]:
        """The coder's saved tensors for activations as they are, as SAELens lays them out; codes stay the same."""
        tensors, _ = coder.saved()
        read, written = spread(self.read, coder.W_enc[0]), spread(self.written, coder.b_dec)
        folded = {"W_enc": (tensors["W_enc"] * read).T, "W_dec": tensors["W_dec"] / written}
        folded["b_dec"] = tensors["b_dec"] / written
        if "W_skip" in tensors:
            folded["W_skip"] = tensors["W_skip"] * read / written[:, None]
        return {**tensors, **folded}

    def unfold(self, loaded: Coder) -> dict[str, torch.Tensor]:
        """The other way round: the parameters, for scaled activations, of a coder that takes them as they are."""
        tensors = dict(loaded.parameters)
        read, written = spread(self.read, loaded.W_enc[0]), spread(self.written, loaded.b_dec)
        tensors |= {"W_enc": loaded.W_enc / read, "W_dec": loaded.W_dec * written, "b_dec": loaded.b_dec * written}
        if "W_skip" in tensors:
            tensors["W_skip"] = loaded.W_skip / read * written[:, None]
        return tensors


def save_sae(folder: Path, coder: Coder, scales: Scales, metadata: dict[str, Any]) -> None:
    """Write `coder`, trained on scaled activations, so that it takes the activations themselves."""
    config = coder.config
    weights, own = scales.fold(coder), coder.saved()[1]
    content = {
        "architecture": architecture_name(coder.saved_as, config),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        **({"d_out": config.d_out} if coder.is_transcoder else {}),
        **({"blocks": config.blocks} if config.blocks > 1 else {}),
        "apply_b_dec_to_input": not coder.is_transcoder,
        **own,
        "metadata": {
            "trained_as": config.architecture,
            "trained_with": dataclasses.asdict(coder.options),
            **metadata,
        },
    }
    write_sae(folder, content, weights)


def write_sae(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Write the files of an SAE that takes activations as they are; both arguments by SAELens' names.

    `config` has the architecture, its shape and options, whether the encoder reads x - b_dec, and its metadata.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, weights)
    form = {
        "dtype": "float32",
        "device": "cpu",
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"rescale_acts_by_decoder_norm": False} if "k" in config else {}),
    }
    metadata = {**config["metadata"], "sae_lens_version": _FORM}
    write_json(folder / CONFIG, {**config, **form, "metadata": metadata})


def save_density(folder: Path, density: torch.Tensor) -> None:
    """Write on which share of the vectors each feature was active: (d_sae,), as SAELens does, by its logarithm."""
    save_tensors(folder / DENSITY, {"sparsity": (density.float().cpu() + _SILENT).log10()})


def load_density(folder: Path, d_sae: int | None = None) -> torch.Tensor | None:
    """The share of vectors on which each feature was active: (d_sae,) float32; None where that was not saved.

    Raises UserError for a file that does not hold that many logarithms of shares.
    """
    path = files.regular(folder, DENSITY)
    if path is None:
        return None
    shapes = {name: stored.shape for name, stored in describe(path).items()}
    check_shapes(shapes, {"sparsity": (d_sae,) if d_sae else shapes.get("sparsity", ())}, path)
    density = load_tensors(path)["sparsity"].float()
    if not bool((density <= _MOST_LOG).all()):  # of NaN that is not true either
        raise UserError(f"{path}: sparsity holds what is no logarithm of a share of tokens.")
    return 10**density * (density > math.log10(2 * _SILENT))


def architecture_name(saved_as: str, config: CoderConfig) -> str:
    """SAELens' name of an architecture: its own for an autoencoder; transcoders are those of standard and JumpReLU.

    SAELens has no crosscoders, and refuses what is called one.
    """
    if config.blocks > 1:
        return f"{saved_as}_{_CROSSCODER}"
    if config.d_out is None:
        return saved_as
    return ("" if saved_as == "standard" else f"{saved_as}_") + (_SKIP if config.skip else _TRANSCODER)


def load_sae(folder: Path, device: str = "cpu") -> Coder:
    """The SAE in `folder`: `encode` (n, d_in) -> (n, d_sae) and `decode` back, float32, without gradients.

    Raises UserError when there is none, when a tensor has not exactly the shape that `cfg.json` says or holds a number
    that is not finite, and when it means something not understood here.
    """
    shape = read_shape(folder)
    path = files.regular(folder, WEIGHTS)
    if path is None:
        raise UserError(f"{folder} has no {WEIGHTS}.")
    weights = load_exactly(path, expected_shapes(shape))
    if "threshold" in weights:  # a code is not negative, whatever its threshold
        weights["threshold"] = weights["threshold"].clamp_min(0)
    coder = build(shape)
    coder.load({name: _turned(name, tensor) for name, tensor in weights.items()})
    return coder.to(device)


def read_shape(folder: Path) -> CoderConfig:
    """What the SAE in `folder` is, by its `cfg.json` alone: it costs no torch. UserError as `load_sae` raises it."""
    return shape_of(read_config(folder), folder / CONFIG)


def shape_of(config: dict[str, Any], path: Path) -> CoderConfig:
    """What an SAE is, by its description, which is in the file `path`. Raises UserError for what cannot be."""
    require(config, ("architecture", "d_in", "d_sae"), path)
    saved_as, d_out, skip = _read_architecture(config, path)
    check_architecture(saved_as, path)
    options = coder_class(saved_as).options_of(config)
    shape = CoderConfig(saved_as, config["d_in"], config["d_sae"], options, d_out, skip, config.get("blocks", 1))
    check_shape(shape, path)
    if (shape.blocks > 1) != config["architecture"].endswith(f"_{_CROSSCODER}"):
        raise UserError(f"{path}: a {config['architecture']} of {shape.blocks} layers is not known here.")
    return shape


def read_config(folder: Path) -> dict[str, Any]:
    """What `cfg.json` says. Raises UserError when it is missing, broken, or means something not understood here."""
    path = files.regular(folder, CONFIG)
    if path is None:
        raise UserError(f"There is no SAE in {folder}: it has no {CONFIG}.")
    config = files.read_object(path)
    check_config(config, path)
    understood = {**_UNDERSTOOD, "apply_b_dec_to_input": _read_architecture(config, path)[1] is None}
    for key, value in understood.items():
        if config.get(key, value) != value:
            raise UserError(f"The SAE in {folder} has {key} = {shown(config[key])}, which is not supported.")
    return config


def _read_architecture(config: dict[str, Any], path: Path) -> tuple[str, int | None, bool]:
    """The architecture whose codes it has, the length of what a transcoder writes, and whether it has a way past."""
    name = str(config.get("architecture")).removesuffix(f"_{_CROSSCODER}")
    for ending in (_SKIP, _TRANSCODER):
        if name.endswith(ending):
            require(config, ("d_out",), path)
            return name.removesuffix(ending).rstrip("_") or "standard", config["d_out"], ending == _SKIP
    if config.get("d_out", config.get("d_in")) != config.get("d_in"):
        raise UserError(f"{path}: d_out is {config['d_out']} and d_in {config.get('d_in')}, but it is no transcoder.")
    return name, None, False


def spread(numbers: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    """A number for each equal part of a vector, as one for each entry: a tensor like `like`."""
    return like.new_tensor(numbers).repeat_interleave(len(like) // len(numbers))


def _turned(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """W_enc has a feature's weights in a row here, in a column there."""
    return tensor.T if name == "W_enc" else tensor
