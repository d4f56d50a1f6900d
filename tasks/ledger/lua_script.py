"""The ledger's Lua, put together from `tasks/ledger/lua/` and run in Redis; no other module runs it.

Before the files stand the constants of Python's tables, so that both sides cannot disagree. A ledger whose records have
an older form is brought up to date by whoever writes to it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.queues import PRIORITY_STEPS, QUEUE_NAMES, SEPARATOR
from tasks.redis_client.redis_connection import Address, Client, Command, Refused

#: The form of the records; `8_schema.lua` knows the way from each older one.
SCHEMA = 3

_MIGRATED_AT_ONCE = 500


def evaluate(client: Client, operation: str, *arguments: object) -> str:
    """What the operation answers. UserError when the ledger is newer than this mistudio; Unreachable or Refused."""
    return evaluate_all(client, [(operation, *arguments)])[0]


def evaluate_all(client: Client, calls: Sequence[tuple[object, ...]], then: Sequence[Command] = ()) -> list[Any]:
    """The answers to several operations, each atomic, in one round trip; after them the replies to what comes `then`.

    A command of `then` that is refused has a Refused in its place.
    """
    answers = _ask(client, calls, then)
    if not any(answer.startswith("schema ") for answer in answers[: len(calls)]):
        return answers
    _bring_up_to_date(client, _form(answers[0].removeprefix("schema ")))
    return _ask(client, calls, then)


def try_all(client: Client, calls: Sequence[tuple[object, ...]], then: Sequence[Command] = ()) -> list[Any]:
    """As `evaluate_all`, but what Redis refused or was unable to do has the error in its place."""
    answers = _replies(client, calls, then)
    if any(str(answer).startswith("schema ") for answer in answers[: len(calls)]):
        return evaluate_all(client, calls, then)
    return answers


def _ask(client: Client, calls: Sequence[tuple[object, ...]], then: Sequence[Command]) -> list[Any]:
    replies = _replies(client, calls, then)
    for reply in replies[: len(calls)]:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _replies(client: Client, calls: Sequence[tuple[object, ...]], then: Sequence[Command]) -> list[Any]:
    replies = client.try_all([*[("EVALSHA", _sha(client.address), 0, *call) for call in calls], *then])
    if calls and isinstance(replies[0], Refused) and "NOSCRIPT" in str(replies[0]):
        client.call("SCRIPT", "LOAD", _text(client.address))
        replies = client.try_all([*[("EVALSHA", _sha(client.address), 0, *call) for call in calls], *then])
    return replies


def _form(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise Refused(f"the schema of the records is {text!r}, which is no number") from None


def _bring_up_to_date(client: Client, schema: int) -> None:
    if schema > SCHEMA:
        raise UserError(
            f"This Redis holds the jobs of a newer mistudio (form {schema}; this one knows {SCHEMA}).",
            "Upgrade mistudio here, or use another Redis (--broker-url)",
        )
    cursor = 0
    while _ask(client, [("migrate", cursor, _MIGRATED_AT_ONCE)], ())[0] == "more":
        cursor += _MIGRATED_AT_ONCE


@cache
def _text(address: Address) -> str:
    from tasks.ledger import history  # which commands that only read have no use for
    from tasks.ledger.totals import DURATION_BOUNDS_S, WAIT_BOUNDS_S

    queues = ", ".join(f"'{name}'" for name in QUEUE_NAMES)
    separator = "".join(f"\\{byte}" for byte in SEPARATOR.encode())
    constants = (
        f"local PREFIX, CELERY_PREFIX = '{address.key_prefix}', '{address.celery_prefix}'",
        f"local SCHEMA, STEPS, SEPARATOR = {SCHEMA}, {len(PRIORITY_STEPS)}, '{separator}'",
        f"local QUEUES = {{{queues}}}",
        f"local DURATION_BOUNDS, WAIT_BOUNDS = {_list(DURATION_BOUNDS_S)}, {_list(WAIT_BOUNDS_S)}",
        f"local FINE_S, FINE_ROWS = {history.FINE.step_s}, {history.FINE.rows}",
        f"local COARSE_S, COARSE_ROWS = {history.COARSE.step_s}, {history.COARSE.rows}",
        f"local MOST_DEVICES, DEVICE_FRESH_S = {history.MOST_DEVICES}, {history.DEVICE_FRESH_S}",
    )
    parts = sorted(Path(__file__).with_name("lua").glob("*.lua"))
    return "\n".join([*constants, *(part.read_text(encoding="utf-8") for part in parts)])


def _list(numbers: Sequence[float]) -> str:
    return f"{{{', '.join(map(str, numbers))}}}"


@cache
def _sha(address: Address) -> str:
    import hashlib  # loads OpenSSL, which commands that only read have no use for

    return hashlib.sha1(_text(address).encode(), usedforsecurity=False).hexdigest()
