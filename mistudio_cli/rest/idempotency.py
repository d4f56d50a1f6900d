"""Idempotency-Key: the id of a request's job is known before that is submitted, so that a repeat makes no other."""

from __future__ import annotations

import json
import re
from typing import Any

from mistudio_cli.rest.problem import Problem
from tasks.ledger.client import Ledger

KEY_HEADER = "idempotency-key"

#: The headers of an answer that another request with the same key had before.
REPLAYED = {"idempotency-replayed": "true"}

#: Visible ASCII, in quotes or not.
KEY_PATTERN = '"?[!#-~]{1,200}"?'


def check_key(key: str | None) -> None:
    """Problem 400 for a key that is none."""
    if key is not None and not re.fullmatch(KEY_PATTERN, key):
        raise Problem(400, "Idempotency-Key must be 1 to 200 visible ASCII characters.")


def id_for_request(ledger: Ledger, key: str | None, operation: str, body: Any) -> str | None:
    """The id of the job that this request makes, the same for 30 days; None without a key.

    It is repeated as long as the job's record is there.

    Problem 409 when another body made a job with this key. One that was refused leaves the key free.
    """
    if key is None:
        return None
    from tasks.submission.fixed_ids import first_id

    bare, scope = key.strip('"'), f"Idempotency-Key {operation}"
    own = first_id(ledger, [bare, json.dumps(body, sort_keys=True)], scope)
    first = first_id(ledger, [bare], scope, new_id=own)
    if first != own:
        if ledger.get(first) is not None:
            raise Problem(409, f"This Idempotency-Key was used for another request, which made job {first}.")
        first_id(ledger, [bare], scope, new_id=own, again=True)
    return own
