"""A reason why a job is where it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A sentence, and the command that helps or shows more, if there is one."""

    sentence: str
    command: str | None = None
