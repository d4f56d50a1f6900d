"""The HTTP server: uvicorn with limits on connections, on headers that do not come, and on open files.

A client that opens connections and sends nothing costs others nothing: a new connection beyond the limit ends the one
that was idle longest, and some file descriptors are kept for Redis. A connection counts from the moment it is accepted,
before its TLS handshake.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mistudio_cli.rest.app import SAFE_HEADERS
from mistudio_cli.rest.event_client import TRANSPORT
from mistudio_cli.rest.problem import PROBLEM_JSON, Problem
from tasks.errors import UserError

if TYPE_CHECKING:
    import ssl

    from starlette.types import ASGIApp, Receive, Scope, Send

MOST_CONNECTIONS = 512
HEADERS_WITHIN_S = 10.0
IDLE_S = 30.0
KEPT_FOR_REDIS = 32

#: Connections accepted in one turn of the loop, before any of them can be refused.
_ACCEPTED_AT_ONCE = 16

#: How many more the system holds until they are accepted.
_BACKLOG = 1024


def connection_limit(wanted: int | None = None) -> int:
    """How many connections are held at once: `wanted`, or as many of MOST_CONNECTIONS as open files allow.

    Raises this process's limit of open files as far as it may, and UserError where that is too low for `wanted`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32
    kept = in_use + KEPT_FOR_REDIS + 2 * _ACCEPTED_AT_ONCE
    needed = (wanted or MOST_CONNECTIONS) + kept
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted or MOST_CONNECTIONS
    most = max(4, soft - kept)
    if wanted is not None:
        raise UserError(
            f"{wanted} connections need {needed} open files, and this process may have {soft}.",
            f"Raise the limit (ulimit -n {needed}), or give --max-connections {most}",
        )
    return most


class LimitedProtocol(H11Protocol):
    """One connection: ends when headers do not come in time, and when others need its place."""

    most = MOST_CONNECTIONS
    _headers_timer: asyncio.TimerHandle | None = None
    idle_since: float | None = None  # None: a request is being answered
    early = b""  # what came with the end of the TLS handshake, before the transport was known

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, and end the one that was idle longest when there are too many."""
        _make_room(self.connections, self.most, transport)
        super().connection_made(transport)
        _send_at_once(transport)
        self.app = partial(_with_transport, self.app, transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_waiting()
        if self.transport is not None:  # else it was lost right after its TLS handshake
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; a request that has begun gets its time once, however slowly it comes."""
        if self.transport is None:
            self.early += data
            return
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


class TlsHandshake(asyncio.Protocol):
    """A connection until its TLS handshake is done: held to the limit as all are, and to the time that headers have."""

    def __init__(self, protocol: LimitedProtocol, context: ssl.SSLContext) -> None:
        self._protocol, self._context, self._connections = protocol, context, protocol.connections
        self.idle_since = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, as `LimitedProtocol` does, and begin the handshake."""
        self.transport = transport
        transport.pause_reading()  # until `start_tls` reads
        _make_room(self._connections, self._protocol.most, transport)
        self._connections.add(self)  # type: ignore[arg-type] # uvicorn calls `shutdown` of each
        self._task = asyncio.get_running_loop().create_task(self._begin())

    def shutdown(self) -> None:
        """End it."""
        self.transport.abort()

    async def _begin(self) -> None:
        begin = asyncio.get_running_loop().start_tls
        options = {"server_side": True, "ssl_handshake_timeout": HEADERS_WITHIN_S}
        try:
            secured = await begin(self.transport, self._protocol, self._context, **options)  # type: ignore[arg-type]
        except (OSError, RuntimeError):  # asyncio raises the latter where the connection was lost just now
            self.transport.abort()
            return
        finally:
            self._connections.discard(self)
        if secured is not None:
            self._protocol.connection_made(secured)
            if self._protocol.early:  # to h11 nothing means the end
                self._protocol.data_received(self._protocol.early)


def _make_room(connections: Collection[Any], most: int, newest: asyncio.Transport) -> None:
    """Where there are as many as there may be, end the one that was idle longest; the newest, where none is idle."""
    if len(connections) < most:
        return
    idle = [other for other in connections if other.idle_since is not None and not other.transport.is_closing()]
    (min(idle, key=lambda other: other.idle_since).transport if idle else newest).abort()


def _send_at_once(transport: asyncio.Transport) -> None:
    """Headers and body are two writes: without this the second waits 40 ms for the client's acknowledgement.

    asyncio does it for sockets whose `proto` says TCP, which those of `socket.create_server` do not.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _with_transport(
    app: ASGIApp, transport: asyncio.Transport, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call the application with the connection at hand, to which events are written."""
    await app({**scope, "extensions": {TRANSPORT: transport}}, receive, send)


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


def server_of(
    application: ASGIApp,
    most: int,
    *,
    idle_s: float = IDLE_S,
    certfile: str | None = None,
    keyfile: str | None = None,
) -> RestServer:
    """A server of at most `most` connections, which ends one that has been idle for `idle_s`."""
    protocol: Any = type("Protocol", (LimitedProtocol,), {"most": most})
    config = uvicorn.Config(
        application,
        http=protocol if certfile is None else _over_tls(protocol, certfile, keyfile),
        ws="none",
        log_level="critical",
        access_log=False,
        lifespan="off",
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=idle_s,  # type: ignore[arg-type] # a number for a timer
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
    )
    return RestServer(config)


def _over_tls(protocol: Any, certfile: str, keyfile: str | None) -> Any:
    """What makes the protocol of a connection that begins with a TLS handshake, of the arguments that uvicorn gives."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    return lambda **given: TlsHandshake(protocol(**given), context)
