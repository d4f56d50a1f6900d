"""Messages for mistudio's tasks that were sent without a queue: moved to the queue of their task.

Celery puts them on the queue `celery`, which is another app's or none's; nothing there but our own tasks is touched.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any

from tasks.jobs.kind import JobKind, kinds
from tasks.ledger.client import Ledger
from tasks.queues import DEFAULT_PRIORITY, SEPARATOR, redis_lists, wire_priority
from tasks.redis_client.redis_connection import NotPermitted

log = logging.getLogger("mistudio.consumer")

#: The default queue of a Celery app, and its lists in an app that has set no steps of its own.
_LISTS = ("celery", *(f"celery{SEPARATOR}{step}" for step in (3, 6, 9)))

#: How many entries are looked at in one go: a queue of another app may be long.
_MOST = 200

_MOVE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""


def bring_home(ledger: Ledger) -> int:
    """Move what is for us to the queues of its tasks; returns how many messages.

    A worker whose Redis user has no right to the queue `celery`, which is another app's, leaves it alone.
    """
    with suppress(NotPermitted):
        return _bring_home(ledger)
    return 0


def _bring_home(ledger: Ledger) -> int:
    sources = map(ledger.client.celery_key, _LISTS)
    return sum(_move(ledger, source, raw) for source in sources for raw in _entries(ledger, source))


def _entries(ledger: Ledger, source: str) -> list[str]:
    if ledger.client.call("TYPE", source) != "list":
        return []
    return ledger.client.call("LRANGE", source, -_MOST, -1)


def _move(ledger: Ledger, source: str, raw: str) -> int:
    try:
        message = json.loads(raw)
        kind = _kind_of(message)
        if kind is None:
            return 0
        message["properties"]["delivery_info"]["routing_key"] = kind.queue
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 0  # no message, so it is no task of ours
    target = ledger.client.celery_key(redis_lists(kind.queue)[wire_priority(DEFAULT_PRIORITY)])
    moved = int(ledger.client.call("EVAL", _MOVE, 2, source, target, raw, json.dumps(message)))
    if moved:
        log.info("a message for %s was sent without a queue: moved to %s", kind.wire_name, kind.queue)
    return moved


def _kind_of(message: Any) -> JobKind | None:
    name = message["headers"]["task"]
    return next((kind for kind in kinds().values() if kind.wire_name == name), None)
