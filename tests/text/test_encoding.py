"""A document is its text: special tokens' names in it are no control tokens, and its length costs no memory."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tasks.errors import UserError
from tasks.text.encoding import PIECE_CHARS, TextEncoder, encode_in_pieces
from tasks.text.tokenizers import bos_ids, end_of_text
from tasks.text.tokens import open_tokens
from tests.text.tokenizers_of import KINDS, TEXT, make_tokenizer, save_model

CONTROL = "one <pad> two <bos>three <eos> <|extra_0|>"


def words(**names: str) -> PreTrainedTokenizerFast:
    """Words by blanks, where "<pad>" is a word like any other."""
    vocabulary = {"<unk>": 0, "<eos>": 1, "<pad>": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", **names)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_document_are_text(kind):
    tokenizer = make_tokenizer(kind, "<bos> $A", extra=1)
    encoder = TextEncoder(tokenizer)
    ids = encoder.encode([CONTROL, "plain"]).tolist()
    special = {i for i, t in tokenizer.backend_tokenizer.get_added_tokens_decoder().items() if t.special}
    ends = [place for place, token in enumerate(ids) if token in special - {tokenizer.unk_token_id}]
    assert [ids[place] for place in ends] == [end_of_text(tokenizer)] * 2, "only the end of each document"
    assert encoder.special_tokens_in_text == 4
    assert "three" in tokenizer.decode(ids).replace(" ", "")


def test_a_word_that_is_a_special_token_is_unknown():
    encoder = TextEncoder(words(unk_token="<unk>"))
    assert encoder.encode(["a <pad> b"]).tolist() == [3, 0, 4, 1]
    assert encoder.encode(["a b", "", "<eos>"]).tolist() == [3, 4, 1, 1, 0, 1]
    assert encoder.special_tokens_in_text == 2


def test_a_special_token_without_an_unknown_one_is_left_out():
    encoder = TextEncoder(words())
    assert encoder.encode(["a <pad> b"]).tolist() == [3, 4, 1]


def test_a_word_that_a_tokenizer_has_no_token_for_is_refused_with_a_sentence():
    tokenizer = Tokenizer(models.WordLevel({"<eos>": 0, "known": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    assert bos_ids(whole, "auto") == ("none", ())
    encoder = TextEncoder(whole)
    assert encoder.encode(["known known"]).tolist() == [1, 1, 0]
    for document in ("known word", "word " * PIECE_CHARS):
        with pytest.raises(UserError, match="tokenizer cannot encode a document: WordLevel error: Missing") as refused:
            encoder.encode([document])
        assert "unknown token" in (refused.value.hint or "")


def test_text_without_control_tokens_is_encoded_as_the_tokenizer_does():
    for kind in KINDS:
        tokenizer = make_tokenizer(kind)
        plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXT[:3]]
        expected = [token for ids in plain for token in (*ids, tokenizer.eos_token_id)]
        assert TextEncoder(tokenizer).encode(TEXT[:3]).tolist() == expected


def test_the_result_of_a_job_counts_them(home, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [CONTROL, *TEXT]))
    folder = save_model(tmp_path / "model", make_tokenizer(extra=1))
    result = home.run("tokenize", "tokens", dataset=str(path), model=str(folder), context=16)
    assert result["special_tokens_in_text"] == 4
    assert not np.isin(open_tokens(home.path("tokens", "tokens")), [1, 3]).any(), "neither <bos> nor <pad>"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("piece", "overlap"), [(700, 300), (1000, 400), (3001, 401)])
def test_a_long_document_in_pieces_has_the_tokens_of_the_whole(kind, piece, overlap):
    tokenizer = make_tokenizer(kind).backend_tokenizer
    draw = np.random.default_rng(piece)
    text = "".join(
        TEXT[i] * int(n) for i, n in zip(draw.integers(3, size=40), draw.integers(1, 3, size=40), strict=True)
    )
    found = np.concatenate(list(encode_in_pieces(tokenizer, text, piece, overlap)))
    assert found.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "text", ["", "x", "a" * 5000, "\n" * 5000, "ab" * 2500, " ".join(["x" * 999] * 9), "🦊" * 3000]
)
@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_a_place_to_join_are_one_piece(kind, text):
    tokenizer = make_tokenizer(kind).backend_tokenizer
    found = np.concatenate(list(encode_in_pieces(tokenizer, text, 1000, 400)))
    assert found.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_memory_follows_the_piece_and_not_the_document(tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    code = (
        "import resource, sys; from tokenizers import Tokenizer; from tests.text.tokenizers_of import TEXT;"
        "from tasks.text.encoding import encode_in_pieces; whole = ''.join(TEXT);"
        f"tokenizer = Tokenizer.from_file({str(tmp_path / 'tokenizer.json')!r});"
        "text = whole * (int(sys.argv[1]) // len(whole));"
        "count = sum(map(len, encode_in_pieces(tokenizer, text, 1 << 17, 1 << 12)));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    short, long = (
        int(subprocess.run([sys.executable, "-c", code, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in (500_000, 2_500_000)
    )
    added = (long - short) * 1024 / 2_000_000
    assert added < 20, f"{added:.0f} bytes for each character; encoded whole, the library takes 85"
