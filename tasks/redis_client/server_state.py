"""What a Redis server says of its memory and of its append-only file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: What asks for it.
COMMANDS = (("INFO", "memory"), ("INFO", "persistence"))


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


def decode(replies: Sequence[Any]) -> ServerState:
    """The state from the replies to `COMMANDS`; what a user may not ask is not known."""
    texts = [reply for reply in replies if isinstance(reply, str)]
    said = dict(line.split(":", 1) for text in texts for line in text.splitlines() if ":" in line)
    policy, file = said.get("maxmemory_policy"), said.get("aof_enabled")
    return ServerState(
        memory_used=_number(said.get("used_memory")),
        memory_limit=_number(said.get("maxmemory")),
        keeps_file=None if file is None else file == "1",
        evicts=None if policy is None else policy != "noeviction",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
