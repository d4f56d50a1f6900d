"""A tokenizer is loaded whole, or the model has none: one that knows no text is never made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tasks.errors import UserError
from tasks.models.loading import load_tokenizer
from tests.models.every_family import NoStore


def folder_of(folder: Path, kind: str, **files: str) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "gemma", "gpt2", "gpt_neox", "qwen2", "roberta", "t5"])
@pytest.mark.parametrize("files", [{}, {"tokenizer_config": "{}"}])
def test_a_folder_without_a_vocabulary_has_no_tokenizer(tmp_path: Path, kind: str, files: dict[str, str]):
    with pytest.raises(UserError, match="has no tokenizer: there is none of"):
        load_tokenizer(folder_of(tmp_path, kind, **files), NoStore())


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path: Path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(folder_of(tmp_path, "t5"), NoStore())("ab").input_ids == [100, 101, 1]


def test_a_tokenizer_is_what_was_saved(tmp_path: Path):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    assert load_tokenizer(folder_of(tmp_path, "gpt_neox"), NoStore())("b a c").input_ids == [2, 1, 0]


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"model": {"type": "BPE"}}', "[" * 100_000, "\x00"])
def test_a_broken_tokenizer_is_one_sentence(tmp_path: Path, text: str):
    with pytest.raises(UserError, match=r"The tokenizer of \S+ cannot be loaded: |has no tokenizer") as raised:
        load_tokenizer(folder_of(tmp_path, "gpt_neox", tokenizer=text), NoStore())
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
