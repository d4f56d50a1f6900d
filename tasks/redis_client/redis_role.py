"""Whether a server is one to read and to write: the judgment of its reply to ROLE.

A replica answers each read with what it has, which may be old or empty, so it is never used.
"""

from __future__ import annotations

from typing import Any

from tasks.redis_client.redis_errors import Replica, Unreachable


def require_master(shown: str, reply: Any) -> None:
    """Replica for the reply of a replica, Unreachable for that of a Sentinel.

    Whatever else a server replies is accepted: a user may lack the right to ask, and ask before a login.
    """
    if not isinstance(reply, list) or not reply:
        return
    role, *rest = (word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in reply)
    if role in ("slave", "replica"):
        master = f"{rest[0]}:{rest[1]}" if len(rest) > 1 else "another server"
        raise Replica(f"{shown} is a replica of {master}: it takes no writes, and what it holds may be old")
    if role == "sentinel":
        raise Unreachable(f"{shown} is a Sentinel, which holds no data: write sentinel://HOST:PORT/MASTER/DB")


def has_no_replicas(reply: Any) -> bool:
    """Whether this is the reply of a master that no replica follows, as one that was replaced is for some seconds."""
    return isinstance(reply, list) and len(reply) > 2 and reply[0] == "master" and not reply[2]
