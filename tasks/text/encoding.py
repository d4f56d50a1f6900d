"""Documents to token ids: what a document says stays text, and documents of any length take bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tasks.text.tokenizers import encoding_errors, end_of_text, rust_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

#: A longer document is encoded in pieces of this many characters, each reaching this far into the next one.
PIECE_CHARS, OVERLAP_CHARS = 1 << 20, 1 << 14
#: Two pieces are joined where this many tokens in a row are the same in both.
_SAME_TOKENS = 16


class TextEncoder:
    """Token ids of documents: `before` of each, its text, the end-of-text token.

    A special token's name written in a document, such as "<pad>" or "<bos>", is encoded as the characters that it
    consists of; where the vocabulary has no other way to write it, as the unknown token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        """Raises UserError for a tokenizer without a fast version or an end-of-text token."""
        self._fast = rust_tokenizer(tokenizer)
        self._fast.encode_special_tokens = True
        self._before, self._after = tuple(before), end_of_text(tokenizer)
        self._unknown = tokenizer.unk_token_id
        special = {i: token.content for i, token in self._fast.get_added_tokens_decoder().items() if token.special}
        self._control = np.array(sorted(special.keys() - {self._unknown}), dtype=np.int32)
        names = sorted(filter(None, special.values()), key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names))) if names else None
        self.special_tokens_in_text = 0  # names of special tokens found in documents

    def encode(self, documents: Sequence[str]) -> np.ndarray:
        """The token ids of the documents, one document after the other: int32 (tokens,).

        Raises UserError for a document that the tokenizer cannot encode.
        """
        before, after = np.array(self._before, np.int32), np.array([self._after], np.int32)
        parts = [np.empty(0, np.int32)]
        for document, pieces in zip(documents, self._texts(documents), strict=True):
            if self._names is not None and (found := len(self._names.findall(document))):
                self.special_tokens_in_text += found
                pieces = map(self._without_control, pieces)
            parts += [before, *pieces, after]
        return np.concatenate(parts)

    def _texts(self, documents: Sequence[str]) -> Iterator[Iterable[np.ndarray]]:
        """The ids of each document's text, in pieces."""
        if any(len(document) > PIECE_CHARS for document in documents):
            for document in documents:
                yield encode_in_pieces(self._fast, document)
        else:
            with encoding_errors():
                encodings = self._fast.encode_batch_fast(list(documents), add_special_tokens=False)
            for encoding in encodings:
                yield [np.array(encoding.ids, dtype=np.int32)]

    def _without_control(self, ids: np.ndarray) -> np.ndarray:
        """The ids with the unknown token, or nothing, in place of special tokens that are words of the vocabulary."""
        is_control = np.isin(ids, self._control)
        if self._unknown is None:
            return ids[~is_control]
        return np.where(is_control, np.int32(self._unknown), ids)


def encode_in_pieces(
    tokenizer: Tokenizer, text: str, piece: int = PIECE_CHARS, overlap: int = OVERLAP_CHARS
) -> Iterator[np.ndarray]:
    """The ids of a text of any length, without special tokens: int32 arrays, in order.

    Each piece of characters is encoded together with the beginning of the next one; the two are joined inside that
    overlap, where both have the same tokens at the same characters. Where they do not agree, the two become one piece.
    """
    starts = [*range(0, len(text), piece), len(text)]
    held, begin = _Piece(tokenizer, text, 0, piece + overlap), 0
    for start, end in pairwise(starts[1:]):
        following = _Piece(tokenizer, text, start, end + overlap)
        joint = held.agrees_with(following, start + overlap // 4)
        if joint is None:
            held = _Piece(tokenizer, text, held.start, end + overlap)
            continue
        yield held.ids[begin : joint[0]]
        held, begin = following, joint[1]
    yield held.ids[begin:]


class _Piece:
    """The tokens of a part of a text, and at which characters of the whole they begin and end."""

    def __init__(self, tokenizer: Tokenizer, text: str, start: int, end: int) -> None:
        self.start = start
        with encoding_errors():
            encoding: Encoding = tokenizer.encode(text[start:end], add_special_tokens=False)
        self.ids = np.array(encoding.ids, dtype=np.int32)
        self.places = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start

    def agrees_with(self, following: _Piece, after: int) -> tuple[int, int] | None:
        """The token of this piece and the same one of the following piece from which both have the same tokens."""
        mine, theirs = (int(np.searchsorted(one.places[:, 0], after)) for one in (self, following))
        at = {tuple(place): index for index, place in enumerate(following.places[theirs:].tolist(), theirs)}
        for index in range(mine, len(self.ids) - _SAME_TOKENS):
            other = at.get(tuple(self.places[index].tolist()))
            if other is not None and self._same(index, following, other):
                return index, other
        return None

    def _same(self, index: int, following: _Piece, other: int) -> bool:
        ours, others = slice(index, index + _SAME_TOKENS), slice(other, other + _SAME_TOKENS)
        return np.array_equal(self.ids[ours], following.ids[others]) and np.array_equal(
            self.places[ours], following.places[others]
        )
