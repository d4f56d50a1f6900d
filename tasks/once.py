"""Submitting the same list of jobs again submits none of them twice: the id of each is known before it is planned."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.ledger import Ledger, new_job_id
from tasks.script import PREFIX

#: For how long a list is recognized.
_KEPT_S = 30 * 86400

#: The ids by the lists' digests (hash), and when each list was submitted (sorted set).
_IDS, _TIMES = f"{PREFIX}lists", f"{PREFIX}lists:at"


def first_id(ledger: Ledger, lines: Sequence[str], wishes: object, *, again: bool = False) -> str:
    """The id from which the jobs of these lines have theirs: the same for the same lines, unless `again`.

    Unreachable, Unable among it, or Refused when Redis does not take the note of it.
    """
    import hashlib  # loads OpenSSL, which other commands have no use for

    canonical = json.dumps([list(lines), repr(wishes)])
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    _forget_old_lists(ledger)
    noted = None if again else ledger.client.call("GET", f"{PREFIX}many:{digest}")  # as an older mistudio noted it
    ledger.client.call("ZADD", _TIMES, *([] if again else ["NX"]), ledger.now(), digest)
    ledger.client.call("HSET" if again else "HSETNX", _IDS, digest, noted or new_job_id())
    return str(ledger.client.call("HGET", _IDS, digest))


def _forget_old_lists(ledger: Ledger) -> None:
    old = ledger.client.call("ZRANGEBYSCORE", _TIMES, "-inf", ledger.now() - _KEPT_S, "LIMIT", 0, 1000)
    if old:
        ledger.client.call("HDEL", _IDS, *old)
        ledger.client.call("ZREM", _TIMES, *old)
