"""A small blocking Redis client: the only place the product opens a socket to Redis itself.

Importing redis-py costs a quarter of a second, ten times what a command that reads a few keys needs, so the ledger
speaks through this: one socket, hiredis for the protocol, commands and pipelines, nothing else. Celery keeps its own.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from tasks.problem import Problem

Command = tuple[Any, ...]

_CHUNK = 65536

#: What a server says that is there but cannot serve now (full, failing over, restarting): it is as good as away.
_AWAY = re.compile(r"\b(LOADING|MISCONF|OOM|READONLY|NOREPLICAS|BUSY|MASTERDOWN|CLUSTERDOWN|max number of clients)\b")


class Unreachable(ConnectionError):
    """Redis could not be reached, or went away in the middle of a call."""


class Refused(Exception):
    """Redis answered a command with an error."""


@dataclass(frozen=True)
class Address:
    """What a broker URL says."""

    path: str | None = None
    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False

    @property
    def shown(self) -> str:
        """The address without its secrets."""
        return self.path or f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def parse_url(url: str) -> Address:
    """The address in a redis://, rediss:// or redis+socket:// URL; Problem for any other."""
    try:
        return _parse(url)
    except ValueError:  # its words may hold a piece of the password
        raise Problem(
            "The broker URL cannot be understood.",
            "Set CELERY_BROKER_URL to redis://[:PASSWORD@]HOST:PORT/DB; in a password write / as %2F and # as %23",
        ) from None


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else query.get("password")
    if parts.scheme in ("redis+socket", "unix"):
        db = int(query.get("virtual_host") or query.get("db") or 0)
        return Address(path=unquote(parts.path), db=db, username=username, password=password)
    if parts.scheme in ("redis", "rediss"):
        return Address(
            host=parts.hostname or "localhost",
            port=parts.port or 6379,
            db=int(parts.path.strip("/") or query.get("virtual_host") or 0),
            username=username,
            password=password,
            tls=parts.scheme == "rediss",
        )
    raise Problem(
        f"The broker URL's scheme {parts.scheme!r} is not one mistudio speaks.",
        "Set CELERY_BROKER_URL to redis://, rediss:// or redis+socket://",
    )


class Client:
    """One connection to Redis. It reconnects for the next call after a failure; it never repeats a call by itself."""

    def __init__(self, address: Address, timeout_s: float = 5.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._reader: hiredis.Reader | None = None
        self._pid = os.getpid()

    def call(self, *command: Any) -> Any:
        """The reply to one command; Unreachable, or Refused with the server's words."""
        reply = self.batch([command])[0]
        if isinstance(reply, Refused):
            raise reply
        return reply

    def batch(self, commands: Iterable[Command]) -> list[Any]:
        """The replies to several commands sent in one round trip; a refused one is a Refused in its place."""
        # hiredis's stub knows tuples of one word only
        packed = [hiredis.pack_command(tuple(map(_plain, command))) for command in commands]  # type: ignore[arg-type]
        try:
            self._connect()
            replies = self._exchange(b"".join(packed), len(packed))
        except OSError as error:
            self.close()
            raise Unreachable(f"{self.address.shown}: {error}") from error
        except BaseException:  # an answer that nobody read must not become the next call's
            self.close()
            raise
        for reply in replies:
            if isinstance(reply, Refused) and _AWAY.search(str(reply)):
                raise Unreachable(f"{self.address.shown}: {reply}")
        return replies

    def close(self) -> None:
        """Close the socket; the next call opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = None

    def _connect(self) -> None:
        if self._socket is not None and self._pid == os.getpid() and not _has_ended(self._socket):
            return
        self.close()  # a forked child must not share its parent's connection
        self._pid = os.getpid()
        self._socket = _open(self.address, self._timeout_s)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace", replyError=Refused)
        for command in _greeting(self.address):
            reply = self._exchange(hiredis.pack_command(command), 1)[0]
            if isinstance(reply, Refused):
                raise ConnectionError(f"Redis refused the login: {reply}")

    def _exchange(self, request: bytes, count: int) -> list[Any]:
        assert self._socket is not None
        assert self._reader is not None
        self._socket.sendall(request)
        replies: list[Any] = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            received = self._socket.recv(_CHUNK)
            if not received:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(received)
        return replies


def connect(url: str, timeout_s: float = 5.0) -> Client:
    """A client for that URL. The socket opens with the first call."""
    return Client(parse_url(url), timeout_s)


def _has_ended(link: socket.socket) -> bool:
    """Whether the server closed an idle connection: nobody sends unasked, so anything to read is the end."""
    look = select.poll()  # select() cannot see files beyond the first 1024
    look.register(link, select.POLLIN)
    return bool(look.poll(0))


def _plain(word: Any) -> bytes | int | float:
    if isinstance(word, (bytes, int, float)):
        return word
    return str(word).encode("utf-8", "backslashreplace")  # the name of a file need not be UTF-8


def _greeting(address: Address) -> list[Command]:
    commands: list[Command] = []
    if address.password is not None:
        commands.append(("AUTH", *filter(None, [address.username]), address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    return commands


def _open(address: Address, timeout_s: float) -> socket.socket:
    if address.path is not None:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(timeout_s)
        try:
            link.connect(address.path)
        except OSError:
            link.close()
            raise
        return link
    link = socket.create_connection((address.host, address.port), timeout_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not address.tls:
        return link
    import ssl

    return ssl.create_default_context().wrap_socket(link, server_hostname=address.host)
