"""Export: writes SAEs in the formats of other libraries.

Each form takes activations as they are. Its codes are those of the SAE, with one exception: dictionary_learning
rescales the decoder rows of a standard SAE to length 1 when it loads them, so they are written so, and a code there
counts unit rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.lazy_import import torch
from tasks.parsing.tensor_files import save_tensors
from tasks.sae.formats.files import regular
from tasks.sae.formats.foreign_sae import OWN_NAME, TRANSFORMERS

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.sae.coder import Coder, CoderConfig

SAE_LENS, DICTIONARY_LEARNING, SPARSIFY = "sae-lens", "dictionary-learning", "sparsify"


def write_as(
    form: str, sae: Path, folder: Path, writer: str = "export", before: Callable[[Path], None] = lambda _: None
) -> None:
    """Write the saved SAE of the folder `sae` into the new `folder` in one of FORMS, whole or not at all.

    Until it is whole it is in a draft beside it, named by the `writer`: several may write to one folder, the first gets
    it. `before` is called with the whole draft, which is then renamed. Raises UserError for an SAE that the form has no
    words for, and when `folder` is there already.
    """
    from tasks.sae.formats.native import read_shape

    refuse_wordless(form, read_shape(sae))
    draft = folder.with_name(f"{folder.name}.{writer}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _WRITERS[form](sae, draft)
        refuse_taken(folder)
        before(draft)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_wordless(form: str, shape: CoderConfig) -> None:
    """UserError for a shape of SAE that the form has no words for."""
    library = form.replace("-", "_")
    if form != SAE_LENS and shape.blocks > 1:
        raise UserError(f"{library} has no crosscoders.", _ELSE)
    if form == DICTIONARY_LEARNING and shape.d_out is not None:
        raise UserError(f"{library} has no transcoders.", _ELSE)
    if form == SPARSIFY and shape.architecture != "topk":
        raise UserError(f"{library} has TopK SAEs only, and this one's codes are {shape.architecture}.", _ELSE)
    if form == SPARSIFY and shape.d_out not in (None, shape.d_in):
        raise UserError(
            f"{library}'s transcoders write as many numbers as they read, this one {shape.d_out} for {shape.d_in}.",
            _ELSE,
        )


def refuse_taken(folder: Path) -> None:
    """UserError when there is anything at that path."""
    if folder.exists():
        raise UserError(f"{folder} is there already.", "Give a folder that is not there yet")


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        refuse_taken(folder)  # since it was looked at, another has written it
        raise


def _as_sae_lens(sae: Path, folder: Path) -> None:
    """As it is in the store: `cfg.json`, `sae_weights.safetensors`, `sparsity.safetensors`, with SAELens' hooks."""
    from tasks.sae.formats.native import CONFIG, DENSITY, WEIGHTS, load_sae, read_config
    from tasks.storage.store import write_json

    load_sae(sae)  # or it says what is wrong with it
    for path in (regular(sae, name) for name in (WEIGHTS, DENSITY)):
        if path is not None:
            shutil.copyfile(path, folder / path.name)
    config = read_config(sae)
    about = config.get("metadata", {})
    if about.get("model_source") == "store" and (model := sae.parent.parent / "models" / about["model_name"]).is_dir():
        about = {**about, "model_name": str(model.absolute()), "model_source": "local"}
    write_json(folder / CONFIG, {**config, "metadata": for_sae_lens(about)})


def for_sae_lens(about: dict[str, Any]) -> dict[str, Any]:
    """The metadata as SAELens needs them: the model's revision, and its dtype unless that is float32, as arguments.

    For transformers hooks are named by their modules.

    TransformerLens' names of hooks are kept beside those of modules, and are taken up again on import.
    """
    dtype, swapped = about.get("model_dtype"), dict[str, Any]()
    loading = {"revision": about.get("model_revision"), "dtype": None if dtype == "float32" else dtype}
    if loading := {name: value for name, value in loading.items() if value}:
        swapped = {"model_from_pretrained_kwargs": loading}
    if about.get("model_class_name") != TRANSFORMERS:
        return {**about, **swapped}
    for way in ("", "_out"):
        if (module := about.get(f"hf_hook_name{way}")) and (name := about.get(f"hook_name{way}")):
            swapped |= {f"hook_name{way}": module, f"{OWN_NAME}{way}": name}
    return {**about, **swapped}


def _as_sparsify(sae: Path, folder: Path) -> None:
    """`cfg.json` and `sae.safetensors`, as `SparseCoder.load_from_disk` reads them."""
    from tasks.sae.formats.native import load_sae
    from tasks.storage.store import write_json

    coder = load_sae(sae)
    config = coder.config
    tensors = {"encoder.weight": coder.W_enc, "encoder.bias": coder.b_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    if config.skip:
        tensors["W_skip"] = coder.W_skip
    save_tensors(folder / "sae.safetensors", tensors)
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, config.d_sae // config.d_in),
        "normalize_decoder": False,  # rows are as long as the activations' scale wants them
        "num_latents": config.d_sae,
        "k": coder.options.k,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": coder.is_transcoder,
        "d_in": config.d_in,
    }
    write_json(folder / "cfg.json", cfg)


def _as_dictionary_learning(sae: Path, folder: Path) -> None:
    """`ae.pt`, which is a pickle of tensors, and `config.json`, as `load_dictionary` reads them."""
    from tasks.sae.formats.native import load_sae, read_config
    from tasks.storage.store import write_json

    coder, about = load_sae(sae), read_config(sae).get("metadata", {})
    kind, turn = _DICTIONARIES[coder.config.architecture]
    torch.save({name: tensor.clone().contiguous() for name, tensor in turn(coder).items()}, folder / "ae.pt")
    trainer = {
        "dict_class": kind,
        "trainer_class": about.get("trained_as"),
        "activation_dim": coder.config.d_in,
        "dict_size": coder.config.d_sae,
        "k": getattr(coder.options, "k", None),
        "layer": about.get("hook_layer"),
        "lm_name": about.get("model_name"),
        "submodule_name": about.get("hook_name"),
    }
    buffer = {"ctx_len": about.get("context_size"), "d_submodule": coder.config.d_in}
    write_json(folder / "config.json", {"trainer": trainer, "buffer": buffer})


def _standard(coder: Coder) -> dict[str, Tensor]:
    lengths = coder.W_dec.norm(dim=1).clamp_min(1e-30)
    return {
        "bias": coder.b_dec,
        "encoder.weight": coder.W_enc * lengths[:, None],
        "encoder.bias": coder.b_enc * lengths,
        "decoder.weight": (coder.W_dec / lengths[:, None]).T,
    }


def _gated(coder: Any) -> dict[str, Tensor]:
    return {
        "decoder_bias": coder.b_dec,
        "r_mag": coder.r_mag,
        "gate_bias": coder.b_gate,
        "mag_bias": coder.b_mag,
        "encoder.weight": coder.W_enc,
        "decoder.weight": coder.W_dec.T,
    }


def _topk(coder: Coder) -> dict[str, Tensor]:
    return {
        "b_dec": coder.b_dec,
        "k": torch.tensor(coder.options.k, dtype=torch.int),
        "threshold": torch.tensor(-1.0),  # no threshold was measured
        "encoder.weight": coder.W_enc,
        "encoder.bias": coder.b_enc,
        "decoder.weight": coder.W_dec.T,
    }


def _jumprelu(coder: Any) -> dict[str, Tensor]:
    """Its encoder reads x, not x - b_dec: the bias takes that up."""
    bias = coder.b_enc.double() - coder.W_enc.double() @ coder.b_dec.double()
    return {
        "W_enc": coder.W_enc.T,
        "b_enc": bias.float(),
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
        "threshold": coder.threshold,
    }


_ELSE = f"Export it with --to {SAE_LENS}"

#: The class of dictionary_learning that has an architecture's codes, and its tensors.
_DICTIONARIES: dict[str, tuple[str, Callable[[Any], dict[str, Tensor]]]] = {
    "standard": ("AutoEncoder", _standard),
    "gated": ("GatedAutoEncoder", _gated),
    "topk": ("AutoEncoderTopK", _topk),
    "jumprelu": ("JumpReluAutoEncoder", _jumprelu),
}

_WRITERS: dict[str, Callable[[Path, Path], None]] = {
    SAE_LENS: _as_sae_lens,
    DICTIONARY_LEARNING: _as_dictionary_learning,
    SPARSIFY: _as_sparsify,
}
FORMS = tuple(_WRITERS)
