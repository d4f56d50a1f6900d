"""Whether Redis is there: the probe of every command, with three answers.

It is not running, it answers, or it is there and does not answer. The last takes `PATIENCE_S` and no longer, whatever
hangs: the name lookup, the connection, TLS or the reply.
"""

from __future__ import annotations

from enum import StrEnum

from tasks.redis_client.redis_connection import Client, Silent
from tasks.system.call_deadline import within

#: A command says within a second and a half that Redis does not answer; starting it takes the rest.
PATIENCE_S = 1.0


class Answer(StrEnum):
    """What a probe found."""

    NOT_RUNNING = "not running"
    ANSWERS = "answers"
    LOADING = "loading its data"
    SILENT = "does not answer"


def require_answer(client: Client, patience_s: float = PATIENCE_S) -> None:
    """Return when Redis answers. Silent when it does not in time, Unreachable when it is not there."""
    try:
        within(patience_s, client, client.open)
    except TimeoutError as error:
        raise Silent(f"{client.address.shown} does not answer (waited {patience_s:g} s)") from error
