"""Import: converts SAEs of other libraries to the store's conventions.

What comes out is the form of `formats`: an autoencoder's encoder reads x - b_dec, codes are not stretched, activations
are taken as they are. Each turn is exact, and made in double precision. A pickle is never read: loading one can run any
code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.parsing.tensor_files import shown
from tasks.sae.formats.files import copy_regular, read_object, refuse_irregular, regular
from tasks.sae.formats.validation import check_config, check_shapes, expected_shapes, in_single
from tasks.sae.importing.folding import fold_input_bias
from tasks.sae.importing.other_libraries import FILES, FORMS, SEVERAL_LAYERS
from tasks.sae.importing.processed_weights import Processed
from tasks.sae.importing.sae_lens import own_hooks

if TYPE_CHECKING:
    from torch import Tensor

#: How many files and folders are looked at in search of an SAE below the folder that was given.
_MOST_LOOKED_AT = 2_000

#: What `cfg.json` may say of activations besides nothing, which would have to be done to each vector.
_AS_THEY_ARE = {"normalize_activations": ("none", False, None), "reshape_activations": ("none", None)}


def form_of(folder: Path) -> str:
    """Which form the SAE in `folder` has. UserError when there is none, or one that is not read."""
    refuse_irregular(folder, FILES)
    for name, form in FORMS.items():
        if all((folder / file).is_file() for file in form.files):
            return name
    if (folder / "ae.pt").is_file():
        raise UserError(
            f"{folder} holds ae.pt, a pickle: loading one can run any code, so none is read here.",
            "Load it where you trust it, and save it as safetensors in SAELens' form",
        )
    if any(folder.glob("params_layer_*.safetensors")):
        raise UserError(SEVERAL_LAYERS.format(folder=folder))
    if (below := _first_below(folder)) is not None:
        raise UserError(f"There is no SAE in {folder}, but in folders below it.", f"For one: {below}")
    wanted = "; ".join(f"{' and '.join(form.files)} ({name})" for name, form in FORMS.items())
    raise UserError(f"There is no SAE in {folder}.", f"Known are {wanted}")


def _first_below(folder: Path) -> Path | None:
    """The first folder below that may hold an SAE; a tree as large as a home directory is not searched to its end."""
    looked_at = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        if Path(place) != folder and not {"cfg.json", "params.npz", "params.safetensors"}.isdisjoint(files):
            return Path(place)
        looked_at += len(folders) + len(files)
        if looked_at > _MOST_LOOKED_AT:
            return None
    return None


def describe(folder: Path, source: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the SAE in `folder` is, in SAELens' words, as far as it is known without its weights.

    Raises UserError as `take` does, so far.
    """
    description = FORMS[form_of(folder)].describe(folder, source)
    if about.get("hook_name") is not None:
        _refuse_other_hook(folder, description, about["hook_name"])
    return description


def _refuse_other_hook(folder: Path, description: Mapping[str, Any], given: str) -> None:
    """UserError where the SAE is known to read something else than the given hook, or writes another than it reads."""
    found, kind = description["metadata"].get("hook_name"), str(description.get("architecture")).rpartition("_")[2]
    of_several = kind in ("transcoder", "crosscoder")
    if found is None and of_several:
        raise UserError(
            f"In {folder} is a {kind}, and one layer does not identify what it reads and writes.",
            "Leave --layer out; how folder names identify hooks: docs/formats.md",
        )
    if found not in (None, given) and (of_several or _after(found) != given):
        raise UserError(f"The SAE in {folder} reads {found}, not {given}.", "Leave --layer out")


def _after(hook: str) -> str:
    """What is read before a layer as what comes after the one before it; any other hook as it is."""
    before = re.fullmatch(r"blocks\.([1-9]\d*)\.hook_resid_pre", hook)
    return f"blocks.{int(before[1]) - 1}.hook_resid_post" if before else hook


def take(
    folder: Path, output: Path, source: str, about: Mapping[str, Any], family: str | None = None
) -> dict[str, Any]:
    """Write the SAE in `folder` into `output` in our form, and return what it is.

    `source` says where it is from: names in it supply what a file does not. `about` goes before what its files say of
    `model_name`, `hook_name` and `hook_layer`; `family` is the `model_type` of that model where it is known. Raises
    UserError for what is not understood, before anything is written.
    """
    from tasks.sae.density import histogram
    from tasks.sae.formats.native import CONFIG, load_density, load_sae, save_density, shape_of, write_sae

    form = form_of(folder)
    taken = FORMS[form].take(folder, describe(folder, source, about))
    given = {key: value for key, value in about.items() if value is not None}
    found, converted = own_hooks({**taken.config["metadata"], **given})
    tensors = {name: tensor.double() for name, tensor in taken.tensors.items()}
    processed = Processed(source, family, given="model_name" in given)
    found, unused, folded = processed.fold(found, tensors, taken.config)
    config, weights = _turned(taken.config, tensors)
    origin = {"imported_from": source, "imported_form": form}
    config["metadata"] = {**_metadata(found), **origin}
    check_config(config, folder / CONFIG)
    shape = shape_of(config, folder / CONFIG)
    check_shapes({name: tuple(tensor.shape) for name, tensor in weights.items()}, expected_shapes(shape), folder)
    density = load_density(folder, shape.d_sae)
    copies = _copies(folder)
    output.mkdir(parents=True, exist_ok=True)
    if density is not None:
        save_density(output, density)
    write_sae(output, config, in_single(weights, folder))
    load_sae(output)
    for path in copies:
        copy_regular(folder, path.name, output / path.name)
    return {
        "form": form,
        "architecture": config["architecture"],
        "d_in": shape.d_in,
        "d_sae": shape.d_sae,
        "model": config["metadata"].get("model_name"),
        "hook": config["metadata"].get("hook_name"),
        "trained_as": config["metadata"].get("trained_as"),
        "ignored": [*taken.ignored, *unused, *_dropped(found)],
        "notes": [*taken.notes, *converted, *folded],
        **({} if density is None else {"density_histogram": histogram(density).to_dict()}),
    }


def _copies(folder: Path) -> list[Path]:
    """The files that come along as they are. Raises UserError for a record that is no JSON object."""
    from tasks.sae.formats.model_card import RECORD

    record, lines = regular(folder, RECORD), regular(folder, "metrics.jsonl")
    if record is not None:
        read_object(record)
    return [path for path in (record, lines) if path is not None]


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what would be misread here: that special tokens were left out, known by the model."""
    dropped = _dropped(config)
    return {key: value for key, value in config.items() if value is not None and f"metadata.{key}" not in dropped}


def _dropped(config: Mapping[str, Any]) -> list[str]:
    return ["metadata.exclude_special_tokens"] if config.get("exclude_special_tokens") is True else []


def folders_in(files: Iterable[str]) -> list[str]:
    """Which folders, of those that these relative paths name, hold an SAE that can be read; "" is the outermost."""
    held: dict[str, set[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        held.setdefault(folder, set()).add(name)
    return sorted(f for f, names in held.items() if any(set(form.files) <= names for form in FORMS.values()))


# -- the conventions ---------------------------------------------------------------------------------------------------


def _turned(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What it is and its tensors, by the conventions of `formats`."""
    for key, allowed in _AS_THEY_ARE.items():
        if config.get(key) not in allowed:
            raise UserError(
                f"The SAE has {key} = {shown(config[key])}, which is not supported.", "Fold it into its weights first"
            )
    reads_all = str(config.get("architecture")).endswith("transcoder")
    if not config.get("apply_b_dec_to_input", True) and not reads_all:
        fold_input_bias(tensors)
    if "threshold" in tensors:  # codes are cut at zero there, whatever the threshold
        tensors["threshold"] = tensors["threshold"].clamp_min(0)
    d_in, d_sae = tensors["W_enc"].shape
    own: dict[str, Any] = {key: config[key] for key in ("k", "blocks") if key in config}
    return (
        {
            "architecture": config.get("architecture"),
            "d_in": d_in,
            "d_sae": d_sae,
            **({"d_out": tensors["W_dec"].shape[1]} if reads_all else {}),
            "apply_b_dec_to_input": not reads_all,
            **own,
        },
        tensors,
    )
