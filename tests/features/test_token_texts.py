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
