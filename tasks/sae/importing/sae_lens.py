"""Reads SAEs of SAELens: its saved SAEs of every version, and the checkpoints of its trainers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.lazy_import import torch
from tasks.parsing.tensor_files import describe, load_tensors, shown
from tasks.sae.coder import CoderConfig
from tasks.sae.formats.files import read_object, regular
from tasks.sae.formats.foreign_sae import OWN_NAME, ForeignSae, hook, module_at, unknown_fields
from tasks.sae.formats.validation import Shapes, check_config, check_shapes, expected_shapes, in_single, require
from tasks.sae.importing import folding

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
#: Beside the checkpoint of a trainer: what its activations were multiplied with, or how they were whitened.
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

#: Names before SAELens' version 6 of what it calls otherwise now; and what became metadata then.
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = (
    *("model_name", "hook_name", "hook_layer", "hook_head_index", "hook_name_out", "hook_layer_out"),
    *("hook_head_index_out", "model_class_name", "model_from_pretrained_kwargs", "context_size", "prepend_bos"),
    *("dataset_path", "seqpos_slice", "exclude_special_tokens", "neuronpedia_id", "sae_lens_training_version"),
)
#: Fields that are acted on, or say nothing of codes by themselves; the others are reported as ignored.
_KNOWN = frozenset(
    {
        *("architecture", "d_in", "d_sae", "d_out", "k", "blocks", "dtype", "device", "apply_b_dec_to_input"),
        *("normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm", "activation_fn"),
        *("activation_fn_kwargs", "sae_lens_version", "metadata", *_METADATA),
    }
)
_KNOWN_METADATA = frozenset(
    {
        *(*_METADATA, "sae_lens_version", "hook_module", "hook_module_out", "hook_names", "hook_modules"),
        *("hf_hook_name", "hf_hook_name_out", "trained_as", "trained_with", "training_tokens", "activation_scale"),
        *(
            "imported_from",
            "imported_form",
            "folded",
            "model_source",
            "model_dtype",
            "dataset_source",
            "bos",
            OWN_NAME,
            f"{OWN_NAME}_out",
        ),
    }
)
#: Ways of training whose SAEs are JumpReLU's in use, with one threshold that was followed in training.
_BY_BATCH = ("batchtopk", "matryoshka_batchtopk")
_THRESHOLD, _RESCALED = "topk_threshold", "rescale_acts_by_decoder_norm"
_SCALES = ("scaling_factor", "finetuning_scaling_factor")


def read_description(folder: Path, _source: str) -> dict[str, Any]:
    """What the SAE is, as far as `cfg.json` says. Raises UserError for what is not understood."""
    path = folder / CONFIG
    config = read_object(path)
    is_old = "metadata" not in config
    config = _as_version_6(path, config) if is_old else config
    require(config, ("architecture", "d_in", "d_sae"), path)
    check_config(config, path)
    _check_codes(path, config)
    _check_hooks(path, config["metadata"])
    return config


def _as_version_6(path: Path, old: dict[str, Any]) -> dict[str, Any]:
    """What SAELens wrote before its version 6, in the words that it has since, with its defaults of then."""
    config = {"apply_b_dec_to_input": True, **{_RENAMED.get(key, key): value for key, value in old.items()}}
    config["metadata"] = {"prepend_bos": True, **{key: config[key] for key in _METADATA if config.get(key) is not None}}
    config.setdefault("architecture", "standard")
    kind = config.get("activation_fn") or "relu"
    if kind == "topk":
        if config["architecture"] not in ("standard", "topk"):
            raise UserError(f"{path}: a {shown(config['architecture'])} SAE with TopK codes is not known here.")
        options = config.get("activation_fn_kwargs")
        config |= {"architecture": "topk", "k": options.get("k") if isinstance(options, dict) else None}
    return config


def _check_codes(path: Path, config: dict[str, Any]) -> None:
    """Raise UserError for codes that are made otherwise than by the architectures here."""
    kind, is_topk = config.get("activation_fn") or "relu", str(config["architecture"]).startswith("topk")
    if kind not in ("relu", "topk") or (kind == "topk" and not is_topk):
        raise UserError(
            f"The SAE in {path.parent} has {shown(kind)} codes, and only those of ReLU and TopK are known here."
        )
    if config.get("rescale_acts_by_decoder_norm") and not is_topk and config["architecture"] not in _BY_BATCH:
        raise UserError(f"{path}: rescale_acts_by_decoder_norm is not known of a {shown(config['architecture'])} SAE.")
    if config.get("apply_b_dec_to_input") and config["architecture"].endswith("transcoder"):
        raise UserError(f"{path}: apply_b_dec_to_input is true, but a transcoder has no bias of what it reads.")


def _check_hooks(path: Path, about: dict[str, Any]) -> None:
    """Raise UserError for a hook that nothing here reads, or two fields that disagree on the layer."""
    for way in ("", "_out"):
        head, name, layer = (about.get(f"hook_{what}{way}") for what in ("head_index", "name", "layer"))
        if head is not None:
            raise UserError(
                f"{path}: hook_head_index{way} is {shown(head)}: SAEs of one attention head are not read here."
            )
        if name == "blocks.0.hook_resid_pre":
            raise UserError(f"{path}: the SAE reads {name}, the model's embeddings, which are no hook here.")
        parts = str(name).split(".")
        if layer is not None and parts[0] == "blocks" and len(parts) > 2 and parts[1] != str(layer):
            raise UserError(f"{path}: hook_name{way} is {shown(name)}, but hook_layer{way} is {layer}.")


def own_hooks(about: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The metadata with the hooks that are known here by other names under the names here, and a note on each."""
    made, notes = dict(about), []
    for way in ("", "_out"):
        name, own = about.get(f"hook_name{way}"), made.pop(f"{OWN_NAME}{way}", None)
        if own is not None and name == about.get(f"hf_hook_name{way}"):
            made[f"hook_name{way}"] = own
            continue
        if name is None or f"hook_module{way}" in about:
            continue
        before = name.split(".") if name.startswith("blocks.") else []
        if len(before) == 3 and before[1].isdigit() and before[2] == "hook_resid_pre" and int(before[1]):
            made |= hook(int(before[1]) - 1, "hook_resid_post", way)
        elif "hook_" not in name and (module := module_at(name)) is not None:
            made |= {**hook(module.layer, module.written, way), f"hook_module{way}": name, f"hf_hook_name{way}": name}
        if (now := made.get(f"hook_name{way}")) != name:
            notes.append(f"hook {name} is {now} here")
    return made, tuple(notes)


def take(folder: Path, config: dict[str, Any]) -> ForeignSae:
    """Its tensors, of exactly the names and shapes that `cfg.json` says, for activations that nothing is done to."""
    from tasks.sae.formats.native import shape_of

    path, used = folder / WEIGHTS, dict(config)
    is_batch = config["architecture"] in _BY_BATCH
    if is_batch:
        used |= {"architecture": "jumprelu", _RESCALED: config.get(_RESCALED, True)}
        used.pop("k", None)
    found = {name: stored.shape for name, stored in describe(path).items()}
    check_shapes(found, _expected(shape_of(used, folder / CONFIG), found, is_batch), path)
    read = load_tensors(path)
    in_single(read, path)
    tensors = {name: tensor.double() for name, tensor in read.items()}
    _drop_factor(folder, tensors)
    notes = [*_as_in_use(config, tensors), *_fold_activations(folder, used, tensors)]
    if used.pop(_RESCALED, False):
        folding.fold_lengths(tensors)
    if config.get("dtype", "float32").removeprefix("torch.") != "float32":
        notes.append(f"its files say {config['dtype']}; it is used in float32 here")
    ignored = unknown_fields(config, _KNOWN) + unknown_fields(config["metadata"], _KNOWN_METADATA, "metadata.")
    return ForeignSae({**used, "normalize_activations": "none"}, tensors, ignored, tuple(notes))


def _expected(shape: CoderConfig, found: Shapes, is_batch: bool) -> Shapes:
    """The tensors of such an SAE, as the file may have them: thresholds in training have other names."""
    expected = expected_shapes(shape)
    if is_batch:
        del expected["threshold"]
        expected[_THRESHOLD] = ()
    elif "log_threshold" in found and "threshold" in expected:
        expected["log_threshold"] = expected.pop("threshold")
    return expected | {name: (shape.d_sae,) for name in _SCALES if name in found}


def _drop_factor(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Raise UserError for a factor of codes that is not 1, as SAELens does since its version 6."""
    for name in _SCALES:
        factor = tensors.pop(name, None)
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            raise UserError(f"The SAE in {folder} multiplies codes with a factor of their own, which is not supported.")


def _as_in_use(config: dict[str, Any], tensors: dict[str, Tensor]) -> list[str]:
    """Make the threshold that was followed in training that of the SAE in use, as SAELens does; a note on it."""
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
        return ["its thresholds were trained as logarithms"]
    if _THRESHOLD not in tensors:
        return []
    threshold = tensors.pop(_THRESHOLD)
    tensors["threshold"] = threshold.expand_as(tensors["b_enc"]).clone()
    return [f"a checkpoint of {config['architecture']}: in use its codes are those above {float(threshold):.6g}"]


def _fold_activations(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> list[str]:
    """Fold what was done to activations in training into the weights, where it is known exactly; a note on it."""
    kind = config.get("normalize_activations")
    kind = {True: "expected_average_only_in", False: "none", None: "none"}.get(kind, kind) if _is_word(kind) else kind
    scale = _scale(folder)
    if kind == "none" and scale is None:
        return []
    if kind == "expected_average_only_in" and scale is not None and not config["architecture"].endswith("transcoder"):
        folding.fold_scale(tensors, scale)
        if "threshold" in tensors and config.get(_RESCALED):  # it is then in the unit of decoder norms too
            tensors["threshold"] = tensors["threshold"] / scale
        return [f"activations were multiplied with {scale:.6g} in its training: folded into its weights"]
    if kind == "covariance_whitening" and (path := regular(folder, WHITENING)) is not None:
        return _fold_whitening(path, config, tensors)
    if kind == "expected_average_only_in":
        raise UserError(
            f"The SAE in {folder} has normalize_activations = {shown(kind)}, but its factor is unknown: no {SCALER}.",
            "Fold it into its weights first",
        )
    raise UserError(
        f"The SAE in {folder} has normalize_activations = {shown(kind)}, which is not supported"
        f"{'' if scale is None else f' with {SCALER}'}.",
        "Fold it into its weights first",
    )


def _is_word(kind: Any) -> bool:
    return kind is None or isinstance(kind, (str, bool))


def _fold_whitening(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> list[str]:
    d_in = len(tensors["W_enc"])
    shapes: Shapes = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
    check_shapes({name: stored.shape for name, stored in describe(path).items()}, shapes, path)
    whitening = {name: tensor.double() for name, tensor in in_single(load_tensors(path), path).items()}
    if config.pop(_RESCALED, False):
        folding.fold_lengths(tensors)  # unwhitening changes the norms by which codes were chosen
    folding.fold_whitening(tensors, whitening, config.get("apply_b_dec_to_input", True))
    return ["activations were whitened in its training: folded into its weights"]


def _scale(folder: Path) -> float | None:
    """What a trainer multiplied activations with; None where that is not recorded."""
    path = regular(folder, SCALER)
    if path is None:
        return None
    factor = read_object(path).get("scaling_factor")
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e30:
        raise UserError(f"{path}: scaling_factor is {shown(factor)}, expected a number above 0.")
    return float(factor)
