"""Codes of an SAE folder by the formulas of its library, from its files, without any code of this project."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]


def codes_of(folder: Path, x: Tensor) -> Tensor:
    """(n, d_in) activations -> (n, d_sae) codes, float64."""
    x = x.double()
    if (folder / "params.npz").exists():
        with np.load(folder / "params.npz") as file:
            return _jumprelu(x, {name: torch.from_numpy(file[name].astype("<f8")) for name in file.files})
    if (folder / "params.safetensors").exists():
        found = _double(folder / "params.safetensors")
        return _jumprelu(x, {name.replace("w_", "W_"): tensor for name, tensor in found.items()})
    result = json.loads((folder / "cfg.json").read_text())
    if (folder / "sae.safetensors").exists():
        w = _double(folder / "sae.safetensors")
        read = x if result.get("transcode") else x - w["b_dec"]
        return _strongest(read @ w["encoder.weight"].T + w["encoder.bias"], result["k"])
    return _sae_lens(folder, result, _double(folder / "sae_weights.safetensors"), x)


def _sae_lens(folder: Path, result: dict[str, Any], w: Tensors, x: Tensor) -> Tensor:
    scaler = folder / "activation_scaler.json"
    kind = result.get("normalize_activations")
    scale = (
        float(json.loads(scaler.read_text())["scaling_factor"]) if kind in (True, "expected_average_only_in") else 1.0
    )
    z = x * scale
    if result.get("apply_b_dec_to_input", True) and not result["architecture"].endswith("transcoder"):
        z = z - w["b_dec"]
    architecture = result.get("architecture", "standard")
    if "metadata" not in result and result.get("activation_fn", result.get("activation_fn_str")) == "topk":
        architecture, result = (
            "topk",
            {**result, "k": result["activation_fn_kwargs"]["k"]},
        )  # as SAELens reads those before its 6
    z = z @ w["W_enc"]
    if architecture == "gated":
        return (z * w["r_mag"].exp() + w["b_mag"]).relu() * (z + w["b_gate"] > 0)
    pre = z + w["b_enc"]
    # Trainers rescale unless they say otherwise; saved SAEs do where they say so.
    if result.get("rescale_acts_by_decoder_norm", architecture == "batchtopk"):
        pre = pre * w["W_dec"].norm(dim=1) / scale  # decoder rows are divided by the scale
    if architecture == "batchtopk":
        unit = scale if result.get("rescale_acts_by_decoder_norm", True) else 1
        return pre.relu() * (pre > w["topk_threshold"] / unit)
    if architecture.startswith("jumprelu"):
        threshold = w["threshold"] if "threshold" in w else w["log_threshold"].exp()
        return pre.relu() * (pre > threshold)
    if architecture.startswith("topk"):
        return _strongest(pre, result["k"])
    assert architecture in ("standard", "transcoder", "skip_transcoder"), architecture
    return pre.relu()


def _jumprelu(x: Tensor, w: Tensors) -> Tensor:
    pre = x @ w["W_enc"] + w["b_enc"]
    return pre.relu() * (pre > w["threshold"])


def _strongest(pre: Tensor, k: int) -> Tensor:
    values, ids = pre.topk(k)
    return torch.zeros_like(pre).scatter(1, ids, values.relu())


def _double(path: Path) -> Tensors:
    found = {name: tensor.double() for name, tensor in load_file(path).items()}
    assert all(math.isfinite(float(tensor.abs().max())) for tensor in found.values())
    return found
