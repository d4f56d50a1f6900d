"""The files of other libraries, read as they are: their names, their fields and their defaults.

Each format describes an SAE before its weights are read, and then makes of a folder what `Taken` says;
`tasks.sae.importing.convert` turns that into the one form of here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import UserError
from tasks.parsing.tensor_files import describe, load_tensors, shown
from tasks.sae.architectures import topk
from tasks.sae.formats.files import read_object, regular
from tasks.sae.formats.foreign_sae import ForeignSae, hook, module_at, unknown_fields
from tasks.sae.formats.native import shape_of
from tasks.sae.formats.validation import check_config, check_shapes, in_single, load_exactly, require
from tasks.sae.importing import sae_lens
from tasks.sae.importing.npz import load_npz

if TYPE_CHECKING:
    from torch import Tensor

#: Where what a description says and nothing was done with waits for the weights to be read.
_IGNORED = "ignored"
_SKIP = "affine_skip_connection"


class ForeignFormat(NamedTuple):
    """How a library saves an SAE: in which files, and how they are read.

    `describe(folder, source)` says in SAELens' words what the SAE is, as far as that is known without its weights;
    `take(folder, description)` reads those, and may know better.
    """

    files: tuple[str, ...]
    describe: Callable[[Path, str], dict[str, Any]]
    take: Callable[[Path, dict[str, Any]], ForeignSae]


#: What a `cfg.json` of sparsify says; the last two only of its training.
_SPARSIFY_FIELDS = frozenset(
    {"activation", "signed", "transcode", "k", "d_in", "num_latents", "expansion_factor", "skip_connection"}
    | {"normalize_decoder", "multi_topk"}
)


def _describe_sparsify(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "cfg.json"
    config = read_object(path)
    if (kind := "signed" if config.get("signed") else config.get("activation", "topk")) != "topk":
        raise UserError(f"The SAE in {folder} has {shown(kind)} codes, and only those of TopK are known here.")
    is_transcoder, has_skip = (config.get(name, False) for name in ("transcode", "skip_connection"))
    if not isinstance(is_transcoder, bool) or not isinstance(has_skip, bool):
        raise UserError(f"{path}: transcode and skip_connection are not both true or false.")
    above = regular(folder.parent, "config.json")
    run = read_object(above) if above is not None else {}
    about = {"model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}
    found = {
        "architecture": f"topk{'_skip' * has_skip}_transcoder" if is_transcoder else "topk",
        "k": config.get("k"),
        "apply_b_dec_to_input": not is_transcoder,
        "metadata": {**about, **_sparsify_hooks(source, is_transcoder)},
    }
    if "d_in" in config:
        found |= {"d_in": config["d_in"], "d_sae": _sparsify_width(config)}
        found |= {"d_out": config["d_in"]} if is_transcoder else {}
    check_config(found, path)
    return found


def _sparsify_width(config: dict[str, Any]) -> Any:
    """The number of features: stated, or a stated multiple of the width of what is read."""
    if config.get("num_latents"):
        return config["num_latents"]
    factor, d_in = config.get("expansion_factor"), config["d_in"]
    return d_in * factor if type(factor) is int and type(d_in) is int else factor


def _take_sparsify(folder: Path, values: dict[str, Any]) -> ForeignSae:
    path, config = folder / "sae.safetensors", folder / "cfg.json"
    topk.TopK.options_of(values)  # or it says that there is no k
    require(values, ("d_in",), config)
    shape = shape_of(values, config)
    d_in, d_sae = shape.d_in, shape.d_sae
    expected = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    tensors = load_exactly(path, expected | ({"W_skip": (d_in, d_in)} if shape.skip else {}))
    tensors |= {"W_enc": tensors.pop("encoder.weight").T, "b_enc": tensors.pop("encoder.bias")}
    return ForeignSae(values, tensors, unknown_fields(read_object(config), _SPARSIFY_FIELDS))


def _describe_gemma_scope(_folder: Path, source: str) -> dict[str, Any]:
    # BOS was left out of its training; it is the first token of each row (Lieberum et al. 2024, arXiv:2408.05147).
    about = {**_gemma_2_in(source), "prepend_bos": True, "seqpos_slice": [1, None]}
    name = "jumprelu_transcoder" if "hook_name_out" in about else "jumprelu"
    return {"architecture": name, "apply_b_dec_to_input": False, "metadata": about}


def _take_gemma_scope(folder: Path, config: dict[str, Any]) -> ForeignSae:
    path = folder / "params.npz"
    tensors = load_npz(path, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
    _check_gemma(tensors, path, config)
    return ForeignSae(config, in_single(tensors, path))


def _check_gemma(tensors: dict[str, Tensor], path: Path, config: dict[str, Any]) -> None:
    """Raise UserError unless all tensors have the shapes that follow from W_enc's; nothing else says them."""
    if tensors["W_enc"].ndim != 2 or not tensors["W_enc"].numel():
        found = tuple(tensors["W_enc"].shape)
        raise UserError(f"{path}: tensor W_enc has shape {shown(found)}, expected two dimensions.")
    d_in, d_sae = tensors["W_enc"].shape
    d_out = (
        tensors["W_dec"].shape[-1] if config["architecture"].endswith("transcoder") and tensors["W_dec"].ndim else d_in
    )
    expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_shapes(shapes, {name: expected.get(name, (d_sae,)) for name in shapes}, path)
    if config.get("width", d_sae) != d_sae:
        raise UserError(f"{path}: it has {d_sae} features, and config.json says width = {shown(config['width'])}.")


#: What a `config.json` of Gemma Scope 2 says.
_GEMMA_3_FIELDS = frozenset(
    {"architecture", "type", "hf_hook_point_in", "hf_hook_point_out", "model_name", "width", "affine_connection", "l0"}
)


def _describe_gemma_scope_2(folder: Path, source: str) -> dict[str, Any]:
    path = regular(folder, "config.json")
    said = read_object(path) if path is not None else {}
    config = {**_gemma_3_in(source), **said}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise UserError(
            f"The SAE in {folder} is called {shown(config['architecture'])}, and only jump_relu is known here."
        )
    if str(config.get("type")).startswith(("cross", "clt")):
        raise UserError(SEVERAL_LAYERS.format(folder=folder))
    if "hf_hook_point_in" not in config:
        raise UserError(
            f"What the SAE in {folder} reads and writes is not said: there is no config.json that does.",
            "Put it beside params.safetensors, or import the SAE by its Hub id",
        )
    read, written, model = (config.get(name) for name in ("hf_hook_point_in", "hf_hook_point_out", "model_name"))
    if not isinstance(read, str) or not all(value is None or isinstance(value, str) for value in (written, model)):
        raise UserError(f"{path}: hf_hook_point_in, hf_hook_point_out and model_name are not all texts.")
    about = {"model_name": model and _gemma_3(model), "prepend_bos": True, **_gemma_3_hook(read)}
    name = "jumprelu"
    if written not in (read, None):
        name, about = "jumprelu_transcoder", {**about, **_gemma_3_hook(written, "_out")}
    width = {"width": config["width"]} if "width" in config else {}
    found = {"architecture": name, "apply_b_dec_to_input": False, "metadata": about, **width}
    return {**found, _IGNORED: unknown_fields(said, _GEMMA_3_FIELDS)}


def _take_gemma_scope_2(folder: Path, config: dict[str, Any]) -> ForeignSae:
    """Its encoder reads x. In `params.safetensors`, w_enc is (d_in, d_sae), w_dec (d_sae, d_out), and what a transcoder
    adds to its reconstruction is x @ affine_skip_connection, (d_in, d_out)."""
    path = folder / "params.safetensors"
    shapes = {name: stored.shape for name, stored in describe(path).items()}
    if missing := [name for name in _GEMMA_3_NAMES if name not in shapes and name != _SKIP]:
        raise UserError(f"{path} has no {', '.join(missing)}.")
    if extra := sorted(set(shapes) - set(_GEMMA_3_NAMES)):
        raise UserError(f"{path} has {shown(', '.join(extra))} among its weights, which is not known of such an SAE.")
    if len(shapes["w_enc"]) == 3 or len(shapes["w_dec"]) == 3:
        raise UserError(SEVERAL_LAYERS.format(folder=folder))
    found = load_tensors(path)
    weights = {ours: found[theirs] for theirs, ours in _GEMMA_3_NAMES.items() if theirs in found}
    if "W_skip" in weights:
        if config["architecture"] != "jumprelu_transcoder" or weights["W_skip"].ndim != 2:
            raise UserError(f"{path} has {_SKIP} among its weights, which is not known of such an SAE.")
        weights["W_skip"] = weights["W_skip"].T
        config = {**config, "architecture": "jumprelu_skip_transcoder"}
    _check_gemma(weights, path, config)
    ignored = config.get(_IGNORED, ())
    return ForeignSae(
        {key: value for key, value in config.items() if key != _IGNORED}, in_single(weights, path), ignored
    )


def _sparsify_hooks(source: str, transcoder: bool) -> dict[str, Any]:
    """The hooks named by the folder, whose name is a module's path: `layers.6`, `h.6.mlp`, `layers.6.self_attn/seed1`.

    An SAE reads what comes out of the module; a transcoder reads what goes into it, and writes what comes out. Of a
    module that is not known here nothing is known.
    """
    folder = re.search(r"(?:^|/)([\w.]+)(?:/seed\d+)?$", source)
    module = module_at(folder[1]) if folder else None
    if module is None:
        return {}
    if not transcoder:
        return {**hook(module.layer, module.written), "hook_module": module.path}
    hooks = {**hook(module.layer, module.read), **hook(module.layer, module.written, "_out")}
    return {**hooks, "hook_module": module.path, "hook_module_out": module.path}


#: What Gemma Scope's coders read, by the last word of their repository's name. Its transcoders do not read what the MLP
#: reads, but that before the norm's weights, which were folded into the MLP (arXiv:2408.05147v2, page 18).
_GEMMA_2_SITES = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}


def _gemma_2_in(source: str) -> dict[str, Any]:
    """The model and hooks that names in a path describe: `google/gemma-scope-2b-pt-mlp/layer_20/…`."""
    config: dict[str, Any] = {}
    if named := re.search(r"gemma-scope-(\d+b)-(pt|it)", source):
        config["model_name"] = f"google/gemma-2-{named[1]}{'-it' if named[2] == 'it' else ''}"
    if place := re.search(rf"gemma-scope-\w+-\w+-({'|'.join(_GEMMA_2_SITES)})\b.*/layer_(\d+)(?:/|$)", source):
        config |= hook(place[2], _GEMMA_2_SITES[place[1]])
        if place[1] == "transcoders":
            config |= hook(place[2], "hook_mlp_out", "_out")
    return config


#: What is read and what is written in Gemma 3's layers, by the folder's name, as `config.json` has it. The MLP reads
#: what its norm gives, and what it adds is normed once more.
_GEMMA_3_POINTS = {
    "resid_post": ("output", "output"),
    "attn_out": ("self_attn.o_proj.input", "self_attn.o_proj.input"),
    "mlp_out": ("post_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}
#: The same by the names of hooks here.
_GEMMA_3_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
}
_GEMMA_3_NAMES = {
    "w_enc": "W_enc",
    "w_dec": "W_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "threshold": "threshold",
    _SKIP: "W_skip",
}
#: The error for Gemma Scope 2's crosscoders and cross-layer transcoders.
SEVERAL_LAYERS = (
    "{folder} holds a coder of several layers, whose features write differently to each from where they are read: "
    "that cannot be taken in; of Gemma Scope 2 the SAEs and transcoders of one layer can."
)


def _gemma_3_in(source: str) -> dict[str, Any]:
    """What names in a path say, as `config.json` would: `google/gemma-scope-2-4b-it/resid_post/layer_9_width_16k…`."""
    config: dict[str, Any] = {}
    if named := re.search(r"gemma-scope-2-(\w+-(?:pt|it))", source):
        config["model_name"] = f"gemma-3-{named[1]}"
    if place := re.search(rf"({'|'.join(_GEMMA_3_POINTS)})(?:_all)?/layer_(\d+)_", source):
        read, written = _GEMMA_3_POINTS[place[1]]
        layer = f"model.layers.{place[2]}"
        config |= {"hf_hook_point_in": f"{layer}.{read}", "hf_hook_point_out": f"{layer}.{written}"}
    return config


def _gemma_3(model: str) -> str:
    """The model's Hub id: the smallest has no `-pt` there, and some files say `v3`."""
    name = model.removeprefix("google/").replace("-v3", "-3")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"


def _gemma_3_hook(point: str, way: str = "") -> dict[str, Any]:
    """The name of a hook here, and its layer, from `model.layers.9.output`; nothing where it is not known."""
    found = re.fullmatch(r"model(?:\.\w+)?\.layers\.(\d+)\.(.+)", point)
    if found is None or found[2] not in _GEMMA_3_HOOKS:
        return {}
    return hook(found[1], _GEMMA_3_HOOKS[found[2]], way)


FORMS = {
    "SAELens": ForeignFormat(("cfg.json", "sae_weights.safetensors"), sae_lens.read_description, sae_lens.take),
    "sparsify": ForeignFormat(("cfg.json", "sae.safetensors"), _describe_sparsify, _take_sparsify),
    "Gemma Scope": ForeignFormat(("params.npz",), _describe_gemma_scope, _take_gemma_scope),
    "Gemma Scope 2": ForeignFormat(("params.safetensors",), _describe_gemma_scope_2, _take_gemma_scope_2),
}
#: Every file that may be needed of a folder.
FILES = {
    *(name for form in FORMS.values() for name in form.files),
    *("config.json", "sparsity.safetensors", "metrics.jsonl", "mistudio.json", sae_lens.SCALER, sae_lens.WHITENING),
}
