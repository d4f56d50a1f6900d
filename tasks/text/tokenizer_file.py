"""A `tokenizer.json`, read by the tokenizers library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read_tokenizer(path: Path, whose: str) -> Tokenizer:
    """Read a tokenizer. UserError, which says `whose` it is, for a file that is not there or holds none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"The tokenizer of {whose} cannot be read: {error}.", f"Look at {path}") from error
