"""Packed tokens on disk: the only place the files of a tokens artifact are written and read.

`tokens.bin` holds rows of `context` token ids, little-endian uint16 when the vocabulary fits and uint32 otherwise, one
after another; `tokens.json` says what they are, and which ids are no text: documents end with `eos_id`, `bos_id` begins
a text where the tokenizer has such a token, and rows that are not full would be filled up with `pad_id`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from tasks.problem import Problem
from tasks.store import write_json

TOKENS, DESCRIPTION = "tokens.bin", "tokens.json"


@dataclass(frozen=True)
class TokensInfo:
    """What `tokens.json` says."""

    dtype: str
    rows: int
    context: int
    vocab_size: int
    eos_id: int | None = None
    bos_id: int | None = None
    pad_id: int | None = None


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
    ) -> None:
        self.folder = folder
        self.rows = 0
        self._context, self._vocab_size, self._special = context, vocab_size, (eos_id, bos_id, pad_id)
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

    def close(self) -> TokensInfo:
        """Finish the file and describe it."""
        self._file.close()
        info = TokensInfo(self._dtype, self.rows, self._context, self._vocab_size, *self._special)
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
    """What the tokens in `folder` are. Raises Problem when they are not there whole."""
    try:
        told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise Problem(f"There are no finished tokens in {folder}.", "Make them: mistudio submit tokenize") from error
    return TokensInfo(**{key: told.get(key) for key in TokensInfo.__dataclass_fields__})


def open_tokens(folder: Path) -> np.memmap:
    """The (rows, context) token ids in `folder`, read from disk as they are used.

    Raises Problem when the description is missing or the file is not as long as it says.
    """
    info = read_info(folder)
    dtype = np.dtype(info.dtype).newbyteorder("<")
    expected = info.rows * info.context * dtype.itemsize
    there = (folder / TOKENS).stat().st_size if (folder / TOKENS).exists() else 0
    if there != expected or not expected:
        raise Problem(f"The tokens in {folder} are incomplete: {there} bytes of {expected}.", "Make them again")
    return np.memmap(folder / TOKENS, dtype=dtype, mode="r", shape=(info.rows, info.context))
