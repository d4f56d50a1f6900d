"""Activations are the model's own residual stream, and their order follows from the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks import activations
from tasks.activations import ActivationStream, as_ids, block_path, hook_name, read_residual, split_rows
from tasks.models import find_blocks
from tasks.problem import Problem
from tests.sae.conftest import CONTEXT, some_tokens, tiny_model

FAMILIES = {
    "gpt_neox": "gpt_neox.layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen2": "model.layers",
    "gemma2": "model.layers",
    "opt": "model.decoder.layers",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_models_own_hidden_state(family: str):
    model = tiny_model(family)
    ids = as_ids(some_tokens(5))
    assert find_blocks(model)[0] == FAMILIES[family]
    with torch.no_grad():
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    for layer in (0, 1):  # the last hidden state is normed, so the last layer has a test of its own
        torch.testing.assert_close(read_residual(model, ids, layer), states[layer + 1])


def test_the_last_layer_is_read_before_the_final_norm():
    model = tiny_model("gpt_neox")
    ids = as_ids(some_tokens(5))
    with torch.no_grad():
        normed = model(ids, output_hidden_states=True, use_cache=False).hidden_states[-1]
    read = read_residual(model, ids, 2)
    torch.testing.assert_close(model.gpt_neox.final_layer_norm(read), normed)
    assert read.shape == (5, CONTEXT, 16)
    assert read.dtype == torch.float32


def test_nothing_after_the_layer_is_computed_and_no_hook_stays():
    model = tiny_model()
    ran: list[str] = []
    for block in ("0", "1", "2"):
        model.gpt_neox.layers.get_submodule(block).register_forward_pre_hook(lambda *_, n=block: ran.append(n))
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: ran.append("logits"))
    read_residual(model, as_ids(some_tokens(2)), 1)
    assert ran == ["0", "1"]
    assert not any(module._forward_hooks for module in model.modules())


def test_the_hook_is_gone_when_the_model_fails():
    model = tiny_model()
    with pytest.raises(IndexError):
        read_residual(model, torch.tensor([[10_000]]), 1)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_has_a_name_and_a_path_or_a_sentence():
    model = tiny_model()
    assert (hook_name(2), block_path(model, 2)) == ("blocks.2.hook_resid_post", "gpt_neox.layers.2")
    with pytest.raises(Problem, match="no layer 3: the model's layers are 0 to 2"):
        block_path(model, 3)


def stream(seed: int = 0, batch: int = 24, rows: int = 30) -> ActivationStream:
    return ActivationStream(tiny_model(), some_tokens(rows), np.arange(rows), 1, batch, seed)


def by_content(vectors: torch.Tensor) -> torch.Tensor:
    return vectors[np.lexsort(vectors.numpy().T.round(4))]


def test_an_epoch_serves_every_vector_once_in_another_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activations, "FORWARD_TOKENS", 3 * CONTEXT)
    monkeypatch.setattr(activations, "BUFFER_BATCHES", 5)  # 120 vectors: buffers begin and end inside rows
    source = stream()
    assert (source.chunk, 30 * CONTEXT) == (5, 20 * 24)
    whole = read_residual(tiny_model(), as_ids(some_tokens(30)), 1).flatten(0, 1)
    for epoch in (0, 1):
        served = torch.cat([source(step) for step in range(epoch * 20, epoch * 20 + 20)])
        torch.testing.assert_close(by_content(served), by_content(whole), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(served, whole, atol=1e-2)
    assert not torch.allclose(source(0), source(20), atol=1e-2), "the next epoch has another order"


def test_a_batch_follows_from_the_seed_and_the_step_alone():
    one, other = stream(), stream()
    batches = [one(step) for step in range(12)]
    assert torch.equal(other(9), batches[9])
    assert torch.equal(other(2), batches[2])
    assert not torch.equal(stream(seed=1)(2), batches[2])


def test_a_batch_mixes_many_rows_and_the_buffer_is_bounded(monkeypatch: pytest.MonkeyPatch):
    source = stream(batch=24, rows=300)
    assert source.chunk == activations.BUFFER_BATCHES
    monkeypatch.setattr(activations, "BUFFER_BYTES", 2 * 24 * 16 * 4)
    assert stream(batch=24, rows=300).chunk == 2
    assert stream(batch=2000, rows=30)(0).shape == (2000, 16)


def test_a_refill_can_be_left():
    class EnoughError(Exception):
        pass

    def leave() -> None:
        raise EnoughError

    source = stream()
    source.on_read = leave
    with pytest.raises(EnoughError):
        source(0)
    source.on_read = lambda: None
    assert torch.equal(source(0), stream()(0))


def test_held_out_rows_are_never_trained_on():
    train, held_out = split_rows(50, 5, seed=3)
    assert sorted([*train, *held_out]) == list(range(50))
    assert len(held_out) == 5
