"""The text of tokens in a context, as the tokenizer's own decoder gives it."""

from __future__ import annotations

from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.text.tokenizer_file import read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
        if self._tokenizer is None:
            return [f"[{token}]" for token in ids]
        texts = self._stream(self._tokenizer, ids)
        return self._separate(self._tokenizer, ids) if PARTIAL in "".join(texts) else texts

    @staticmethod
    def _stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
        """The texts, if all of them are whole: what ends with U+FFFD is given to the next token."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        texts = []
        for token in ids:
            if tokenizer.id_to_token(token) is None:
                texts.append(f"[{token}]")
                continue
            try:
                text = stream.step(tokenizer, token)
            except Exception:  # noqa: BLE001 - the library's own: of bytes that it has taken for a whole text
                text = None
            texts.append(PARTIAL if text is None else text)
        return texts

    @staticmethod
    def _separate(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
        """The texts where characters are spread over tokens, or cannot be decoded: of each token what it adds.

        A token is decoded behind the one before it, which says how it begins.
        """
        texts: list[str] = []
        behind: list[int] = []  # the last token with a whole text, and those since
        shown = ""  # what of their text was given to one of them
        for token in ids:
            if tokenizer.id_to_token(token) is None:
                texts.append(f"[{token}]")
                behind, shown = [], ""
                continue
            was_partial = bool(texts) and texts[-1].endswith(PARTIAL)
            behind.append(token)
            text = tokenizer.decode(behind, skip_special_tokens=False)
            added = text[len(commonprefix((shown, text))) :]  # noqa: RUF071 - these are no paths
            if was_partial:
                added = added.lstrip(PARTIAL)
            if text.endswith(PARTIAL):
                texts.append(added.rstrip(PARTIAL) + PARTIAL)
                shown = text.rstrip(PARTIAL)
            else:
                texts.append(added)
                behind = [token]
                shown = tokenizer.decode(behind, skip_special_tokens=False)
        return texts
