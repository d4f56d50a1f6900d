"""The saved form of an SAE: SAELens' `cfg.json` and `sae_weights.safetensors`, the only place it is written or read.

Weights are float32: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec. The scale of the training is folded in, so
a saved SAE takes the model's activations as they are, here and in `sae_lens.SAE.load_from_disk` alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tasks.problem import Problem
from tasks.sae.architectures import build
from tasks.sae.coder import Coder, CoderConfig
from tasks.store import write_json

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

#: The SAELens release whose form this is: without it, SAELens takes the file for an older one and drops the metadata.
_FORM = "6.0.0"

#: What a loaded SAE must say, because nothing else is understood here.
_UNDERSTOOD = {
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}


@torch.no_grad()
def save_sae(folder: Path, coder: Coder, scale: float, metadata: dict[str, Any]) -> None:
    """Write `coder`, trained on activations times `scale`, so that it takes the activations themselves.

    Codes stay what they were: W_enc * scale, W_dec / scale, b_dec / scale.
    """
    config = coder.config
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "W_enc": coder.W_enc.T * scale,
        "b_enc": coder.b_enc,
        "W_dec": coder.W_dec / scale,
        "b_dec": coder.b_dec / scale,
    }
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    told = {
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **coder.saved_options(),
        "metadata": {"sae_lens_version": _FORM, **metadata},
    }
    write_json(folder / CONFIG, told)


@torch.no_grad()
def load_sae(folder: Path, device: str = "cpu") -> Coder:
    """The SAE in `folder`: `encode` (n, d_in) -> (n, d_sae) and `decode` back, float32, without gradients.

    Raises Problem when there is none, or one that means something not understood here.
    """
    told = read_config(folder)
    config = CoderConfig(told["architecture"], told["d_in"], told["d_sae"], k=told.get("k", CoderConfig.k))
    try:
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise Problem(f"{folder} has no {WEIGHTS}.") from error
    coder = build(config)
    for name, parameter in coder.named_parameters():
        value = weights[name].float()
        parameter.copy_(value.T if name == "W_enc" else value)
    return coder.to(device).requires_grad_(False).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """What `cfg.json` says. Raises Problem when it is missing, broken, or means something not understood here."""
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise Problem(f"There is no SAE in {folder}: its {CONFIG} cannot be read.") from error
    for key, understood in _UNDERSTOOD.items():
        if told.get(key, understood) != understood:
            raise Problem(f"The SAE in {folder} has {key} = {told[key]!r}, which is not supported.")
    return told
