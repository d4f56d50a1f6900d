"""The only exception whose text is written for the user: what is wrong, and the command that mends it."""

from __future__ import annotations


class Problem(Exception):
    """Something the user can understand and mend.

    `sentence` says what is wrong in the user's words; `mend` is what to type or change, or empty.
    """

    def __init__(self, sentence: str, mend: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.sentence} {self.mend}".rstrip()


class OverQuota(Problem):
    """New jobs for which their owner's quota of queued jobs has no room."""
