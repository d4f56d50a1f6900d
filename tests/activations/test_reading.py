"""What is read is what passes the hook where tokens count, and its order follows from the seed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.activations import shuffle_buffer
from tasks.activations import stream as activations
from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import HookPoint, find
from tasks.activations.shuffle_buffer import FileBuffer
from tasks.activations.stream import ActivationStream, ModelVectors, as_ids, read, split_rows
from tasks.activations.token_mask import Mask
from tasks.errors import UserError
from tests.fixtures.bench import CONTEXT, some_tokens, tiny_model
from tests.models.families import model_of

RESID = HookPoint("blocks.1.hook_resid_post", "gpt_neox.layers.1")
NOTHING = Mask()


def test_the_last_layer_is_read_before_the_final_norm():
    model = tiny_model("gpt_neox")
    tokens = some_tokens(5)
    with torch.no_grad():
        normed = model(as_ids(tokens), output_hidden_states=True, use_cache=False).hidden_states[-1]
    (resid,) = read(model, tokens, [find(model, Hook("resid", 2))])
    torch.testing.assert_close(model.gpt_neox.final_layer_norm(resid), normed)
    assert resid.shape == (5, CONTEXT, 16)
    assert resid.dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_padding_is_not_seen_and_not_read(family: str):
    model, pad = model_of(family), 96
    short = some_tokens(2)[:, :10] % 96
    padded = np.concatenate([short, np.full((2, 6), pad)], axis=1)
    point = find(model, Hook("resid", 1))
    (alone,) = read(model, short, [point])
    (beside,) = read(model, padded, [point], pad)
    torch.testing.assert_close(beside[:, :10], alone)
    if family == "bert":  # which looks ahead, so a pad that is seen would change what is before it
        assert not torch.allclose(read(model, padded, [point])[0][:, :10], alone, atol=1e-3)
    vectors = ModelVectors(model, padded, [point], Mask(first=True, ids=(pad,), pad=pad))
    assert vectors.counts.tolist() == [9, 9]
    torch.testing.assert_close(torch.cat([*vectors.read(np.arange(2))]), alone[:, 1:].flatten(0, 1))


def stream(seed: int = 0, batch: int = 24, rows: int = 30, mask: Mask = NOTHING) -> ActivationStream:
    vectors = ModelVectors(tiny_model(), some_tokens(rows), [RESID], mask)
    return ActivationStream(vectors, np.arange(rows), batch, seed)


def by_content(vectors: torch.Tensor) -> torch.Tensor:
    return vectors[np.lexsort(vectors.numpy().T.round(4))]


def test_an_epoch_serves_every_vector_once_in_another_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activations, "FORWARD_TOKENS", 3 * CONTEXT)
    monkeypatch.setattr(shuffle_buffer, "BATCHES", 5)  # 120 vectors: buffers begin and end inside rows
    source = stream()
    assert (source.chunk, 30 * CONTEXT) == (5, 20 * 24)
    whole = read(tiny_model(), some_tokens(30), [RESID])[0].flatten(0, 1)
    for epoch in (0, 1):
        served = torch.cat([source(step) for step in range(epoch * 20, epoch * 20 + 20)])
        torch.testing.assert_close(by_content(served), by_content(whole), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(served, whole, atol=1e-2)
    assert not torch.allclose(source(0), source(20), atol=1e-2), "the next epoch has another order"


def test_what_does_not_count_is_never_served_and_all_else_once_an_epoch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle_buffer, "BATCHES", 3)  # three vectors: buffers continue from one epoch into the next
    tokens, mask = some_tokens(30), Mask(first=True, ids=(5, 6, 7))
    tokens[4] = 5  # a row of which nothing is left
    kept = mask.kept(tokens)
    source = ActivationStream(ModelVectors(tiny_model(), tokens, [RESID], mask), np.arange(30), 1, seed=2)
    assert source.total == kept.sum() < 29 * (CONTEXT - 1)
    whole = read(tiny_model(), tokens, [RESID])[0][torch.from_numpy(kept)]
    served = torch.cat([source(step) for step in range(3 * source.total)])
    torch.testing.assert_close(by_content(served), by_content(whole).repeat_interleave(3, 0), rtol=1e-4, atol=1e-4)


def test_tokens_of_which_nothing_counts_are_refused():
    with pytest.raises(UserError, match="Every token is padding or left out"):
        stream(mask=Mask(ids=tuple(range(97))))


def test_a_batch_follows_from_the_seed_and_the_step_alone():
    one, other = stream(), stream()
    batches = [one(step) for step in range(12)]
    assert torch.equal(other(9), batches[9])
    assert torch.equal(other(2), batches[2])
    assert not torch.equal(stream(seed=1)(2), batches[2])


def test_a_batch_mixes_many_rows_and_the_buffer_is_bounded(monkeypatch: pytest.MonkeyPatch):
    source = stream(batch=24, rows=300)
    assert source.chunk == shuffle_buffer.BATCHES
    monkeypatch.setattr(shuffle_buffer, "MEMORY_BYTES", 2 * 24 * 16 * 4)
    assert stream(batch=24, rows=300).chunk == 2
    assert stream(batch=2000, rows=30)(0).shape == (2000, 16)


def test_vectors_too_large_for_memory_wait_in_a_file_and_come_out_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    vectors, rows = ModelVectors(tiny_model(), some_tokens(40), [RESID], NOTHING), np.arange(40)
    in_memory = ActivationStream(vectors, rows, 24, seed=5)
    monkeypatch.setattr(shuffle_buffer, "MEMORY_BYTES", 3 * 24 * 16 * 4)
    assert ActivationStream(vectors, rows, 24, seed=5).chunk == 3, "without a folder there is no file"
    in_file = ActivationStream(vectors, rows, 24, seed=5, spill=tmp_path)
    assert in_file.chunk == in_memory.chunk == 16
    for step in (0, 7, 15, 16, 40, 3):
        assert torch.equal(in_file(step), in_memory(step))
    held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    files = [path for path in held if path.startswith(str(tmp_path))]
    assert len(files) == 1
    assert list(tmp_path.iterdir()) == [], "the file has no name, so no crash leaves it behind"
    assert isinstance(in_file._buffer, FileBuffer)
    assert os.fstat(in_file._buffer._file).st_size == 16 * 24 * 16 * 4
    del in_file
    assert not [link for link in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(link)]
    monkeypatch.setattr(shuffle_buffer, "FILE_BYTES", 5 * 24 * 16 * 4)
    assert ActivationStream(vectors, rows, 24, seed=5, spill=tmp_path).chunk == 5


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
