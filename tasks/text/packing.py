"""Documents to tokens to rows: nothing is padded, and only the last, incomplete row is dropped and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The tokenizer gets about this many characters at a time: bounded by size, since rows differ a thousandfold.
BATCH_CHARS = 1 << 20


def by_size(documents: Iterable[str], limit: int = BATCH_CHARS) -> Iterator[list[str]]:
    """The documents in order, in lists of about `limit` characters; a longer document is a list of its own."""
    batch: list[str] = []
    size = 0
    for document in documents:
        if batch and size + len(document) > limit:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch


def encode(tokenizer: Tokenizer, documents: list[str], eos_id: int) -> np.ndarray:
    """The documents' token ids, each document followed by `eos_id`: int64 (tokens,)."""
    parts = (encoding.ids for encoding in tokenizer.encode_batch_fast(documents, add_special_tokens=False))
    return np.fromiter(chain.from_iterable(chain(ids, (eos_id,)) for ids in parts), dtype=np.int64)


class Packer:
    """Cuts a stream of tokens into rows of `context`; what does not fill a row waits for the next tokens."""

    def __init__(self, context: int) -> None:
        self._context = context
        self.tail = np.empty(0, np.int64)

    def push(self, ids: np.ndarray) -> np.ndarray:
        """The rows that are complete now: (rows, context)."""
        stream = np.concatenate([self.tail, ids])
        whole = len(stream) // self._context * self._context
        self.tail = stream[whole:]
        return stream[:whole].reshape(-1, self._context)
