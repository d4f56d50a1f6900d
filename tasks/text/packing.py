"""Tokens to rows: nothing is padded, and only the last, incomplete row is dropped and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tasks.errors import UserError

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


class Packer:
    """Cuts a stream of tokens into rows of `context`; what does not fill a row waits for the next tokens.

    Each row begins with the ids `begin`, for instance BOS, which are not of the stream.
    """

    def __init__(self, context: int, begin: Sequence[int] = ()) -> None:
        """Raises UserError where `begin` leaves no room for a token of text."""
        if len(begin) >= context:
            raise UserError(
                f"A row of {context} tokens has no room beside the {len(begin)} that begin it.",
                "Give a larger --context-length, or --bos no",
            )
        self._begin, self._stride = np.asarray(begin, dtype=np.int32), context - len(begin)
        self.tail = np.empty(0, np.int32)

    def push(self, ids: np.ndarray) -> np.ndarray:
        """The rows that are complete now: (rows, context)."""
        stream = np.concatenate([self.tail, ids])
        whole = len(stream) // self._stride * self._stride
        self.tail = stream[whole:]
        rows = stream[:whole].reshape(-1, self._stride)
        return np.hstack([np.broadcast_to(self._begin, (len(rows), len(self._begin))), rows])
