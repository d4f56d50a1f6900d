"""What a Redis server says of its memory and of its append-only file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerState:
    """Memory in bytes; None: not said. `memory_limit` is 0 where there is none."""

    memory_used: int | None = None
    memory_limit: int | None = None
    keeps_file: bool | None = None  # whether the append-only file is on
    evicts: bool | None = None  # whether it drops keys when memory is short

    @property
    def memory_share(self) -> float | None:
        """The share of its limit that is used; None without a limit."""
        if self.memory_used is None or not self.memory_limit:
            return None
        return self.memory_used / self.memory_limit


def decode(replies: Sequence[str]) -> ServerState:
    """The state from what INFO answers of memory and persistence; what is not there is not known."""
    said = dict(line.split(":", 1) for text in replies for line in text.splitlines() if ":" in line)
    policy, file = said.get("maxmemory_policy"), said.get("aof_enabled")
    return ServerState(
        memory_used=_number(said.get("used_memory")),
        memory_limit=_number(said.get("maxmemory")),
        keeps_file=None if file is None else file == "1",
        evicts=None if policy is None else policy != "noeviction",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
