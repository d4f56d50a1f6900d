"""Idempotency-Key: the id of the job that a key makes is known before it is submitted: a repeat makes no second one."""

from __future__ import annotations

import re

from mistudio_cli.rest.problem import Problem
from tasks.ledger.client import Ledger

KEY_HEADER = "idempotency-key"

#: Visible ASCII, in quotes or not.
KEY_PATTERN = '"?[!#-~]{1,200}"?'


def check_key(key: str | None) -> None:
    """Problem 400 for a key that is none."""
    if key is not None and not re.fullmatch(KEY_PATTERN, key):
        raise Problem(400, "Idempotency-Key must be 1 to 200 visible ASCII characters.")


def id_for_key(ledger: Ledger, key: str | None, operation: str) -> str | None:
    """The id of the job that this key makes, for 30 days; None without a key."""
    if key is None:
        return None
    from tasks.submission.fixed_ids import first_id

    return first_id(ledger, [key.strip('"')], f"Idempotency-Key {operation}")
