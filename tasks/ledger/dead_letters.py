"""Dead letters: keeps and lists the messages that workers could not take for a job.

A bounded list in Redis, newest first. A foreign message neither breaks a worker nor vanishes: it is kept here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.ledger.records import readable
from tasks.parsing.redact import redact
from tasks.redis_client.redis_connection import Client

log = logging.getLogger("mistudio.refused")

#: Its key, after the prefix.
KEY = "refused"

#: Entries kept, oldest dropped first, and characters kept of each rejected message.
MOST_KEPT, MOST_CHARS = 1000, 500


@dataclass(frozen=True)
class DeadLetter:
    """One thing put aside: when (epoch seconds by the worker's clock), from which queue, what it was and why."""

    at: float
    queue: str
    what: str
    why: str


def put_aside(write: Callable[..., Any], prefix: str, queue: str, what: str, why: str) -> DeadLetter:
    """Keep and log what was refused, its secrets masked. `write(command, ...)` sends one command to Redis.

    `prefix` is that of the ledger's keys.

    Never raises: where Redis takes no writes, the log line is all that is left.
    """
    key = prefix + KEY
    refusal = DeadLetter(time.time(), queue, redact(what)[:MOST_CHARS], redact(why)[:MOST_CHARS])
    log.warning("put aside from %s: %s: %r", refusal.queue, refusal.why, refusal.what)
    try:
        write("LPUSH", key, json.dumps(dataclasses.asdict(refusal)))
        write("LTRIM", key, 0, MOST_KEPT - 1)
    except Exception as error:  # noqa: BLE001 - it comes from one of two clients, and nothing here may end a worker
        log.warning("it could not be kept in %s: %s", key, error)
    return refusal


def read(client: Client, limit: int = 50) -> list[DeadLetter]:
    """What was put aside, newest first. Raises Unreachable."""
    return readable(_refusal, client.call("LRANGE", client.key(KEY), 0, limit - 1))


def _refusal(line: str) -> DeadLetter:
    entry = json.loads(line)
    return DeadLetter(float(entry["at"]), str(entry["queue"]), str(entry["what"]), str(entry["why"]))
