"""Small tokenizers of the kinds that models come with, each trained on a few lines of text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The quick brown fox jumps over the lazy dog, again and again.\n",
    "She said: “naïve café” — 12 345 times!\n\n  def run(x):\n\treturn x + 1\n",
    "ünï ∑ 🦊 words and shiftwidth's words\n",
] * 40
_NAMES = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}


def _byte_level() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **_trained(420))


def _metaspace() -> tuple[Tokenizer, Any]:
    """As Llama's and Gemma's: a whole document is one word, spaces are part of it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer, trainers.BpeTrainer(max_token_length=12, **_trained(420))


def _unigram() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(unk_token="<unk>", **_trained(200))


def _word_piece() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer, trainers.WordPieceTrainer(**_trained(200))


def _end_of_word() -> tuple[Tokenizer, Any]:
    """As GPT-1's: the last part of a word ends with a sign of its own."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer, trainers.BpeTrainer(end_of_word_suffix="</w>", **_trained(300))


def _trained(vocabulary: int) -> dict[str, Any]:
    return {"vocab_size": vocabulary, "special_tokens": list(_NAMES.values()), "show_progress": False}


KINDS = {
    "byte-level BPE": _byte_level,
    "BPE with metaspace": _metaspace,
    "Unigram": _unigram,
    "WordPiece": _word_piece,
    "BPE with </w>": _end_of_word,
}


@cache
def _learned(kind: str) -> str:
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer.to_str()


def make_tokenizer(kind: str = "byte-level BPE", single: str | None = None, extra: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of that kind with a template for one text, such as "<bos> $A", and `extra` more special tokens."""
    tokenizer = Tokenizer.from_str(_learned(kind))
    if single is not None:
        special = [(name, tokenizer.token_to_id(name)) for name in _NAMES.values() if name in single]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **_NAMES)
    made.add_tokens([AddedToken(f"<|extra_{n}|>", special=True) for n in range(extra)], special_tokens=True)
    return made


def save_model(folder: Path, tokenizer: Any, kind: str = "llama", seed: int = 0, **config: Any) -> Path:
    """A tiny causal language model with random weights and this tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tasks.text.tokenizers import save_tokenizer

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(seed)
    shape = {"intermediate_size": 32, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    made = AutoConfig.for_model(kind, **small, **special, **shape, pad_token_id=tokenizer.pad_token_id, **config)
    AutoModelForCausalLM.from_config(made).eval().save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


def reordered(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokens under other ids: all but the special ones in reverse."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = sorted(state["model"]["vocab"].values())
    first = len(_NAMES)
    swapped = dict(zip(ids, [*ids[:first], *reversed(ids[first:])], strict=True))
    state["model"]["vocab"] = {token: swapped[i] for token, i in state["model"]["vocab"].items()}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **_NAMES)
