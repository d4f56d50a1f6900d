"""What is saved is what was trained, in the form SAELens reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.problem import Problem
from tasks.sae.architectures import build, names
from tasks.sae.coder import Coder, CoderConfig
from tasks.sae.formats import load_sae, save_sae

SCALE = 0.25


def trained(architecture: str) -> Coder:
    coder = build(CoderConfig(architecture, d_in=8, d_sae=24, k=3), seed=4)
    with torch.no_grad():
        coder.b_dec.normal_(generator=torch.Generator().manual_seed(5))
        coder.b_enc.normal_(generator=torch.Generator().manual_seed(6))
    return coder


@pytest.mark.parametrize("architecture", names())
def test_a_saved_sae_takes_raw_activations_and_gives_the_same_codes(tmp_path: Path, architecture: str):
    coder = trained(architecture)
    save_sae(tmp_path, coder, SCALE, {"model_name": "tiny"})
    loaded = load_sae(tmp_path)
    raw = torch.randn(50, 8, generator=torch.Generator().manual_seed(7)) / SCALE
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(raw), coder.encode(raw * SCALE), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(raw), coder(raw * SCALE) / SCALE, rtol=1e-4, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_files_are_those_of_saelens(tmp_path: Path):
    save_sae(tmp_path, trained("topk"), SCALE, {"hook_name": "blocks.1.hook_resid_post"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert json.loads((tmp_path / "cfg.json").read_text()) == {
        "architecture": "topk",
        "d_in": 8,
        "d_sae": 24,
        "k": 3,
        "rescale_acts_by_decoder_norm": False,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.1.hook_resid_post"},
    }
    weights = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,)}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_saved_weights_follow_the_published_formula(tmp_path: Path):
    save_sae(tmp_path, trained("topk"), SCALE, {})
    weights = load_file(tmp_path / "sae_weights.safetensors")
    raw = torch.randn(50, 8, generator=torch.Generator().manual_seed(8)) / SCALE
    values, ids = ((raw - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).topk(3)
    codes = torch.zeros(50, 24).scatter(1, ids, values.relu())
    torch.testing.assert_close(load_sae(tmp_path).encode(raw), codes, rtol=1e-4, atol=1e-4)


def test_what_is_not_understood_is_refused(tmp_path: Path):
    with pytest.raises(Problem, match="no SAE in"):
        load_sae(tmp_path)
    save_sae(tmp_path, trained("topk"), SCALE, {})
    told = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**told, "normalize_activations": "layer_norm"}))
    with pytest.raises(Problem, match="normalize_activations = 'layer_norm'"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({**told, "architecture": "temporal"}))
    with pytest.raises(Problem, match="no SAE architecture 'temporal'"):
        load_sae(tmp_path)
