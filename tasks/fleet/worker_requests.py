"""Requests about a worker of another home or host, through the ledger: its supervisor takes them and answers there.

A request is in a hash for at most REQUEST_TTL_S; whoever removes it has taken it. The answer is a key of its own. While
it is ACCEPTED the supervisor writes it again and again, so that a supervisor that has ended can be recognized.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tasks.ledger.client import Ledger
from tasks.ledger.records import pairs, readable

#: How long a request waits for its supervisor, how long ACCEPTED holds after it was last written, and any other answer.
REQUEST_TTL_S, ACCEPTED_TTL_S, ANSWER_TTL_S = 30.0, 10, 3600

_REQUESTS = "worker-requests"

#: What an answer says: the supervisor has begun, or it is done; anything else is why it was not.
ACCEPTED, DONE = "accepted", "done"


@dataclass(frozen=True)
class WorkerRequest:
    """An operation on one worker, such as "stop" with its `grace_s`; `sent_at` is by the server's clock."""

    id: str
    operation: str
    worker: str  # with its host
    arguments: dict[str, Any]
    sent_at: float


def send(ledger: Ledger, operation: str, worker: str, **arguments: Any) -> WorkerRequest:
    """Ask the supervisor of that worker; nothing has happened yet when this returns."""
    request = WorkerRequest(os.urandom(8).hex(), operation, worker, arguments, ledger.now())
    ledger.client.call("HSET", ledger.client.key(_REQUESTS), request.id, json.dumps(asdict(request)))
    return request


def withdraw(ledger: Ledger, request: WorkerRequest) -> bool:
    """Take back a request; False when its supervisor has taken it."""
    return bool(ledger.client.call("HDEL", ledger.client.key(_REQUESTS), request.id))


def take(ledger: Ledger, workers: Collection[str]) -> Iterator[WorkerRequest]:
    """Take the requests about these workers, the oldest first; those that are too old are removed, whoever's.

    Unreachable or Refused may come after some were taken.
    """
    entries = pairs(ledger.client.call("HGETALL", ledger.client.key(_REQUESTS)))
    now = ledger.now() if entries else 0.0
    for request in sorted(readable(_read, entries.values()), key=lambda request: request.sent_at):
        is_old = now - request.sent_at > 2 * REQUEST_TTL_S  # whoever sent it would have withdrawn it
        if (is_old or request.worker in workers) and withdraw(ledger, request) and not is_old:
            yield request


def answer(ledger: Ledger, request: WorkerRequest, word: str) -> None:
    """Say how far a request is: ACCEPTED, which holds for ACCEPTED_TTL_S, DONE, or why it was not carried out."""
    ttl_s = ACCEPTED_TTL_S if word == ACCEPTED else ANSWER_TTL_S
    ledger.client.call("SET", _answer_key(ledger, request), word, "EX", ttl_s)


def read_answer(ledger: Ledger, request: WorkerRequest) -> str | None:
    """What `answer` wrote last; None before the request is taken, and when ACCEPTED has expired."""
    return ledger.client.call("GET", _answer_key(ledger, request))


def _answer_key(ledger: Ledger, request: WorkerRequest) -> str:
    return ledger.client.key(f"worker-answer:{request.id}")


def _read(line: str) -> WorkerRequest:
    fields = json.loads(line)
    request = WorkerRequest(**{name: fields[name] for name in WorkerRequest.__dataclass_fields__})
    if not isinstance(request.arguments, dict) or not isinstance(request.sent_at, (int, float)):
        raise TypeError("no request")
    return request
