"""Tokenizers: train a byte-level BPE, find the end-of-text token, save in a form every transformers version loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_bpe(batches: Iterable[list[str]], vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab` tokens, end-of-text among them, learnt from documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(batches, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that transformers 4 loads it too: version 5 writes the name of a class that 4 lacks."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") in (None, "TokenizersBackend"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rust_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer, with truncation and padding off; UserError when it is one of the few written only in
    Python.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("The model's tokenizer has no fast version.", "Use a model with a tokenizer.json")
    backend.no_truncation()
    backend.no_padding()
    return backend


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id; ids may have gaps, so there may be fewer tokens."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id put after each document; UserError when the tokenizer has no such token."""
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id):
        if token is not None:
            return int(token)
    raise UserError("The model's tokenizer has no end-of-text token.", "Use a model whose tokenizer names an eos_token")


@contextmanager
def encoding_errors() -> Iterator[None]:
    """Turn the library's error about a text that has no tokens into a UserError."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"The model's tokenizer cannot encode a document: {reason}.",
            "Use another model's tokenizer, or give its tokenizer.json an unknown token that is in the vocabulary",
        ) from error


def ids_before_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that a tokenizer itself puts before a text: BOS of Gemma and Llama, [CLS] of BERT; of many nothing."""
    for text in ("a", "1", "."):
        with suppress(Exception):  # all that the library raises for a character that has no token
            encoding = tokenizer.encode(text)
            if 0 in encoding.special_tokens_mask:
                return tuple(encoding.ids[: encoding.special_tokens_mask.index(0)])
    return tuple(tokenizer.encode("").ids[:1])  # none of these characters is in the vocabulary


def bos_ids(tokenizer: PreTrainedTokenizerBase, bos: str) -> tuple[str, tuple[int, ...]]:
    """What begins with BOS, and with which ids, as `TokensInfo` has it, for `bos` "auto", "row", "document" or "no".

    "auto" is "row" for a tokenizer that begins texts so itself. Raises UserError where BOS is wanted and there is none.
    """
    own = ids_before_text(rust_tokenizer(tokenizer))
    if bos in ("auto", "no"):
        return "row" if own and bos == "auto" else "none", own
    begin, _ = begin_and_pad(tokenizer)
    if not own and begin is None:
        raise UserError("The model's tokenizer has no BOS token.", "Give --bos no")
    return bos, own or (int(begin or 0),)


def vocabulary_sha256(tokenizer: Tokenizer, largest: int) -> str:
    """Digest of which token each id up to `largest` stands for: tokenizers that agree on those have the same one."""
    tokens = sorted((i, token) for token, i in tokenizer.get_vocab(with_added_tokens=True).items() if i <= largest)
    return hashlib.sha256(json.dumps(tokens, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def begin_and_pad(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int | None]:
    """The ids of the token that begins a text, and of padding; None for one that the tokenizer does not have.

    A padding token that is another special token as well is none: packed rows have no padding, and its places are text.
    """
    bos, cls, pad = tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id
    begin = bos if bos is not None else cls
    is_own = pad is not None and pad not in (begin, tokenizer.eos_token_id, tokenizer.unk_token_id)
    return (None if begin is None else int(begin)), (int(pad) if is_own else None)
