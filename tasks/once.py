"""Submitting the same list of jobs again submits none of them twice: the id of each is known before it is planned."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.ledger import Ledger, new_job_id
from tasks.script import PREFIX

#: For how long a list is recognized.
_KEPT_S = 30 * 86400


def first_id(ledger: Ledger, lines: Sequence[str], wishes: object, *, again: bool = False) -> str:
    """The id from which the jobs of these lines have theirs: the same for the same lines, unless `again`.

    Unreachable, Unable among it, or Refused when Redis does not take the note of it.
    """
    import hashlib  # loads OpenSSL, which other commands have no use for

    told = json.dumps([list(lines), repr(wishes)])
    key = f"{PREFIX}many:{hashlib.sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    ledger.client.call("SET", key, new_job_id(), "EX", _KEPT_S, *([] if again else ["NX"]))
    return str(ledger.client.call("GET", key))
