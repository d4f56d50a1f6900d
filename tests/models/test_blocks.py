"""The blocks of a model are those that hand the residual stream on, whatever else looks like them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import HookPoint, catch, find
from tasks.errors import UserError
from tasks.models import blocks
from tasks.models.blocks import find_blocks
from tests.models.every_family import build
from tests.models.families import VOCABULARY, model_of

IDS = torch.randint(1, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))


def caught(model: Any, layer: int, ids: torch.Tensor = IDS) -> torch.Tensor:
    return catch(model, [find(model, Hook("resid", layer))], {"input_ids": ids})[0]


@pytest.mark.parametrize("family", ["openai-gpt", "xlnet", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("shape", [(4, 8), (8, 4), (5, 5)])
def test_the_residual_stream_is_the_models_own_whatever_form_the_blocks_hand_it_on_in(
    family: str, shape: tuple[int, int]
):
    model = build(family)
    ids = torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        torch.testing.assert_close(caught(model, layer, ids), states[layer + 1], rtol=1e-4, atol=1e-4)


def test_a_vision_tower_of_as_many_layers_is_not_taken_for_the_text_model():
    model = build("gemma3")
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == 4]
    assert len(lists) > 1
    path, found = find_blocks(model)
    assert path == "model.language_model.layers"
    assert found is model.get_submodule(path)


class Both(nn.Module):
    """A module that is run twice at each pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.block(self.block(hidden, *args, **kwargs), *args, **kwargs)


def test_what_is_done_to_the_stream_between_two_blocks_is_noticed():
    model = model_of("gpt_neox")
    layers = model.gpt_neox.layers
    layers[0].register_forward_hook(lambda _module, _args, output: output)  # of someone else, and harmless
    assert find_blocks(model)[0] == "gpt_neox.layers"
    model = model_of("gpt_neox")
    model.gpt_neox.layers[1].register_forward_pre_hook(lambda _module, args: (args[0] + 0.001, *args[1:]), prepend=True)
    with pytest.raises(UserError, match="layer 1 reads something else than layer 0 puts out"):
        find_blocks(model)


def test_layers_that_are_run_more_than_once_are_refused():
    model = model_of("gpt_neox")
    layers = model.gpt_neox.layers
    layers[1] = Both(layers[0])  # the first block once more, twice
    with pytest.raises(UserError, match="not run once each, in their order"):
        find_blocks(model)


def test_a_stream_that_is_changed_in_place_between_two_blocks_is_noticed():
    model = model_of("gpt_neox")

    def add(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        args[0].add_(1.0)

    model.gpt_neox.layers[2].register_forward_pre_hook(add, prepend=True)
    with pytest.raises(UserError, match="layer 2 reads something else than layer 1 puts out"):
        find_blocks(model)


def test_another_width_than_the_configurations_is_refused():
    model = model_of("gpt2")
    model.config.n_embd = 8
    with pytest.raises(UserError, match=r"put out \(2, 8, 16\) where \(batch, position, d_model\) is \(2, 8, 8\)"):
        find_blocks(model)


def test_a_model_that_cannot_be_run_on_tokens_is_refused_in_one_sentence():
    model = model_of("gpt2")
    model.transformer.wte = nn.Embedding(4, 16)
    with pytest.raises(UserError, match=r"GPT2LMHeadModel cannot be run on 2 x 8 tokens: IndexError") as raised:
        find_blocks(model)
    assert "\n" not in str(raised.value)


def test_the_proof_is_one_forward_pass_of_sixteen_tokens_without_the_head(monkeypatch: pytest.MonkeyPatch):
    model, ran = model_of("llama"), []
    model.model.embed_tokens.register_forward_hook(lambda _module, args, _output: ran.append(tuple(args[0].shape)))
    model.lm_head.register_forward_pre_hook(lambda *_: ran.append("logits"))
    for layer in (0, 1, 2, 0):
        find(model, Hook("resid", layer))
    assert ran == [(2, 8)]
    assert not any(module._forward_pre_hooks for name, module in model.named_modules() if name != "lm_head")
    monkeypatch.setattr(blocks, "_proven", type(blocks._proven)())
    find_blocks(model)
    assert ran == [(2, 8), (2, 8)]


def test_what_passes_a_module_without_a_vector_for_each_token_is_refused():
    model = model_of("llama")
    with pytest.raises(UserError, match=r"What passes model\.rotary_emb is \(1, 12, 8\), where .* is \(3, 12, d\)"):
        catch(model, [HookPoint("", "model.rotary_emb")], {"input_ids": IDS})
    model.model.layers[0].unused = nn.Identity()
    with pytest.raises(UserError, match=r"does not run model\.layers\.0\.unused"):
        catch(model, [HookPoint("", "model.layers.0.unused")], {"input_ids": IDS})


def test_a_model_of_one_layer_has_blocks_too():
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=97, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert find_blocks(model)[0] == "transformer.h"
    states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.transformer.ln_f(caught(model, 0)), states[1])


@pytest.mark.parametrize("family", ["bert", "distilbert", "opt normed", "roberta"])
def test_a_block_that_ends_in_a_norm_is_named_so_by_what_it_puts_out(family: str):
    assert find(model_of(family), Hook("resid", 1)).name == "blocks.1.hook_normalized_resid_post"


@pytest.mark.parametrize("family", ["biogpt", "xglm", "opt", "bloom", "gemma2", "granite", "olmo2"])
def test_a_block_that_does_not_is_named_as_the_residual_stream(family: str):
    assert find(model_of(family), Hook("resid", 1)).name == "blocks.1.hook_resid_post"
