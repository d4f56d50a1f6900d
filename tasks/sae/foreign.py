"""The files of other libraries, read as they are: the only place that knows their names and what they leave unsaid.

Each form tells what an SAE is before its weights are read, and then makes of a folder what `Taken` says;
`tasks.sae.importing` turns that into the one form of here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.late import np, torch
from tasks.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

#: SAELens' names, before its version 6, of what it calls otherwise now; and what was no metadata then.
_RENAMED = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}
_METADATA = ("model_name", "hook_name", "hook_layer", "context_size", "prepend_bos", "dataset_path", "seqpos_slice")


class Taken(NamedTuple):
    """An SAE as it was found: in SAELens' words what it is, and its tensors."""

    told: dict[str, Any]
    tensors: dict[str, Tensor]


class Form(NamedTuple):
    """How a library saves an SAE: in which files, and how they are read.

    `tell(folder, source)` says in SAELens' words what the SAE is, as far as that is known without its weights;
    `take(folder, told)` reads those, and may know better.
    """

    files: tuple[str, ...]
    tell: Callable[[Path, str], dict[str, Any]]
    take: Callable[[Path, dict[str, Any]], Taken]


def _tell_sae_lens(folder: Path, _source: str) -> dict[str, Any]:
    told = _json(folder / "cfg.json")
    return told if "metadata" in told else _as_version_6(folder, told)


def _take_sae_lens(folder: Path, told: dict[str, Any]) -> Taken:
    from safetensors.torch import load_file

    tensors = load_file(folder / "sae_weights.safetensors")
    factor = tensors.pop("scaling_factor", tensors.pop("finetuning_scaling_factor", None))
    if factor is not None and not torch.equal(factor, torch.ones_like(factor)):
        raise Problem(f"The SAE in {folder} multiplies codes with a factor of their own, which is not supported.")
    return Taken(told, tensors)


def _as_version_6(folder: Path, old: dict[str, Any]) -> dict[str, Any]:
    """What SAELens said before its version 6, in the words that it has since."""
    told = {_RENAMED.get(key, key): value for key, value in old.items()}
    told["metadata"] = {key: told[key] for key in _METADATA if told.get(key) is not None}
    told.setdefault("architecture", "standard")
    kind = told.get("activation_fn") or "relu"
    if kind not in ("relu", "topk"):
        raise Problem(f"The SAE in {folder} has {kind} codes, and only those of ReLU and TopK are known here.")
    if kind == "topk":
        told |= {"architecture": "topk", "k": (told.get("activation_fn_kwargs") or {}).get("k")}
    return told


def _tell_sparsify(folder: Path, source: str) -> dict[str, Any]:
    told = _json(folder / "cfg.json")
    if told.get("activation", "topk") != "topk" or told.get("signed"):
        kind = "signed" if told.get("signed") else told["activation"]
        raise Problem(f"The SAE in {folder} has {kind} codes, and only those of TopK are known here.")
    is_transcoder = bool(told.get("transcode"))
    run = _json(folder.parent / "config.json") if (folder.parent / "config.json").is_file() else {}
    about = {"model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}
    return {
        "architecture": "topk_transcoder" if is_transcoder else "topk",
        "k": told.get("k"),
        "apply_b_dec_to_input": not is_transcoder,
        "metadata": {**about, **_sparsify_hooks(source, is_transcoder)},
    }


def _take_sparsify(folder: Path, told: dict[str, Any]) -> Taken:
    from safetensors.torch import load_file

    tensors = load_file(folder / "sae.safetensors")
    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if "W_skip" not in tensors:
        return Taken(told, weights)
    if told["architecture"] != "topk_transcoder":
        raise Problem(f"The SAE in {folder} is no transcoder, but has a way past its features: that is not known here.")
    return Taken({**told, "architecture": "topk_skip_transcoder"}, {**weights, "W_skip": tensors["W_skip"]})


def _tell_gemma_scope(_folder: Path, source: str) -> dict[str, Any]:
    # BOS was left out of its training; it is the first token of each row (Lieberum et al. 2024, arXiv:2408.05147).
    about = {**_gemma_2_in(source), "seqpos_slice": [1, None]}
    name = "jumprelu_transcoder" if "hook_name_out" in about else "jumprelu"
    return {"architecture": name, "apply_b_dec_to_input": False, "metadata": about}


def _take_gemma_scope(folder: Path, told: dict[str, Any]) -> Taken:
    try:
        with np.load(folder / "params.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        raise Problem(f"{folder / 'params.npz'} holds objects, which are not read: unpickling can run code.") from error
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    if missing := [name for name in names if name not in arrays]:
        raise Problem(f"{folder / 'params.npz'} has no {', '.join(missing)}.")
    return Taken(told, {name: torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in names})


def _tell_gemma_scope_2(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    told = {**_gemma_3_in(source), **(_json(path) if path.is_file() else {})}
    if told.get("architecture", "jump_relu") != "jump_relu":
        raise Problem(f"The SAE in {folder} is called {told['architecture']!r}, and only jump_relu is known here.")
    if str(told.get("type")).startswith(("cross", "clt")):
        raise Problem(SEVERAL_LAYERS.format(folder=folder))
    if "hf_hook_point_in" not in told:
        raise Problem(
            f"What the SAE in {folder} reads and writes is not said: there is no config.json that does.",
            "Put it beside params.safetensors, or import the SAE by its Hub id",
        )
    read, written = told["hf_hook_point_in"], told.get("hf_hook_point_out")
    about = {"model_name": _gemma_3(told["model_name"]) if "model_name" in told else None, **_gemma_3_hook(read)}
    name = "jumprelu"
    if written not in (read, None):
        name, about = "jumprelu_transcoder", {**about, **_gemma_3_hook(written, "_out")}
    return {"architecture": name, "apply_b_dec_to_input": False, "metadata": about}


def _take_gemma_scope_2(folder: Path, told: dict[str, Any]) -> Taken:
    """Its encoder reads x. In `params.safetensors`, w_enc is (d_in, d_sae), w_dec (d_sae, d_out), and what a transcoder
    adds to its reconstruction is x @ affine_skip_connection, (d_in, d_out)."""
    from safetensors.torch import load_file

    found = load_file(folder / "params.safetensors")
    weights = {ours: found[theirs] for theirs, ours in _GEMMA_3_NAMES.items() if theirs in found}
    if missing := [theirs for theirs, ours in _GEMMA_3_NAMES.items() if ours not in weights and ours != "W_skip"]:
        raise Problem(f"{folder / 'params.safetensors'} has no {', '.join(missing)}.")
    if weights["W_enc"].ndim != 2 or weights["W_dec"].ndim != 2:
        raise Problem(SEVERAL_LAYERS.format(folder=folder))
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T
        if told["architecture"] == "jumprelu_transcoder":
            told = {**told, "architecture": "jumprelu_skip_transcoder"}
    return Taken(told, weights)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{path} is no JSON: {error}.") from error
    if not isinstance(told, dict):
        raise Problem(f"{path} holds no JSON object.")
    return told


def _hook(layer: str, site: str, way: str = "") -> dict[str, Any]:
    """A hook in SAELens' words: of what is read, or by the way `_out` of what a transcoder writes."""
    return {f"hook_name{way}": f"blocks.{layer}.{site}", f"hook_layer{way}": int(layer)}


#: What a layer and its parts read and write, by the names of hooks.
_SPARSIFY_SITES = {
    "": ("hook_resid_pre", "hook_resid_post"),
    "mlp": ("mlp.hook_in", "hook_mlp_out"),
    **dict.fromkeys(("attn", "attention", "self_attn", "self_attention"), ("attn.hook_in", "hook_attn_out")),
}


def _sparsify_hooks(source: str, transcoder: bool) -> dict[str, Any]:
    """What the folder's name tells, which is a module's path: `layers.6`, `h.6.mlp`, `layers.6.self_attn/seed1`.

    An SAE reads what comes out of the module; a transcoder reads what goes into it, and writes what comes out. Of a
    module that is not known here nothing is told.
    """
    named = re.search(r"(?:^|/)(?:\w+\.)*((?:layers?|h|blocks)\.(\d+)(?:\.([\w.]+))?)(?:/seed\d+)?$", source)
    if named is None or (part := named[3] or "") not in _SPARSIFY_SITES:
        return {}
    module, layer, (read, written) = named[1], named[2], _SPARSIFY_SITES[part]
    if not transcoder:
        return {**_hook(layer, written), "hook_module": module}
    hooks = {**_hook(layer, read), **_hook(layer, written, "_out")}
    return {**hooks, "hook_module": module, "hook_module_out": module}


#: What Gemma Scope's coders read, by the last word of their repository's name. Its transcoders do not read what the MLP
#: reads, but that before the norm's weights, which were folded into the MLP (arXiv:2408.05147v2, page 18).
_GEMMA_2_SITES = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}


def _gemma_2_in(source: str) -> dict[str, Any]:
    """The model and hooks that names in a path tell: `google/gemma-scope-2b-pt-mlp/layer_20/…`."""
    told: dict[str, Any] = {}
    if named := re.search(r"gemma-scope-(\d+b)-(pt|it)", source):
        told["model_name"] = f"google/gemma-2-{named[1]}{'-it' if named[2] == 'it' else ''}"
    if place := re.search(rf"gemma-scope-\w+-\w+-({'|'.join(_GEMMA_2_SITES)})\b.*/layer_(\d+)(?:/|$)", source):
        told |= _hook(place[2], _GEMMA_2_SITES[place[1]])
        if place[1] == "transcoders":
            told |= _hook(place[2], "hook_mlp_out", "_out")
    return told


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
    "affine_skip_connection": "W_skip",
}
#: What is told of Gemma Scope 2's crosscoders and cross-layer transcoders.
SEVERAL_LAYERS = (
    "{folder} holds a coder of several layers, whose features write differently to each from where they are read: "
    "that cannot be taken in; of Gemma Scope 2 the SAEs and transcoders of one layer can."
)


def _gemma_3_in(source: str) -> dict[str, Any]:
    """What names in a path tell, as `config.json` would: `google/gemma-scope-2-4b-it/resid_post/layer_9_width_16k…`."""
    told: dict[str, Any] = {}
    if named := re.search(r"gemma-scope-2-(\w+-(?:pt|it))", source):
        told["model_name"] = f"gemma-3-{named[1]}"
    if place := re.search(rf"({'|'.join(_GEMMA_3_POINTS)})(?:_all)?/layer_(\d+)_", source):
        read, written = _GEMMA_3_POINTS[place[1]]
        layer = f"model.layers.{place[2]}"
        told |= {"hf_hook_point_in": f"{layer}.{read}", "hf_hook_point_out": f"{layer}.{written}"}
    return told


def _gemma_3(model: str) -> str:
    """The model's Hub id: the smallest has no `-pt` there, and some files say `v3`."""
    name = model.removeprefix("google/").replace("-v3", "-3")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"


def _gemma_3_hook(point: str, way: str = "") -> dict[str, Any]:
    """The name of a hook here, and its layer, from `model.layers.9.output`; nothing where it is not known."""
    found = re.fullmatch(r"model(?:\.\w+)?\.layers\.(\d+)\.(.+)", point)
    if found is None or found[2] not in _GEMMA_3_HOOKS:
        return {}
    return _hook(found[1], _GEMMA_3_HOOKS[found[2]], way)


FORMS = {
    "SAELens": Form(("cfg.json", "sae_weights.safetensors"), _tell_sae_lens, _take_sae_lens),
    "sparsify": Form(("cfg.json", "sae.safetensors"), _tell_sparsify, _take_sparsify),
    "Gemma Scope": Form(("params.npz",), _tell_gemma_scope, _take_gemma_scope),
    "Gemma Scope 2": Form(("params.safetensors",), _tell_gemma_scope_2, _take_gemma_scope_2),
}
#: Every file that may be needed of a folder.
FILES = {
    *(name for form in FORMS.values() for name in form.files),
    *("config.json", "sparsity.safetensors", "metrics.jsonl", "mistudio.json"),
}
