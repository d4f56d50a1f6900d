"""Errors as RFC 9457 has them: application/problem+json, from the host check to the handlers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from mistudio_cli.error_messages import unread_ledger
from mistudio_cli.errors import NoRedis, NotFound
from tasks.errors import OverQuota, UserError
from tasks.redis_client.redis_connection import NotPermitted, Refused, Unable, Unreachable

PROBLEM_JSON = "application/problem+json"

#: When clients may ask again, in seconds.
RETRY_AFTER = {"retry-after": "1"}


@dataclass(frozen=True)
class ProblemJson:
    """The body of every error; `error` is `detail` again, for clients of the first version."""

    type: str
    title: str
    status: int
    detail: str
    error: str


class Problem(Exception):
    """An answer that is an error: its status, one sentence, and headers that come with it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The members of the problem."""
        title = HTTPStatus(self.status).phrase
        return {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
        }

    def encoded(self) -> bytes:
        """The body as it is sent."""
        return json.dumps(self.body(), ensure_ascii=False).encode("utf-8", "backslashreplace")


def problem_of(error: BaseException) -> Problem:
    """The problem that an exception of a handler means."""
    match error:
        case Problem():
            return error
        case NotPermitted():
            return Problem(403, unread_ledger(error).message)
        case Unreachable() | Refused() | Unable() | NoRedis():
            return Problem(503, unread_ledger(error).message, RETRY_AFTER)
        case NotFound():
            return Problem(404, str(error))
        case OverQuota():
            return Problem(429, str(error))
        case UserError():
            return Problem(409, str(error))
        case TimeoutError():
            return Problem(503, "The disk does not answer.", RETRY_AFTER)
        case OSError() if error.strerror:
            return Problem(503, f"{error.strerror}.", RETRY_AFTER)
    return Problem(500, f"Internal error: {type(error).__name__}")
