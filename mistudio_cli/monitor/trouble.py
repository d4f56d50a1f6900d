"""A part that could not be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """Which part, why and what to do, in one sentence; `age_s` is that of the value that is shown instead, if any."""

    part: str
    message: str
    age_s: float | None = None
