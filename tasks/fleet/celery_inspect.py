"""Asks Celery workers what they do, as `celery inspect` does, and stops when as many have replied as received it.

Celery's own waits its whole timeout, because it does not know how many workers there are. The reply to PUBLISH says how
many connections received the message, right also after a worker was killed. The messages are those of kombu's pidbox.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.queues import SEPARATOR
from tasks.redis_client.redis_connection import Client, Refused, Unreachable


class Topic(StrEnum):
    """What can be asked."""

    ACTIVE = "active"
    RESERVED = "reserved"
    STATS = "stats"
    QUEUES = "queues"
    REGISTERED = "registered"


#: The name of Celery's command for each.
TOPICS = {str(topic): "active_queues" if topic is Topic.QUEUES else str(topic) for topic in Topic}

#: How long workers that do not reply are waited for.
WAIT_S = 1.0

_EXCHANGE, _REPLIES = "celery.pidbox", "reply.celery.pidbox"

#: kombu deletes a table of bindings that is overdue, so one that is in use is due in an hour, as kombu's own.
_BOUND_FOR_S = 3600.0

#: How many replies are taken at once.
_AT_ONCE = 1000


@dataclass(frozen=True)
class Replies:
    """What workers replied, by their names and then by topic. `receivers` is how many workers received each topic."""

    receivers: int = 0
    by_worker: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def ask(client: Client, topics: Sequence[str], workers: Sequence[str] = (), wait_s: float = WAIT_S) -> Replies:
    """The replies of these workers, or of all, to each of `TOPICS` asked for.

    Returns as soon as all that received it have replied, and after `wait_s` in any case. The client's timeout must be
    longer than that. Raises Unreachable or Refused.
    """
    inbox = _Inbox(client)
    messages = [inbox.message(TOPICS[topic], ticket=topic, workers=workers) for topic in topics]
    channel = client.celery_key(f"/{client.address.db}.{_EXCHANGE}")
    try:
        received = _checked(client.batch([*inbox.open(), *(("PUBLISH", channel, message) for message in messages)]))
        receivers = received[-len(topics) :]
        expected = len(workers) * len(topics) if workers else sum(receivers)
        replies = inbox.take(expected, time.monotonic() + wait_s)
    except Unreachable:  # so nothing can be removed either; kombu forgets the binding within an hour
        raise
    except BaseException:
        client.batch(inbox.close())
        raise
    client.batch(inbox.close())
    found: dict[str, dict[str, Any]] = {}
    for topic, worker, reply in replies:
        found.setdefault(worker, {})[topic] = reply
    return Replies(max(receivers, default=0), found)


class _Inbox:
    """A queue of our own that workers reply to, by a binding as kombu's."""

    def __init__(self, client: Client) -> None:
        self._client, self._name = client, f"mistudio-{os.urandom(8).hex()}"
        self._list = client.celery_key(f"{self._name}.{_REPLIES}")
        self._bindings = client.celery_key(f"_kombu.binding.{_REPLIES}")
        self._binding = SEPARATOR.join((self._name, "", f"{self._name}.{_REPLIES}"))

    def open(self) -> list[tuple[Any, ...]]:
        due_ms = int((time.time() + _BOUND_FOR_S) * 1000)
        deadlines = self._client.celery_key("_kombu.binding_deadlines")
        return [("SADD", self._bindings, self._binding), ("ZADD", deadlines, "GT", due_ms, _REPLIES)]

    def close(self) -> list[tuple[Any, ...]]:
        return [("SREM", self._bindings, self._binding), ("DEL", self._list)]

    def message(self, command: str, ticket: str, workers: Sequence[str]) -> str:
        """A broadcast as kombu writes it. It does not expire: clocks of hosts may differ, and the inbox is removed."""
        body = {
            "method": command,
            "arguments": {},
            "destination": list(workers) or None,
            "pattern": None,
            "matcher": None,
            "ticket": ticket,
            "reply_to": {"exchange": _REPLIES, "routing_key": self._name},
        }
        properties = {
            "delivery_mode": 2,
            "delivery_info": {"exchange": _EXCHANGE, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": os.urandom(16).hex(),
        }
        message = {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": 0},
            "properties": properties,
        }
        return json.dumps(message)

    def take(self, expected: int, deadline: float) -> list[tuple[str, str, Any]]:
        """Topic, worker and reply of each that comes, until there are as many as expected or it is too late."""
        found: list[tuple[str, str, Any]] = []
        while len(found) < expected and (left := deadline - time.monotonic()) > 0:
            # One is waited for; whatever else has come is taken in the same round trip.
            commands = [("BRPOP", self._list, f"{max(left, 0.01):.3f}"), ("RPOP", self._list, _AT_ONCE)]
            first, others = _checked(self._client.batch(commands))
            for line in [*([first[1]] if first else []), *(others or [])]:
                found += _read_reply(line)
        return found


def _read_reply(line: str) -> list[tuple[str, str, Any]]:
    """Topic, worker and reply; nothing for what is no reply, such as of something else that writes there."""
    try:
        message = json.loads(line)
        replies = json.loads(base64.b64decode(message["body"]))
        topic = message["headers"]["ticket"]
        return [(topic, str(worker), reply) for worker, reply in replies.items() if topic in TOPICS]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _checked(replies: Sequence[Any]) -> Sequence[Any]:
    for reply in replies:
        if isinstance(reply, Refused):
            raise reply
    return replies
