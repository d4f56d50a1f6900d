"""Contexts are shown as the tokenizer's own decoder gives them, whatever kind of tokenizer it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.features.token_texts import PARTIAL, TokenTexts
from tests.text.tokenizers_of import KINDS, make_tokenizer

TEXT = "She said: “naïve café” — 12 345 times! 🦊 shiftwidth's lazy dogs.\n\n  def run(x): return x"


def texts_of(folder: Path, kind: str) -> tuple[TokenTexts, list[int], object]:
    tokenizer = make_tokenizer(kind)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return TokenTexts(folder), tokenizer(TEXT, add_special_tokens=False)["input_ids"], tokenizer.backend_tokenizer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", range(0, 24, 5))
def test_the_texts_of_a_context_are_what_the_decoder_makes_of_it(tmp_path, kind, start):
    texts, ids, tokenizer = texts_of(tmp_path, kind)
    found, whole = texts(ids[start:]), tokenizer.decode(ids[start:], skip_special_tokens=False)
    assert len(found) == len(ids) - start
    assert "".join(found).replace(PARTIAL, "") == whole.replace(PARTIAL, "")
    assert "##" not in "".join(found[1:])
    assert "</w>" not in "".join(found)


def test_a_word_in_pieces_reads_as_the_word(tmp_path):
    texts, _, tokenizer = texts_of(tmp_path, "WordPiece")
    ids = tokenizer.encode("a foxshift overdog", add_special_tokens=False).ids
    assert len(ids) > 3
    assert "".join(texts(ids)) == "a foxshift overdog"


def test_a_character_in_several_tokens_is_shown_once_at_its_last(tmp_path):
    texts, _, tokenizer = texts_of(tmp_path, "byte-level BPE")
    ids = tokenizer.encode("∫", add_special_tokens=False).ids
    assert texts(ids) == [PARTIAL] * (len(ids) - 1) + ["∫"]


def test_special_and_unknown_ids_are_shown(tmp_path):
    texts, ids, tokenizer = texts_of(tmp_path, "byte-level BPE")
    bos = tokenizer.token_to_id("<bos>")
    assert texts([bos, ids[0], 99_999, ids[1]]) == ["<bos>", "She", "[99999]", " said"]


#: Bytes that are no UTF-8 become U+FFFD where a text is read, so it is a character of texts like any other.
DAMAGED = ["foo \ufffd bar baz", "\ufffd\ufffd\ufffd world", "a\ufffd", "語\ufffd語 the old \ufffd🦊\ufffd and"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", DAMAGED)
def test_a_character_that_was_not_decoded_is_shown_at_its_own_token(tmp_path, kind, text):
    texts, _, tokenizer = texts_of(tmp_path, kind)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    found, whole = texts(ids), tokenizer.decode(ids, skip_special_tokens=False)
    assert "".join(found).replace(PARTIAL, "") == whole.replace(PARTIAL, "")
    for token, shown in zip(ids, found, strict=True):
        alone = tokenizer.decode([token], skip_special_tokens=False)
        assert PARTIAL in alone or PARTIAL not in shown, "none is given to the next token"


@pytest.mark.parametrize("kind", ["byte-level BPE"])
def test_a_row_that_begins_within_a_character_shows_the_next_one_as_it_is(tmp_path, kind):
    texts, _, tokenizer = texts_of(tmp_path, kind)
    within, after = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("∫", "語 old"))
    assert texts(within[1:] + after)[-2:] == texts(after)[-2:]
    assert "".join(texts(within[1:] + after)).lstrip(PARTIAL) == "語 old".lstrip(PARTIAL)
