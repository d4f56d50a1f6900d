"""The text of tokens in a context, as the tokenizer's own decoder gives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.text.tokenizer_file import read_tokenizer

#: Shown for a token whose bytes are only a part of a character.
PARTIAL = "\ufffd"


class TokenTexts:
    """Texts of tokens by the `tokenizer.json` in a folder; without that file, their numbers in brackets."""

    def __init__(self, folder: Path, whose: str = "the tokens") -> None:
        """Read the tokenizer; UserError, which says `whose` it is, for a file that holds none."""
        path = folder / "tokenizer.json"
        self.has_tokenizer = path.exists()
        self._tokenizer = read_tokenizer(path, whose) if self.has_tokenizer else None

    def __call__(self, ids: list[int]) -> list[str]:
        """The text of each of the ids, which follow one another; together they are what the decoder makes of them all.

        Of a character whose bytes are spread over several tokens the last one has the text; the others show U+FFFD. An
        id that the tokenizer does not have is shown as a number in brackets.
        """
        return list(self._texts(ids))

    def _texts(self, ids: list[int]) -> Iterator[str]:
        from tokenizers.decoders import DecodeStream

        if self._tokenizer is None:
            yield from (f"[{token}]" for token in ids)
            return
        stream = DecodeStream(skip_special_tokens=False)
        for token in ids:
            if self._tokenizer.id_to_token(token) is None:
                yield f"[{token}]"
                continue
            text = stream.step(self._tokenizer, token)
            if text is None:
                text = PARTIAL if PARTIAL in self._tokenizer.decode([token], skip_special_tokens=False) else ""
            yield text
