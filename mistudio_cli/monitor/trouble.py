"""A part that could not be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """Which part, why and what to do, in one sentence; `age_s` is that of the value that is shown instead, if any."""

    part: str
    message: str
    age_s: float | None = None


def with_fix(sentence: str, fix: str) -> str:
    """One sentence of two: what is wrong, and what to do."""
    return f"{sentence.rstrip('.')}; {fix[0].lower()}{fix[1:]}" if fix else sentence
