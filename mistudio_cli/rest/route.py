"""A route of the table, what its handler is given, and what it answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistudio_cli.rest.event_feed import EventFeed
    from mistudio_cli.rest.services import Services


#: The beginning of the paths of this version.
API = "/api/v1"


class Access(StrEnum):
    """Who may: PUBLIC has no data and needs nothing, READ needs a token beyond the loopback, CHANGE always."""

    PUBLIC = "public"
    READ = "read"
    CHANGE = "change"


JSON, EVENT_STREAM = "application/json", "text/event-stream"


def param(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - reads as what it is at each declaration
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str | None = None,
    in_path: bool = False,
) -> Any:
    """A word of the query or the path, or a key of the body, with its bounds."""
    bounds = {"choices": choices, "minimum": minimum, "maximum": maximum, "pattern": pattern}
    return field(default=default, metadata={"help": help, "in_path": in_path, **bounds})


@dataclass(frozen=True)
class NoParams:
    """A route without words in path and query."""


@dataclass(frozen=True)
class Call:
    """A request that was checked: `params` and `body` are of the route's dataclasses, header names in lower case.

    `has_token`: whether it has the server's token, which a request that reads on this machine needs not have.
    """

    params: Any
    body: Any
    headers: Mapping[str, str]
    services: Services
    has_token: bool = False


def json_bytes(body: Any) -> bytes:
    """As Starlette's JSONResponse, but for text that is not UTF-8, which Redis may hold."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Answer:
    """What is sent: a body that becomes JSON unless it is bytes, of a `media_type`, or the events of a feed."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON
    events: EventFeed | None = None


@dataclass(frozen=True)
class Route:
    """One row of the table. `result` is the type of the answer, `example` one answer of it.

    `lists` has an ETag. `status` is that of a success; `media_type` other than JSON has no schema.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Call], Awaitable[Answer]]
    result: Any
    example: Any
    params: type = NoParams
    body: type | None = None
    access: Access = Access.READ
    lists: bool = False
    status: int = 200
    media_type: str = JSON

    @property
    def needs_token(self) -> bool:
        """Whether every caller needs one, this machine included."""
        return self.access is Access.CHANGE
