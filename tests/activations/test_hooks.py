"""A hook catches what the model itself adds to its residual stream, whatever its family calls the module."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.activations import hooks
from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import HookPoint, catch, find
from tasks.errors import UserError
from tests.models.families import VOCABULARY, model_of

#: What attention and MLP add, and what the MLP reads, within a block.
MODULES = {
    "biogpt": ("biogpt.layers.1", "self_attn", "fc2", "fc1"),
    "bloom": ("transformer.h.1", "self_attention.dense", "mlp.dense_4h_to_h", "mlp"),
    "falcon": ("transformer.h.1", "self_attention.dense", "mlp.dense_4h_to_h", "mlp"),
    "gemma2": ("model.layers.1", "post_attention_layernorm", "post_feedforward_layernorm", "mlp"),
    "glm4": ("model.layers.1", "post_self_attn_layernorm", "post_mlp_layernorm", "mlp"),
    "gpt2": ("transformer.h.1", "attn", "mlp", "mlp"),
    "gpt_neox": ("gpt_neox.layers.1", "attention", "mlp", "mlp"),
    "gpt_neox sequential": ("gpt_neox.layers.1", "attention", "mlp", "mlp"),
    "llama": ("model.layers.1", "self_attn", "mlp", "mlp"),
    "mistral": ("model.layers.1", "self_attn", "mlp", "mlp"),
    "mixtral": ("model.layers.1", "self_attn", "mlp", "mlp"),
    "mpt": ("transformer.blocks.1", "attn", "ffn.down_proj", "ffn"),
    "olmo2": ("model.layers.1", "post_attention_layernorm", "post_feedforward_layernorm", "mlp"),
    "opt": ("model.decoder.layers.1", "self_attn", "fc2", "fc1"),
    "phi": ("model.layers.1", "self_attn", "mlp", "mlp"),
    "qwen2": ("model.layers.1", "self_attn", "mlp", "mlp"),
    "xglm": ("model.layers.1", "self_attn", "fc2", "fc1"),
}
#: The same where the sums are normed, with the two norms.
NORMED = {
    "bert": ("bert.encoder.layer.1", "attention.output.dense", "output.dense", "intermediate"),
    "distilbert": ("transformer.layer.1", "attention", "ffn", "ffn"),
    "opt normed": ("model.decoder.layers.1", "self_attn", "fc2", "fc1"),
    "roberta": ("roberta.encoder.layer.1", "attention.output.dense", "output.dense", "intermediate"),
}
NORMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    "opt normed": ("self_attn_layer_norm", "final_layer_norm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
}
IDS = torch.randint(1, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))


def caught(model: Any, *sites: str, layer: int = 1) -> list[torch.Tensor]:
    return catch(model, [find(model, Hook(site, layer)) for site in sites], {"input_ids": IDS})


def hidden_states(model: Any) -> list[torch.Tensor]:
    return model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states


@pytest.mark.parametrize("family", MODULES)
def test_what_attention_and_mlp_add_makes_the_next_residual_stream(family: str):
    model = model_of(family)
    before, after = hidden_states(model)[1:3]
    resid, attn, mlp = caught(model, "resid", "attn", "mlp")
    torch.testing.assert_close(resid, after, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(before + attn + mlp, after, rtol=1e-3, atol=1e-3)
    for added in (attn, mlp):  # each is a good part of the sum, so the sum shows whether it is the right one
        assert added.norm() > 0.05 * (after - before).norm()


@pytest.mark.parametrize("family", NORMED)
def test_where_the_sums_are_normed_what_is_added_is_caught_before_the_norm(family: str):
    model = model_of(family)
    before, after = hidden_states(model)[1:3]
    resid, attn, read, mlp = caught(model, "resid", "attn", "mlp-in", "mlp")
    block = model.get_submodule(NORMED[family][0])
    first, second = (block.get_submodule(norm) for norm in NORMS[family])
    torch.testing.assert_close(resid, after, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first(before + attn), read, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(second(read + mlp), after, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "paths"), [*MODULES.items(), *NORMED.items()])
def test_a_hook_has_exact_names(family: str, paths: tuple[str, str, str, str]):
    block, attn, mlp, mlp_in = paths
    resid = "hook_normalized_resid_post" if family in NORMED else "hook_resid_post"
    read = "mlp.in.hook_in" if mlp_in in ("fc1", "intermediate") else "mlp.hook_in"
    model = model_of(family)
    assert [find(model, Hook(site, 1)) for site in ("resid", "attn", "mlp", "mlp-in")] == [
        HookPoint(f"blocks.1.{resid}", block),
        HookPoint("blocks.1.hook_attn_out", f"{block}.{attn}"),
        HookPoint("blocks.1.hook_mlp_out", f"{block}.{mlp}"),
        HookPoint(f"blocks.1.{read}", f"{block}.{mlp_in}", input=True),
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gemma2", "phi"])
def test_what_the_mlp_reads_makes_what_the_mlp_adds(family: str):
    model = model_of(family)
    read, added = caught(model, "mlp-in", "mlp")
    block = model.get_submodule(MODULES[family][0])
    made = block.mlp(read)
    torch.testing.assert_close(block.post_feedforward_layernorm(made) if family == "gemma2" else made, added)


@pytest.mark.parametrize("family", ["granite", "mamba", "minicpm3"])
def test_a_block_that_does_not_add_up_has_no_such_hook(family: str):
    model = model_of(family)
    for site in ("attn", "mlp", "mlp-in"):
        with pytest.raises(UserError, match="could not be found"):
            find(model, Hook(site, 1))
    after = hidden_states(model)[1 if family == "mamba" else 2]  # Mamba's own list begins after the first block
    torch.testing.assert_close(caught(model, "resid")[0], after)


@pytest.mark.parametrize("wrong", [{"attn": "input_layernorm"}, {"mlp": "post_attention_layernorm"}])
def test_a_norm_is_never_taken_for_what_is_added(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]):
    monkeypatch.setattr(hooks, "_FORMS", [hooks._Form("self_attn", "mlp", "mlp")._replace(**wrong)])
    with pytest.raises(UserError, match="could not be found"):
        find(model_of("llama"), Hook("mlp", 1))


def test_half_precision_does_not_hide_the_right_module_nor_show_a_wrong_one(monkeypatch: pytest.MonkeyPatch):
    model = model_of("llama").to(torch.bfloat16)
    assert find(model, Hook("mlp", 2)).module == "model.layers.2.mlp"
    monkeypatch.setattr(hooks, "_FORMS", [hooks._Form("self_attn", "post_attention_layernorm", "mlp")])
    with pytest.raises(UserError, match="could not be found"):
        find(model, Hook("mlp", 2))


@pytest.mark.parametrize("scale", [0.99, 1.01])
def test_what_is_scaled_by_a_hundredth_before_it_is_added_is_not_the_site(scale: float):
    model = model_of("granite")
    for block in model.model.layers:
        block.residual_multiplier = scale
    with pytest.raises(UserError, match="could not be found"):
        find(model, Hook("attn", 1))


def test_one_pass_ends_with_the_last_hook_and_leaves_none_behind():
    model, ran = model_of("gpt_neox"), []
    for block in ("0", "1", "2"):
        model.gpt_neox.layers.get_submodule(block).register_forward_pre_hook(lambda *_, n=block: ran.append(n))
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: ran.append("logits"))
    points = [find(model, Hook(site, layer)) for site, layer in (("resid", 1), ("attn", 0), ("resid", 1))]
    before = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    ran.clear()
    late, early, again = catch(model, points, {"input_ids": IDS})
    assert ran == ["0", "1"]
    assert torch.equal(late, again)
    assert not torch.equal(late, early)
    with pytest.raises(IndexError):
        catch(model, points, {"input_ids": IDS + VOCABULARY})
    assert not any(module._forward_hooks for module in model.modules())
    assert before == {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}


def test_a_layer_that_is_not_there_is_said():
    for layer in (3, -1):
        with pytest.raises(UserError, match=f"no layer {layer}: the model's layers are 0 to 2"):
            find(model_of("gpt2"), Hook("mlp", layer))
