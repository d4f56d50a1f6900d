"""What is saved is what was trained, in the form SAELens reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import UserError
from tasks.sae.architectures import build, names
from tasks.sae.coder import Coder, StepState
from tasks.sae.formats.native import Scales, load_sae, save_sae
from tests.fixtures.bench import shaped

SCALE = Scales((0.25,), (0.25,))


def trained(architecture: str, **shape: Any) -> Coder:
    """A coder none of whose numbers is as at the start; with a batch seen, where that decides what it is."""
    coder = build(dataclasses.replace(shaped(architecture, 8, 24, k=3), **shape), seed=4)
    for seed, name in enumerate(coder.parameters, 5):
        getattr(coder, name).normal_(generator=torch.Generator().manual_seed(seed))
    coder.constrain()
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(9))
    target = torch.randn(40, len(coder.b_dec), generator=torch.Generator().manual_seed(10))
    coder.step(vectors, target, StepState(torch.zeros(0, dtype=torch.int64)))
    return coder


@pytest.mark.parametrize("architecture", names())
def test_a_saved_sae_takes_raw_activations_and_gives_the_same_codes(tmp_path: Path, architecture: str):
    coder = trained(architecture)
    save_sae(tmp_path, coder, SCALE, {"model_name": "tiny"})
    loaded = load_sae(tmp_path)
    raw = torch.randn(50, 8, generator=torch.Generator().manual_seed(7)) / SCALE.read[0]
    torch.testing.assert_close(loaded.encode(raw), coder.encode(raw * SCALE.read[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded(raw), coder(raw * SCALE.read[0]) / SCALE.read[0], rtol=1e-4, atol=1e-3)
    assert (loaded.encode(raw) > 0).any()


@pytest.mark.parametrize("architecture", names())
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_transcoder_has_a_scale_on_each_side(tmp_path: Path, architecture: str, skip: bool):
    coder, scales = trained(architecture, d_out=5, skip=skip), Scales((0.25,), (3.0,))
    save_sae(tmp_path, coder, scales, {})
    loaded = load_sae(tmp_path)
    assert (loaded.is_transcoder, loaded.config.d_out, loaded.config.skip) == (True, 5, skip)
    raw = torch.randn(50, 8, generator=torch.Generator().manual_seed(7)) / scales.read[0]
    torch.testing.assert_close(loaded(raw), coder(raw * scales.read[0]) / scales.written[0], rtol=1e-4, atol=1e-4)


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
        "metadata": {
            "sae_lens_version": "6.0.0",
            "trained_as": "topk",
            "trained_with": {"k": 3, "aux": 1 / 32},
            "hook_name": "blocks.1.hook_resid_post",
        },
    }
    weights = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,)}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_the_saved_weights_follow_the_published_formula(tmp_path: Path):
    save_sae(tmp_path, trained("topk"), SCALE, {})
    weights = load_file(tmp_path / "sae_weights.safetensors")
    raw = torch.randn(50, 8, generator=torch.Generator().manual_seed(8)) / SCALE.read[0]
    values, ids = ((raw - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).topk(3)
    codes = torch.zeros(50, 24).scatter(1, ids, values.relu())
    torch.testing.assert_close(load_sae(tmp_path).encode(raw), codes, rtol=1e-4, atol=1e-4)


def test_what_is_not_understood_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no SAE in"):
        load_sae(tmp_path)
    save_sae(tmp_path, trained("topk"), SCALE, {})
    result = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**result, "normalize_activations": "layer_norm"}))
    with pytest.raises(UserError, match="normalize_activations = 'layer_norm'"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({**result, "architecture": "temporal"}))
    with pytest.raises(UserError, match="no SAE architecture 'temporal'"):
        load_sae(tmp_path)
