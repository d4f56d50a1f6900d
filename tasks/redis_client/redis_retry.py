"""Repeats calls while Redis is unreachable, for as long as the setting redis_patience says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from tasks.redis_client.redis_connection import Unreachable
from tasks.settings import current

log = logging.getLogger("mistudio.job")

#: Giving up loses nothing: the job's lease runs out, and its next attempt finds what this one has published or resumes
#: there.
RETRY_EVERY_S = 0.5

T = TypeVar("T")


def patient(client: T) -> T:
    """The same object, but each call of a method is repeated while Redis is unreachable.

    A call raises Unreachable when that takes longer than redis_patience. Only for calls that may be repeated: the reply
    to one may have been lost after it was carried out.
    """
    return cast(T, _Patient(client))


class _Patient:
    def __init__(self, client: object) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return _repeated(value) if callable(value) else value


def _repeated(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def repeat(*args: Any, **values: Any) -> Any:
        give_up_at = time.monotonic() + current("redis_patience")
        while True:
            try:
                return call(*args, **values)
            except Unreachable as error:
                if time.monotonic() > give_up_at:
                    raise
                log.warning("Redis is unreachable (%s); retrying", error)
                time.sleep(RETRY_EVERY_S)

    return repeat
