"""SAEs of others as ours: the only place where the files of other libraries are read and their conventions turned.

Read are SAELens' folders, sparsify's, and Gemma Scope's `params.npz`. What comes out is the form of `formats`: an
autoencoder's encoder reads x - b_dec, codes are not stretched, activations are taken as they are. Each turn is exact,
and made in double precision. A pickle is never read: loading one can run any code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.late import np, torch
from tasks.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

#: What `cfg.json` may say of activations besides nothing, which would have to be done to each vector.
_AS_THEY_ARE = {"normalize_activations": ("none", False, None), "reshape_activations": ("none", None)}
#: SAELens' names, before its version 6, of what it calls otherwise now; and what was no metadata then.
_RENAMED = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}
_METADATA = ("model_name", "hook_name", "hook_layer", "context_size", "prepend_bos", "dataset_path", "seqpos_slice")


class Taken(NamedTuple):
    """An SAE as it was found: the form it had, and in SAELens' words what it is, and its tensors."""

    form: str
    told: dict[str, Any]
    tensors: dict[str, Tensor]


def form_of(folder: Path) -> str:
    """Which form the SAE in `folder` has. Problem when there is none, or one that is not read."""
    for form, (files, _) in _READERS.items():
        if all((folder / file).is_file() for file in files):
            return form
    if (folder / "ae.pt").is_file():
        raise Problem(
            f"{folder} holds ae.pt, a pickle: loading one can run any code, so none is read here.",
            "Load it where you trust it, and save it as safetensors in SAELens' form",
        )
    below = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob("*/**/cfg.json"))
    if below:
        raise Problem(f"There is no SAE in {folder}, but in folders below it.", f"For one: {folder / below[0]}")
    wanted = "; ".join(f"{' and '.join(files)} ({form})" for form, (files, _) in _READERS.items())
    raise Problem(f"There is no SAE in {folder}.", f"Known are {wanted}")


def take(folder: Path, output: Path, source: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the SAE in `folder` into `output` in our form, and tell what it is.

    `source` says where it is from: names in it tell what a file does not. `about` goes before what its files say of
    `model_name`, `hook_name` and `hook_layer`. Raises Problem for what is not understood.
    """
    from tasks.sae.card import RECORD
    from tasks.sae.formats import DENSITY, load_density, load_sae, save_density, write_sae

    taken = _READERS[form_of(folder)][1](folder, source)
    told, tensors = _turned(taken)
    given = {key: value for key, value in about.items() if value is not None}
    origin = {"imported_from": source, "imported_form": taken.form}
    told["metadata"] = {**_metadata(told["metadata"]), **given, **origin}
    if (folder / DENSITY).is_file() and (density := load_density(folder)) is not None:
        save_density(output, density)
    write_sae(output, told, tensors)
    coder = load_sae(output)  # or it says what is missing
    for name in (RECORD, "metrics.jsonl"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, output / name)
    return {
        "form": taken.form,
        "architecture": told["architecture"],
        "d_in": coder.config.d_in,
        "d_sae": coder.config.d_sae,
        "model": told["metadata"].get("model_name"),
        "hook": told["metadata"].get("hook_name"),
        "trained_as": told["metadata"].get("trained_as"),
    }


def _metadata(told: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what would be misread here: that special tokens were left out, known by the model."""
    kept = {key: value for key, value in told.items() if value is not None}
    if kept.get("exclude_special_tokens") is True:
        del kept["exclude_special_tokens"]
    return kept


# -- the forms ---------------------------------------------------------------------------------------------------------


def _from_sae_lens(folder: Path, _source: str) -> Taken:
    from safetensors.torch import load_file

    told = _json(folder / "cfg.json")
    told = {_RENAMED.get(key, key): value for key, value in told.items()}
    if "metadata" not in told:  # before version 6
        told["metadata"] = {key: told[key] for key in _METADATA if told.get(key) is not None}
        told.setdefault("architecture", "standard")
        if told.get("activation_fn") == "topk":
            told |= {"architecture": "topk", "k": told.get("activation_fn_kwargs", {}).get("k")}
    tensors = load_file(folder / "sae_weights.safetensors")
    factor = tensors.pop("scaling_factor", tensors.pop("finetuning_scaling_factor", None))
    if factor is not None and not torch.equal(factor, torch.ones_like(factor)):
        raise Problem(f"The SAE in {folder} multiplies codes with a factor of their own, which is not supported.")
    return Taken("SAELens", told, tensors)


def _from_sparsify(folder: Path, source: str) -> Taken:
    from safetensors.torch import load_file

    told, tensors = _json(folder / "cfg.json"), load_file(folder / "sae.safetensors")
    if told.get("activation", "topk") != "topk" or told.get("signed"):
        kind = "signed" if told.get("signed") else told["activation"]
        raise Problem(f"The SAE in {folder} has {kind} codes, and only those of TopK are known here.")
    weights = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    name = "topk"
    if told.get("transcode"):
        name = "topk_skip_transcoder" if "W_skip" in tensors else "topk_transcoder"
        weights |= {"W_skip": tensors["W_skip"]} if "W_skip" in tensors else {}
    elif "W_skip" in tensors:
        raise Problem(f"The SAE in {folder} is no transcoder, but has a way past its features: that is not known here.")
    run = _json(folder.parent / "config.json") if (folder.parent / "config.json").is_file() else {}
    config = {"architecture": name, "k": told["k"], "apply_b_dec_to_input": not told.get("transcode")}
    about = {"model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}
    return Taken("sparsify", {**config, "metadata": {**about, **_hook_in(source)}}, weights)


def _from_gemma_scope(folder: Path, source: str) -> Taken:
    try:
        with np.load(folder / "params.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        raise Problem(f"{folder / 'params.npz'} holds objects, which are not read: unpickling can run code.") from error
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    if missing := [name for name in names if name not in arrays]:
        raise Problem(f"{folder / 'params.npz'} has no {', '.join(missing)}.")
    weights = {name: torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in names}
    # BOS was left out of its training; it is the first token of each row (Lieberum et al. 2024, arXiv:2408.05147).
    about = {**_gemma_in(source), **_hook_in(source), "seqpos_slice": [1, None]}
    return Taken("Gemma Scope", {"architecture": "jumprelu", "apply_b_dec_to_input": False, "metadata": about}, weights)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{path} is no JSON: {error}.") from error
    if not isinstance(told, dict):
        raise Problem(f"{path} holds no JSON object.")
    return told


#: Names that tell a site; the residual stream where there is none of them.
_SITES = {"mlp": "hook_mlp_out", "att": "attn.hook_z"}


def _hook_in(source: str) -> dict[str, Any]:
    """The hook that names in a path tell: `layers.6`, `layers.6.mlp`, `gemma-scope-2b-pt-mlp/layer_20/…`."""
    layer = re.search(r"layers?[._](\d+)(?:\.(\w+))?", source)
    if layer is None:
        return {}
    scope = re.search(r"gemma-scope-\w+-\w+-(\w+)", source)
    word = layer[2] or (scope[1] if scope else "")
    site = next((site for start, site in _SITES.items() if word.startswith(start)), "hook_resid_post")
    return {"hook_name": f"blocks.{layer[1]}.{site}", "hook_layer": int(layer[1])}


def _gemma_in(source: str) -> dict[str, Any]:
    """The model that the name of one of Gemma Scope's repositories tells."""
    named = re.search(r"gemma-scope-(\d+b)-(pt|it)", source)
    return {"model_name": f"google/gemma-2-{named[1]}{'-it' if named[2] == 'it' else ''}"} if named else {}


_READERS: dict[str, tuple[tuple[str, ...], Callable[[Path, str], Taken]]] = {
    "SAELens": (("cfg.json", "sae_weights.safetensors"), _from_sae_lens),
    "sparsify": (("cfg.json", "sae.safetensors"), _from_sparsify),
    "Gemma Scope": (("params.npz",), _from_gemma_scope),
}
#: Every file that may be needed of a folder.
FILES = {
    *(name for files, _ in _READERS.values() for name in files),
    *("sparsity.safetensors", "metrics.jsonl", "mistudio.json"),
}


def folders_in(files: Iterable[str]) -> list[str]:
    """Which folders, of those that these relative paths name, hold an SAE that can be read; "" is the outermost."""
    held: dict[str, set[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        held.setdefault(folder, set()).add(name)
    return sorted(f for f, names in held.items() if any(set(wanted) <= names for wanted, _ in _READERS.values()))


# -- the conventions ---------------------------------------------------------------------------------------------------


def _turned(taken: Taken) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What it is and its tensors, float32, by the conventions of `formats`."""
    told, tensors = taken.told, {name: tensor.double() for name, tensor in taken.tensors.items()}
    for key, allowed in _AS_THEY_ARE.items():
        if told.get(key) not in allowed:
            raise Problem(
                f"The SAE has {key} = {told[key]!r}, which is not supported.", "Fold it into its weights first"
            )
    reads_all = str(told.get("architecture")).endswith("transcoder")
    if missing := [name for name in ("W_enc", "W_dec", "b_dec") if name not in tensors]:
        raise Problem(f"The SAE has no {', '.join(missing)} among its weights.")
    if told.get("rescale_acts_by_decoder_norm"):
        _fold_lengths(tensors)
    if not told.get("apply_b_dec_to_input", True) and not reads_all:
        _read_without_bias(tensors)
    if "threshold" in tensors:  # codes are cut at zero there, whatever the threshold
        tensors["threshold"] = tensors["threshold"].clamp_min(0)
    d_in, d_sae = tensors["W_enc"].shape
    own: dict[str, Any] = {key: told[key] for key in ("k", "blocks") if key in told}
    return (
        {
            "architecture": told.get("architecture"),
            "d_in": d_in,
            "d_sae": d_sae,
            **({"d_out": tensors["W_dec"].shape[1]} if reads_all else {}),
            "apply_b_dec_to_input": not reads_all,
            **own,
            "metadata": told["metadata"],
        },
        {name: tensor.float() for name, tensor in tensors.items()},
    )


def _fold_lengths(tensors: dict[str, Tensor]) -> None:
    """Codes that were chosen and counted times their decoder row's length are so by themselves."""
    lengths = tensors["W_dec"].norm(dim=1)
    tensors["W_enc"] = tensors["W_enc"] * lengths
    tensors["b_enc"] = tensors["b_enc"] * lengths
    tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]


def _read_without_bias(tensors: dict[str, Tensor]) -> None:
    """An encoder that reads x becomes one that reads x - b_dec: its biases take b_dec up."""
    taken = tensors["b_dec"] @ tensors["W_enc"]
    for name, share in (("b_enc", 1.0), ("b_gate", 1.0), ("b_mag", tensors.get("r_mag", torch.zeros(())).exp())):
        if name in tensors:
            tensors[name] = tensors[name] + taken * share
