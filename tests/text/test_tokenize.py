"""Packing loses no token but the tail it counts, and the saved tokenizer is the model's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tasks.errors import UserError
from tasks.storage.store import Store, write_json
from tasks.text.encoding import TextEncoder
from tasks.text.packing import Packer, by_size
from tasks.text.tokenizers import begin_and_pad, end_of_text, save_tokenizer, train_bpe
from tasks.text.tokens import open_tokens, read_info

DOCUMENTS = [f"Document {i} speaks of {'many ' * (i % 7)}things.\n" for i in range(200)] + ["x" * 5000, "ünï ∑ 🦊"]


def make_model(store: Store, longest: int = 64) -> None:
    """A model folder in the store that has all a tokenization needs: a tokenizer and a config."""
    folder = store.path("models", "small")
    folder.mkdir(parents=True)
    save_tokenizer(train_bpe([DOCUMENTS], 400), folder)
    write_json(folder / "config.json", {"model_type": "gpt_neox", "max_position_embeddings": longest})
    write_json(folder / "manifest.json", {"job": "by-hand", "params": {}, "result": {}})


@pytest.fixture
def corpus(home, tmp_path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    make_model(home.store)
    return path


def test_rows_are_the_documents_joined_by_end_of_text_and_only_the_counted_tail_is_missing(home, corpus):
    home.run("download", "corpus", source=str(corpus))
    result = home.run("tokenize", "tokens", dataset="corpus", model="small", context=64)
    one_by_one = Tokenizer.from_file(str(home.path("models", "small") / "tokenizer.json"))
    end = one_by_one.token_to_id("<|endoftext|>")
    naive = [token for text in DOCUMENTS for token in [*one_by_one.encode(text).ids, end]]
    rows = open_tokens(home.path("tokens", "tokens"))
    assert rows.dtype == np.uint16
    assert rows.ravel().tolist() == naive[: len(naive) // 64 * 64]
    assert result["dropped_tokens"] == len(naive) % 64
    assert result["tokens"] == result["rows"] * 64 == len(naive) - result["dropped_tokens"]
    assert result["documents"] == len(DOCUMENTS)
    outcome = read_info(home.path("tokens", "tokens"))
    assert (outcome.eos_id, outcome.bos_id, outcome.pad_id) == (end, end, None)


def test_a_path_is_downloaded_first_and_reused_afterwards(home, corpus):
    home.run("tokenize", "tokens", dataset=str(corpus), model="small", context=64)
    home.run("tokenize", "more", dataset=str(corpus), model="small", context=32)
    assert len(home.store.names("datasets")) == 1


def test_the_tokenizer_is_copied_and_named_so_that_transformers_4_loads_it(home, corpus):
    home.run("tokenize", "tokens", dataset=str(corpus), model="small", context=64)
    folder = home.path("tokens", "tokens") / "tokenizer"
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    copied, original = (
        Tokenizer.from_file(str(place / "tokenizer.json")) for place in (folder, home.path("models", "small"))
    )
    assert copied.encode(DOCUMENTS[3]).ids == original.encode(DOCUMENTS[3]).ids


def test_ids_may_have_gaps(home, corpus):
    folder = home.path("models", "small")
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    written = json.loads((folder / "tokenizer.json").read_text())
    last = max(made.get_vocab(), key=made.get_vocab().__getitem__)
    written["model"]["vocab"][last] = 70_000
    (folder / "tokenizer.json").write_text(json.dumps(written))
    home.run("tokenize", "tokens", dataset=str(corpus), model="small", context=64)
    rows = open_tokens(home.path("tokens", "tokens"))
    assert (rows.dtype.itemsize, rows.max() < 70_001) == (4, True)


def test_how_the_stream_is_cut_does_not_change_the_rows():
    ids = np.arange(1000)
    whole = Packer(64).push(ids)
    packer = Packer(64)
    pieces = [packer.push(part) for part in np.split(ids, [1, 2, 63, 64, 65, 500, 500, 999])]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert packer.tail.tolist() == list(range(960, 1000))


def test_batches_are_bounded_by_size_and_keep_every_document():
    batches = list(by_size(DOCUMENTS, limit=300))
    assert [text for batch in batches for text in batch] == DOCUMENTS
    assert all(len(batch) == 1 or sum(map(len, batch)) <= 300 for batch in batches)


def test_a_tokenizer_that_would_cut_or_pad_does_not():
    tokenizer = train_bpe([DOCUMENTS], 300)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    long, short = "many things " * 50, "a"
    assert len(TextEncoder(tokenizer).encode([long])) > 9
    assert len(TextEncoder(tokenizer).encode([short])) == 2


def test_padding_is_a_token_that_is_nothing_else():
    tokenizer = train_bpe([DOCUMENTS], 300)
    end = end_of_text(tokenizer)
    assert begin_and_pad(tokenizer) == (end, None)
    tokenizer.pad_token = tokenizer.eos_token
    assert begin_and_pad(tokenizer) == (end, None)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "bos_token": "<s>"})
    assert begin_and_pad(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(["<s>", "<pad>"]))
    tokenizer.bos_token = None
    tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    assert begin_and_pad(tokenizer)[0] == tokenizer.convert_tokens_to_ids("[CLS]")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"context": 65}, "--context-length 65 is more than small can read: 64 tokens"),
        ({"model": "nobody"}, "'nobody' is not a model"),
        ({"dataset": "nothing"}, "'nothing' is no dataset"),
        ({"context": 1}, "at least 2"),
    ],
)
def test_what_cannot_work_is_refused_at_submit_time(home, corpus, changed, sentence):
    values = {"dataset": str(corpus), "model": "small", "context": 64, **changed}
    with pytest.raises(UserError, match=sentence):
        home.run("tokenize", "tokens", **values)
    assert not home.store.names("datasets")


def test_a_corpus_shorter_than_one_row_is_said(home, corpus, tmp_path):
    (tmp_path / "tiny.txt").write_text("tiny")
    with pytest.raises(UserError, match="less than one row of 64"):
        home.run("tokenize", "tokens", dataset=str(tmp_path / "tiny.txt"), model="small", context=64)
