"""SAEs and transcoders of sparsify become ours, and are read at the module that their folder is named by, or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.activations.hooks import find_again
from tasks.errors import UserError
from tasks.sae.formats.exporting import SPARSIFY, write_as
from tasks.sae.formats.native import load_sae, read_config, save_sae
from tasks.sae.importing.convert import take
from tests.models.families import model_of
from tests.sae.test_formats import SCALE, trained
from tests.sae.test_importing import taken


@pytest.mark.parametrize("shape", [{}, {"d_out": 8}, {"d_out": 8, "skip": True}])
def test_sparsify_there_and_back(tmp_path: Path, shape: dict[str, Any]):
    save_sae(tmp_path / "sae", trained("topk", **shape), SCALE, {})
    write_as(SPARSIFY, tmp_path / "sae", tmp_path / "run/layers.6.mlp")
    (tmp_path / "run/config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m", "ctx_len": 2048}))
    sae, first = taken(tmp_path / "run/layers.6.mlp", tmp_path / "ours", "run/layers.6.mlp"), load_sae(tmp_path / "sae")
    for name, tensor in first.parameters.items():
        assert torch.equal(tensor, sae.parameters[name]), name
    found = read_config(tmp_path / "ours")["metadata"]
    read = "mlp.hook_in" if sae.is_transcoder else "hook_mlp_out"
    assert (found["model_name"], found["hook_name"]) == ("EleutherAI/pythia-160m", f"blocks.6.{read}")


def from_sparsify(tmp_path: Path, source: str, **shape: Any) -> dict[str, Any]:
    """The hooks in the metadata of an SAE of sparsify that is from `source`."""
    save_sae(tmp_path / "sae", trained("topk", **shape), SCALE, {})
    write_as(SPARSIFY, tmp_path / "sae", tmp_path / "theirs")
    take(tmp_path / "theirs", tmp_path / "ours", source, {})
    result = read_config(tmp_path / "ours")["metadata"]
    return {name: value for name, value in result.items() if name.startswith("hook_")}


@pytest.mark.parametrize(
    ("source", "hook", "layer", "module"),
    [
        ("owner/run/layers.6", "hook_resid_post", 6, "layers.6"),
        ("layers.6.mlp", "hook_mlp_out", 6, "layers.6.mlp"),
        ("run/layers.6.self_attn", "hook_attn_out", 6, "layers.6.self_attn"),
        ("run/layers.6.attention", "hook_attn_out", 6, "layers.6.attention"),
        ("run/h.11.attn/seed2", "hook_attn_out", 11, "h.11.attn"),
        ("/data/layers_2024/h.6", "hook_resid_post", 6, "h.6"),
        ("/data/layers.3.mlp/best/encoder.layer.4", "hook_resid_post", 4, "layer.4"),
    ],
)
def test_an_sae_of_sparsify_reads_what_comes_out_of_the_module_that_its_folder_is_named_by(
    tmp_path: Path, source: str, hook: str, layer: int, module: str
):
    found = from_sparsify(tmp_path, source)
    assert found == {"hook_name": f"blocks.{layer}.{hook}", "hook_layer": layer, "hook_module": module}


@pytest.mark.parametrize(
    ("module", "read", "written"),
    [
        ("layers.6.mlp", "mlp.hook_in", "hook_mlp_out"),
        ("layers.6.self_attn", "attn.hook_in", "hook_attn_out"),
        ("layers.6", "hook_resid_pre", "hook_resid_post"),
    ],
)
def test_a_transcoder_of_sparsify_reads_what_goes_into_its_module_and_writes_what_comes_out(
    tmp_path: Path, module: str, read: str, written: str
):
    assert from_sparsify(tmp_path, f"run/{module}", d_out=8) == {
        "hook_name": f"blocks.6.{read}",
        "hook_layer": 6,
        "hook_module": module,
        "hook_name_out": f"blocks.6.{written}",
        "hook_layer_out": 6,
        "hook_module_out": module,
    }


@pytest.mark.parametrize(
    ("module", "family", "found"),
    [
        ("h.1", "gpt2", "transformer.h.1"),
        ("h.1.attn", "gpt2", "transformer.h.1.attn"),
        ("layers.1.attention", "gpt_neox", "gpt_neox.layers.1.attention"),
        ("layers.1.mlp", "llama", "model.layers.1.mlp"),
    ],
)
def test_an_sae_of_sparsify_finds_its_module_again(tmp_path: Path, module: str, family: str, found: str):
    assert find_again(model_of(family), from_sparsify(tmp_path, f"run/{module}")).module == found


@pytest.mark.parametrize(
    ("module", "family"), [("layers.1.mlp", "gemma2"), ("layers.1.self_attn", "gemma2"), ("h.1.mlp", "bloom")]
)
def test_where_the_module_does_not_give_what_is_added_an_sae_of_sparsify_is_not_read(
    tmp_path: Path, module: str, family: str
):
    result = from_sparsify(tmp_path, f"run/{module}")
    with pytest.raises(UserError, match=rf"trained on blocks\.1\.hook_\w+_out \({module}\); this model has"):
        find_again(model_of(family), result)


def test_a_transcoder_of_sparsify_is_read_where_its_module_reads(tmp_path: Path):
    point = find_again(model_of("gemma2"), from_sparsify(tmp_path, "run/layers.1.mlp", d_out=8))
    assert (point.module, point.input) == ("model.layers.1.mlp", True)


@pytest.mark.parametrize(
    "source",
    [
        "run/layers.3.mlp.act",
        "run/layers.3.post_attention_layernorm",
        "/data/layers.6/unnamed",
        "/data/layers_2024/run",
        "run/mylayers.3",
        "run/layers.3-old",
    ],
)
def test_the_name_of_an_unknown_module_identifies_no_hook(tmp_path: Path, source: str):
    assert from_sparsify(tmp_path, source) == {}


def test_an_sae_of_sparsify_that_says_no_k_is_refused(tmp_path: Path):
    save_sae(tmp_path / "sae", trained("topk"), SCALE, {})
    write_as(SPARSIFY, tmp_path / "sae", tmp_path / "theirs")
    (tmp_path / "theirs/cfg.json").write_text("{}")
    with pytest.raises(UserError, match="TopK without a whole number of active features: k = None"):
        take(tmp_path / "theirs", tmp_path / "ours", "run/layers.6", {})
