"""SAEs that the peers made and saved themselves are taken in with the same codes and reconstructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class, get_sae_training_class
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

from tasks.sae.formats.native import load_sae, read_config
from tasks.sae.importing.convert import take
from tests.interop.coders import random
from tests.interop.conftest import Compare

D_IN, D_SAE = 48, 192
X = 20 * random(200, D_IN, seed=11) + 5
#: SAELens' classes with options; those of transcoders read x.
INFERENCE: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 8, "rescale_acts_by_decoder_norm": True},
    "transcoder": {"d_out": 40},
    "skip_transcoder": {"d_out": 40},
    "jumprelu_transcoder": {"d_out": 40},
    "jumprelu_skip_transcoder": {"d_out": 40},
}


def drawn(module: torch.nn.Module) -> None:
    """None of its parameters as at the start."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed)


@pytest.mark.parametrize(
    ("architecture", "with_bias"),
    [(name, with_bias) for name in INFERENCE for with_bias in (True, False) if not (with_bias and "trans" in name)],
)
@torch.no_grad()
def test_saelens(compare: Compare, tmp_path: Path, architecture: str, with_bias: bool) -> None:
    kind, config = get_sae_class(architecture)
    theirs: SAE = kind(config(D_IN, D_SAE, apply_b_dec_to_input=with_bias, **INFERENCE[architecture]))
    drawn(theirs)
    theirs.save_model(tmp_path / "theirs")
    check(
        compare, tmp_path, "SAELens", f"{architecture} saved there: imported, encode, forward", theirs, theirs.encode(X)
    )


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {}),
        ("gated", {}),
        ("jumprelu", {"jumprelu_init_threshold": 0.3}),
        ("topk", {"k": 8}),
        ("batchtopk", {"k": 8}),
        ("matryoshka_batchtopk", {"k": 8, "matryoshka_widths": [48, 96, 192]}),
    ],
)
@torch.no_grad()
def test_what_saelens_trains(compare: Compare, tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    kind, config = get_sae_training_class(architecture)
    trained = kind(config(d_in=D_IN, d_sae=D_SAE, **options))
    drawn(trained)
    if hasattr(trained, "topk_threshold"):
        trained.topk_threshold.fill_(0.7)
    trained.save_inference_model(tmp_path / "theirs")
    theirs = SAE.load_from_disk(tmp_path / "theirs")
    what = f"{architecture} trained there: imported, encode, forward"
    check(compare, tmp_path, "SAELens", what, theirs, theirs.encode(X))


@pytest.mark.parametrize("options", [{}, {"transcode": True}, {"transcode": True, "skip_connection": True}])
@torch.no_grad()
def test_sparsify(compare: Compare, tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=8, **options))
    drawn(theirs)
    theirs.save_to_disk(tmp_path / "theirs")
    values, ids, _ = theirs.encode(X)
    codes = torch.zeros(len(X), D_SAE).scatter(1, ids, values)
    what = " ".join(["topk", *options]) + " saved there: imported, encode, forward"
    check(compare, tmp_path, "sparsify", what, lambda x: theirs(x).sae_out, codes)


@pytest.mark.parametrize("scope", ["res", "mlp", "transcoders"])
@torch.no_grad()
def test_gemma_scope(compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str) -> None:
    """Files in the form that google/gemma-scope-2b-pt-… has on the Hub, but smaller, by SAELens' own loaders."""
    repo, folder = f"google/gemma-scope-2b-pt-{scope}", "layer_5/width_16k/average_l0_41"
    (tmp_path / folder).mkdir(parents=True)
    shapes = {
        "W_enc": (D_IN, D_SAE),
        "W_dec": (D_SAE, D_IN),
        "b_enc": (D_SAE,),
        "b_dec": (D_IN,),
        "threshold": (D_SAE,),
    }
    arrays = {name: random(*shape, seed=seed).abs().numpy() for seed, (name, shape) in enumerate(shapes.items())}
    arrays["W_enc"] = random(D_IN, D_SAE, seed=9).numpy()
    np.savez(tmp_path / folder / "params.npz", **arrays)
    monkeypatch.setattr(
        loaders, "hf_hub_download", lambda repo_id, filename, subfolder="", **_: str(tmp_path / subfolder / filename)
    )
    load = loaders.gemma_2_sae_huggingface_loader
    small = {"d_in": D_IN, "d_sae": D_SAE}
    if scope == "transcoders":
        load = loaders.gemma_2_transcoder_huggingface_loader
        small["d_out"] = D_IN
    theirs, _, _ = SAE.from_pretrained_with_cfg_and_sparsity(
        repo,
        folder,
        converter=lambda cfg_overrides, **requested: load(cfg_overrides=cfg_overrides | small, **requested),
    )
    take(tmp_path / folder, tmp_path / "ours", f"{repo}/{folder}", {})
    ours, codes = load_sae(tmp_path / "ours"), theirs.encode(X)
    assert 0 < (codes > 0).float().mean() < 1
    assert torch.equal(ours.encode(X) > 0, codes > 0)
    compare("SAELens", f"Gemma Scope {scope}: imported, encode, forward", ours.encode(X), codes)
    compare("SAELens", f"Gemma Scope {scope}: imported, encode, forward", ours(X), theirs(X))
    result, about = theirs.cfg, read_config(tmp_path / "ours")
    assert about["architecture"] == result.architecture()
    assert about["metadata"]["hook_name"] == result.metadata.hook_name
    assert about["metadata"].get("hook_name_out") == result.metadata.hook_name_out


_AROUND_THE_MLP = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"


@pytest.mark.parametrize(
    ("folder", "points"),
    [
        ("resid_post/layer_9_width_16k_l0_medium", ("output", "output")),
        ("mlp_out_all/layer_5_width_16k_l0_small", ("post_feedforward_layernorm.output",) * 2),
        ("transcoder/layer_7_width_16k_l0_big", _AROUND_THE_MLP),
        ("transcoder_all/layer_7_width_16k_l0_big_affine", _AROUND_THE_MLP),
    ],
    ids=lambda value: value.partition("/")[0] if isinstance(value, str) else "",
)
@torch.no_grad()
def test_gemma_scope_2(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, points: tuple[str, str]
) -> None:
    """Files in the form that google/gemma-scope-2-… has on the Hub, which SAELens' own loader takes from a folder."""
    repo, layer, affine = "google/gemma-scope-2-1b-it", folder.split("_width")[0].rpartition("_")[2], "affine" in folder
    root = tmp_path / "hub"
    (root / folder).mkdir(parents=True)
    shapes = {"w_enc": (D_IN, D_SAE), "w_dec": (D_SAE, D_IN)}
    shapes |= {"b_enc": (D_SAE,), "b_dec": (D_IN,), "threshold": (D_SAE,)}
    shapes |= {"affine_skip_connection": (D_IN, D_IN)} if affine else {}
    save_file(
        {name: random(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())},
        root / folder / "params.safetensors",
    )
    result = {
        "hf_hook_point_in": f"model.layers.{layer}.{points[0]}",
        "hf_hook_point_out": f"model.layers.{layer}.{points[1]}",
        "width": D_SAE,
        "model_name": "google/gemma-3-1b-it",
        "architecture": "jump_relu",
        "l0": 60,
        "affine_connection": affine,
        "type": "transcoder" if "transcoder" in folder else "sae",
    }
    (root / folder / "config.json").write_text(json.dumps(result))
    monkeypatch.setattr(
        loaders, "hf_hub_download", lambda repo_id, filename, subfolder="", **_: str(root / subfolder / filename)
    )
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda repo_id, filename: shapes)
    theirs, _, _ = SAE.from_pretrained_with_cfg_and_sparsity(
        repo, folder, converter=loaders.gemma_3_sae_huggingface_loader
    )
    what = folder.partition("/")[0].removesuffix("_all") + " with a skip" * affine
    take(root / folder, tmp_path / "ours", f"{repo}/{folder}", {})
    ours = load_sae(tmp_path / "ours")
    codes = theirs.encode(X)
    assert torch.equal(ours.encode(X) > 0, codes > 0)
    compare("SAELens", f"Gemma Scope 2 {what}: imported, encode, forward", ours.encode(X), codes)
    compare("SAELens", f"Gemma Scope 2 {what}: imported, encode, forward", ours(X), theirs(X))
    about = read_config(tmp_path / "ours")["metadata"]
    assert about["model_name"] == theirs.cfg.metadata.model_name
    same = {
        "blocks.7.hook_mlp_in": "blocks.7.mlp.hook_in"
    }  # what is read is after the norm's weights: see tasks.activations.hooks
    hook = theirs.cfg.metadata.hook_name
    assert about["hook_name"] == same.get(hook, hook)
    assert about.get("hook_name_out") == theirs.cfg.metadata.hook_name_out


def check(compare: Compare, folder: Path, peer: str, what: str, theirs: Any, codes: torch.Tensor) -> None:
    take(folder / "theirs", folder / "ours", "theirs", {})
    ours = load_sae(folder / "ours")
    found = ours.encode(X)
    assert torch.equal(found > 0, codes > 0)
    compare(peer, what, found, codes)
    compare(peer, what, ours(X), theirs(X))
