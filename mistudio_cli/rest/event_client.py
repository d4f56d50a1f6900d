"""One client of the event stream: events are written to its connection as bytes that all clients share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from mistudio_cli.rest.event_feed import EventFeed

#: The key of the connection's transport in the `extensions` of a request's scope.
TRANSPORT = "mistudio.transport"

#: A client with more unsent bytes than this gets nothing more until it has taken them all.
_MOST_UNSENT = 64 * 1024

#: One that does not take them for so long is gone, though its connection stands.
_GIVEN_UP_AFTER_S = 60.0


@dataclass(frozen=True)
class Event:
    """An event as it is sent; `number` is 0 for a comment."""

    number: int
    raw: bytes

    @cached_property
    def chunked(self) -> bytes:
        """The same framed as a chunk of HTTP/1.1."""
        return b"%x\r\n%b\r\n" % (len(self.raw), self.raw)


class EventClient:
    """A connection that gets events; `seen` is the number of the last one that was written to it."""

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool = True) -> None:
        self.seen = 0
        self._transport, self._is_chunked = transport, is_chunked
        self._behind_since: float | None = None

    def takes_more(self, now: float) -> bool:
        """Whether it has taken what it was sent; one that has not for long is given up. `now` is the loop's time."""
        unsent = self._transport.get_write_buffer_size()
        if unsent <= (_MOST_UNSENT if self._behind_since is None else 0):
            self._behind_since = None
            return not self._transport.is_closing()
        if self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > _GIVEN_UP_AFTER_S:
            self._transport.abort()
        return False

    def send(self, event: Event) -> None:
        """Write one event."""
        self._transport.write(event.chunked if self._is_chunked else event.raw)
        self.seen = event.number or self.seen


class EventResponse(Response):
    """A response that lasts: after its headers the feed writes to the connection, past the HTTP library."""

    def __init__(self, feed: EventFeed, last_event_id: str | None, media_type: str) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._feed, self._last_event_id = feed, last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers, then events until the client has gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        client = EventClient(scope["extensions"][TRANSPORT], is_chunked=scope["http_version"] != "1.0")
        self._feed.add(client, self._last_event_id)
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._feed.remove(client)
