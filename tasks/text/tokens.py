"""Packed tokens on disk: writes and reads the files of a tokens artifact; no other module does.

`tokens.bin` holds rows of `context` token ids, little-endian uint16 when the vocabulary fits and uint32 otherwise, one
after another; `tokens.json` says what they are, and which ids are no text: documents end with `eos_id`, `bos_id` begins
a text where the tokenizer has such a token, and rows that are not full would be filled up with `pad_id`.

`bos` says what begins with BOS: each "row", each "document", or "none". `bos_ids` are the ids that do so, or with
"none" those that the tokenizer would put there itself. Tokens made before this was recorded have "none" and None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object
from tasks.storage.store import write_json

TOKENS, DESCRIPTION = "tokens.bin", "tokens.json"
_IDS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class TokensInfo:
    """What `tokens.json` says.

    `max_id` is the largest id that occurs, `vocabulary_sha256` the digest of the tokenizer's vocabulary up to there,
    `tokenizer_sha256` that of the model's tokenizer.json.
    """

    dtype: str
    rows: int
    context: int
    vocab_size: int
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None
    bos: str = "none"
    bos_ids: Sequence[int] | None = None
    max_id: int | None = None
    vocabulary_sha256: str | None = None
    tokenizer_sha256: str | None = None

    @property
    def ids_needed(self) -> int:
        """The number of embeddings that a model needs to read them: all of the vocabulary where no more is known."""
        return self.vocab_size if self.max_id is None else self.max_id + 1


class TokenWriter:
    """Writes rows as they come; what was written counts once `close` has put the description beside it.

    A context manager that closes only when its block ended well.
    """

    def __init__(
        self,
        folder: Path,
        context: int,
        vocab_size: int,
        eos_id: int | None = None,
        bos_id: int | None = None,
        pad_id: int | None = None,
        bos: str = "none",
        bos_ids: Sequence[int] | None = None,
        digest: Callable[[int], str] | None = None,
        tokenizer_sha256: str | None = None,
    ) -> None:
        """`digest` gives `vocabulary_sha256` for the largest id that occurs; the rest is as in `TokensInfo`."""
        self.folder = folder
        self.rows = 0
        self._context, self._vocab_size, self._max_id, self._digest = context, vocab_size, -1, digest
        special: dict[str, Any] = {"eos_id": eos_id, "bos_id": bos_id, "pad_id": pad_id}
        self._about = {**special, "bos": bos, "bos_ids": bos_ids, "tokenizer_sha256": tokenizer_sha256}
        self._dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self._file = (folder / TOKENS).open("wb")

    def append(self, rows: ArrayLike) -> None:
        """Add (n, context) or (context,) integers; ValueError for another width or an id outside the vocabulary."""
        block = np.atleast_2d(np.asarray(rows))
        if block.shape[1] != self._context:
            raise ValueError(f"rows of {block.shape[1]} tokens, not {self._context}")
        if block.size and not 0 <= int(block.min()) <= int(block.max()) < self._vocab_size:
            raise ValueError(f"token ids from {block.min()} to {block.max()}, vocabulary of {self._vocab_size}")
        self._file.write(block.astype(np.dtype(self._dtype).newbyteorder("<")).tobytes())
        self.rows += len(block)
        self._max_id = max(self._max_id, int(block.max(initial=-1)))

    def close(self) -> TokensInfo:
        """Finish the file and describe it."""
        self._file.close()
        largest = self._max_id if self.rows else None
        vocabulary = self._digest(largest) if self._digest and largest is not None else None
        self._about |= {"max_id": largest, "vocabulary_sha256": vocabulary}
        info = TokensInfo(self._dtype, self.rows, self._context, self._vocab_size, **self._about)
        write_json(self.folder / DESCRIPTION, asdict(info))
        return info

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def read_info(folder: Path) -> TokensInfo:
    """What the tokens in `folder` are. Raises UserError when they are not there whole."""
    try:
        found = read_json_object(folder / DESCRIPTION)
        info = TokensInfo(**{key: found[key] for key in TokensInfo.__dataclass_fields__ if key in found})
        if info.dtype not in ("uint16", "uint32") or not all(type(n) is int for n in (info.rows, info.context)):
            raise ValueError(f"{DESCRIPTION} describes no tokens")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"There are no finished tokens in {folder}.", "Make them: mistudio submit tokenize --help"
        ) from error
    return info


def largest_id(folder: Path) -> int:
    """The largest token id in `folder`; those that do not record it are read once."""
    info = read_info(folder)
    if info.max_id is not None:
        return info.max_id
    rows = open_tokens(folder)
    stride = max(1, _IDS_AT_ONCE // info.context)
    return max(int(rows[start : start + stride].max()) for start in range(0, info.rows, stride))


def open_tokens(folder: Path) -> np.memmap:
    """The (rows, context) token ids in `folder`, read from disk as they are used.

    Raises UserError when the description is missing or the file is not as long as it says.
    """
    info = read_info(folder)
    dtype = np.dtype(info.dtype).newbyteorder("<")
    expected = info.rows * info.context * dtype.itemsize
    there = (folder / TOKENS).stat().st_size if (folder / TOKENS).exists() else 0
    if there != expected or not expected:
        raise UserError(f"The tokens in {folder} are incomplete: {there} bytes of {expected}.", "Make them again")
    return np.memmap(folder / TOKENS, dtype=dtype, mode="r", shape=(info.rows, info.context))
