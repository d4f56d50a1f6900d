"""Submitting the same list of jobs again submits none of them twice: the id of each is known before it is planned."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.jobs.job_id import new_job_id
from tasks.ledger.client import Ledger

#: For how long a list is recognized.
_KEPT_S = 30 * 86400

#: The keys, after the prefix: the ids by the lists' digests (hash), and when each was submitted (sorted set).
_IDS, _TIMES = "lists", "lists:at"


def first_id(
    ledger: Ledger, lines: Sequence[str], submit_options: object, *, again: bool = False, new_id: str | None = None
) -> str:
    """The id from which the jobs of these lines have theirs: the same for the same lines, unless `again`.

    For lines that are new it is `new_id`, or a random one.

    Unreachable, Unable among it, or Refused when Redis does not take the note of it.
    """
    digest = _digest(lines, submit_options)
    ids, times = map(ledger.client.key, (_IDS, _TIMES))
    now = ledger.now()
    _forget_old_lists(ledger, ids, times, now - _KEPT_S)
    ledger.client.call("ZADD", times, *([] if again else ["NX"]), now, digest)
    ledger.client.call("HSET" if again else "HSETNX", ids, digest, new_id or new_job_id())
    return str(ledger.client.call("HGET", ids, digest))


def noted_id(ledger: Ledger, lines: Sequence[str], submit_options: object) -> str | None:
    """The id that `first_id` would return, without a note; None for lines that are new."""
    found = ledger.client.call("HGET", ledger.client.key(_IDS), _digest(lines, submit_options))
    return None if found is None else str(found)


def _digest(lines: Sequence[str], submit_options: object) -> str:
    import hashlib  # loads OpenSSL, which other commands have no use for

    canonical = json.dumps([list(lines), repr(submit_options)])
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _forget_old_lists(ledger: Ledger, ids: str, times: str, before: float) -> None:
    old = ledger.client.call("ZRANGEBYSCORE", times, "-inf", before, "LIMIT", 0, 1000)
    if old:
        ledger.client.call("HDEL", ids, *old)
        ledger.client.call("ZREM", times, *old)
