"""The HTTP server: uvicorn with limits on connections, on headers that do not come, and on open files.

A client that opens connections and sends nothing costs others nothing: a new connection beyond the limit ends the one
that was idle longest, and some file descriptors are kept for Redis.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mistudio_cli.rest.app import SAFE_HEADERS
from mistudio_cli.rest.problem import PROBLEM_JSON, Problem

MOST_CONNECTIONS = 512
HEADERS_WITHIN_S = 10.0
IDLE_S = 30
KEPT_FOR_REDIS = 32

#: Connections accepted in one turn of the loop, before any of them can be refused.
_ACCEPTED_AT_ONCE = 16

#: How many more the system holds until they are accepted.
_BACKLOG = 1024


def connection_limit() -> int:
    """How many connections are held at once, by the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32
    return max(4, min(MOST_CONNECTIONS, soft - in_use - KEPT_FOR_REDIS - 2 * _ACCEPTED_AT_ONCE))


class LimitedProtocol(H11Protocol):
    """One connection: ends when headers do not come in time, and when others need its place."""

    most = MOST_CONNECTIONS
    _headers_timer: asyncio.TimerHandle | None = None
    idle_since: float | None = None  # None: a request is being answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, and end the one that was idle longest when there are too many."""
        if len(self.connections) >= self.most:
            others = [other for other in self.connections if isinstance(other, LimitedProtocol)]
            idle = [other for other in others if other.idle_since is not None and not other.transport.is_closing()]
            if idle:
                min(idle, key=lambda other: other.idle_since or 0.0).transport.abort()
            else:
                transport.abort()
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; a request that has begun gets its time once, however slowly it comes."""
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()
            self.idle_since = None
        elif self._headers_timer is None:
            self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Count as idle from now on."""
        self.idle_since = time.monotonic()
        super().on_response_complete()
        if self._is_answering():
            self.idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection."""
        if not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Say what the parser refused, as every error is said."""
        problem = Problem(400, msg)
        body = problem.encoded()
        headers = {
            **SAFE_HEADERS,
            "content-type": PROBLEM_JSON,
            "content-length": str(len(body)),
            "connection": "close",
        }
        try:
            response = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is under way already
            self.transport.abort()
            return
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self.idle_since = time.monotonic()
        self._headers_timer = asyncio.get_running_loop().call_later(HEADERS_WITHIN_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _give_up(self) -> None:
        self._headers_timer = None
        if not self.transport.is_closing() and not self._is_answering():
            self.transport.abort()


class RestServer(uvicorn.Server):
    """A server that ends streams when it is asked to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept few at once and let the system hold the others."""
        asyncio.get_running_loop().set_exception_handler(_quietly)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)


def _quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong with one connection is no news, and thousands of them are none either."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


def run(application: Any, listener: socket.socket, certfile: str | None = None, keyfile: str | None = None) -> None:
    """Serve until a signal."""
    protocol = type("Protocol", (LimitedProtocol,), {"most": connection_limit()})
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        log_level="critical",
        access_log=False,
        lifespan="off",
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )
    RestServer(config).run(sockets=[listener])
