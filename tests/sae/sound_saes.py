"""SAE folders of every form that can be read, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.sae.formats.native import save_density, save_sae
from tests.sae.test_formats import SCALE, trained
from tests.sae.test_importing import D_IN, D_SAE, drawn, gemma_scope, gemma_scope_2, weights, write

ABOUT = {
    "model_name": "gpt2",
    "hook_name": "blocks.3.hook_resid_post",
    "hook_layer": 3,
    "context_size": 64,
    "prepend_bos": True,
    "seqpos_slice": [None],
    "sae_lens_version": "6.54.12",
}
POINT = "model.layers.9.output"


def _version_6(folder: Path, architecture: str, tensors: dict[str, Tensor], **result: Any) -> None:
    write(folder, {"architecture": architecture, "metadata": ABOUT, "normalize_activations": "none", **result}, tensors)


def _gated(folder: Path) -> None:
    own = weights(b_gate=drawn(D_SAE, seed=5), b_mag=drawn(D_SAE, seed=6), r_mag=0.3 * drawn(D_SAE, seed=8))
    del own["b_enc"]
    _version_6(folder, "gated", own, apply_b_dec_to_input=False)


def _version_5(folder: Path) -> None:
    result = {"model_name": "gpt2-small", "hook_point": "blocks.3.hook_resid_post", "hook_point_layer": 3}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "architecture": "topk"}
    write(folder, result | topk, {**weights(), "scaling_factor": torch.ones(D_SAE)})


def _checkpoint(folder: Path) -> None:
    own = weights(topk_threshold=torch.tensor(0.7, dtype=torch.float64))
    result = {"k": 3.5, "rescale_acts_by_decoder_norm": True, "normalize_activations": "expected_average_only_in"}
    _version_6(folder, "batchtopk", own, **result)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')


def _sparsify(folder: Path) -> None:
    folder.mkdir(parents=True)
    own = weights()
    tensors = {"encoder.weight": own["W_enc"].T.contiguous(), "encoder.bias": own["b_enc"]}
    save_file(tensors | {"W_dec": own["W_dec"], "b_dec": own["b_dec"]}, folder / "sae.safetensors")
    result = {
        "activation": "topk",
        "num_latents": D_SAE,
        "expansion_factor": 3,
        "k": 4,
        "transcode": False,
        "d_in": D_IN,
    }
    (folder / "cfg.json").write_text(json.dumps({**result, "skip_connection": False, "multi_topk": False}))


def _ours(folder: Path) -> None:
    save_sae(folder, trained("batchtopk"), SCALE, {**ABOUT, "model_source": "hub"})
    save_density(folder, torch.linspace(0, 1, D_SAE))
    (folder / "mistudio.json").write_text('{"name": "mine", "result": {}}')
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')


def _gemma_2(folder: Path) -> None:
    gemma_scope_2(folder, {"hf_hook_point_in": POINT, "hf_hook_point_out": POINT, "model_name": "gemma-3-1b-it"})


SOUND: dict[str, Callable[[Path], Any]] = {
    "standard": lambda folder: _version_6(folder, "standard", weights()),
    "jumprelu": lambda folder: _version_6(
        folder, "jumprelu", weights(threshold=drawn(D_SAE, seed=5)), apply_b_dec_to_input=False
    ),
    "topk": lambda folder: _version_6(folder, "topk", weights(), k=3, rescale_acts_by_decoder_norm=True),
    "gated": _gated,
    "version 5": _version_5,
    "checkpoint": _checkpoint,
    "sparsify": _sparsify,
    "Gemma Scope": gemma_scope,
    "Gemma Scope 2": _gemma_2,
    "ours": _ours,
}
