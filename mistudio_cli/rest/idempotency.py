"""Idempotency-Key: the id of the job that a key makes is known before it is submitted: a repeat makes no second one."""

from __future__ import annotations

import re

from mistudio_cli.rest.problem import Problem
from tasks.ledger.client import Ledger

KEY_HEADER = "idempotency-key"

_KEY = re.compile(r'"?[\x21\x23-\x7e]{1,200}"?')


def id_for_key(ledger: Ledger, key: str | None, operation: str) -> str | None:
    """The id of the job that this key makes, for 30 days; None without a key. Problem 400 for one that is none."""
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise Problem(400, "Idempotency-Key must be 1 to 200 visible ASCII characters.")
    from tasks.submission.fixed_ids import first_id

    return first_id(ledger, [key.strip('"')], f"Idempotency-Key {operation}")
