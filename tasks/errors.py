"""The exception whose text is written for the user: what is wrong, and the command that fixes it."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can understand and fix.

    `sentence` says what is wrong in the user's words; `hint` is what to type or change, or empty.
    """

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()


class OverQuota(UserError):
    """New jobs for which their owner's quota of queued jobs has no room."""
