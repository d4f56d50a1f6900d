"""A small blocking Redis client: the only place the product opens a socket to Redis itself.

Importing redis-py costs a quarter of a second, ten times what a command that reads a few keys needs, so the ledger
speaks through this: one socket, hiredis for the protocol, commands and pipelines, nothing else. Celery keeps its own.

Whatever bytes come back, a call ends with a reply, `Unreachable` or `Refused`, and within a bounded time.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import hiredis

from tasks.redis_socket import open_socket
from tasks.redis_url import Address as Address
from tasks.redis_url import parse_url as parse_url

Command = tuple[Any, ...]

_CHUNK = 65536

#: What a server says that is there but cannot serve now (full, failing over, restarting): it is as good as away.
_AWAY = re.compile(r"\b(LOADING|MISCONF|OOM|READONLY|NOREPLICAS|BUSY|MASTERDOWN|CLUSTERDOWN|max number of clients)\b")

#: All replies of one call may take so many times as long as the next piece of them may.
_WHOLE_CALL = 10

#: A list of a size that no reply of ours has, at the start of a reply: hiredis would allocate all of it at once.
_HUGE = re.compile(rb"(?:[*%~>|]\d{1,7}\r\n|[:+_,#][^\r\n]*\r\n)*[*%~>|]\d{8}")
_STARTS_SHOWN = 60

#: What a server says of a command, or of one inside a script, that the connection's user has no right to.
_NOT_PERMITTED = re.compile(r"\bNOPERM\b|executing the script can't|ACL failure")

_UNFINISHED = object()
_REPLY_TYPES = (str, int, list, type(None))


class Unreachable(ConnectionError):
    """Redis could not be reached, or went away in the middle of a call."""


class Silent(Unreachable):
    """Something takes the connection and does not answer in time."""


class NotRedis(Unreachable):
    """Something answers, but not as Redis does."""


class Unable(Unreachable):
    """Redis answers, but cannot serve now: it is full, read-only, loading its data or failing over."""


class Refused(Exception):
    """Redis answered a command with an error."""


class NotPermitted(Refused):
    """The Redis user of the connection lacks the right to a command, a key or a channel."""


class Client:
    """One connection to Redis. It reconnects for the next call after a failure; it never repeats a call by itself."""

    def __init__(self, address: Address, timeout_s: float = 5.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._reader: hiredis.Reader | None = None
        self._errors: list[Refused] = []
        self._pid = os.getpid()

    def call(self, *command: Any) -> Any:
        """The reply to one command; Unreachable, or Refused with the server's words."""
        reply = self.batch([command])[0]
        if isinstance(reply, Refused):
            raise reply
        return reply

    def batch(self, commands: Iterable[Command]) -> list[Any]:
        """The replies to several commands sent in one round trip; a refused one is a Refused in its place.

        Unreachable when Redis cannot be reached, or was unable to serve one of them; others may have been served.
        """
        replies = self.try_all(commands)
        for reply in replies:
            if isinstance(reply, Unable):
                raise reply
        return replies

    def try_all(self, commands: Iterable[Command]) -> list[Any]:
        """As `batch`, but a command that Redis was unable to serve is an Unable in its place."""
        # hiredis's stub knows tuples of one word only
        packed = [hiredis.pack_command(tuple(map(_plain, command))) for command in commands]  # type: ignore[arg-type]
        with self._failures_named():
            self._connect()
            replies = self._exchange(b"".join(packed), len(packed))
        return [self._judged(reply) for reply in replies]

    def open(self) -> None:
        """Connect, and return when Redis has answered. Unreachable when it does not."""
        with self._failures_named():
            self._connect()

    def close(self) -> None:
        """Close the socket; the next call opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = None
        self._errors = []

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Whatever goes wrong with the connection ends it and is Unreachable."""
        try:
            yield
        except Unreachable:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise Silent(f"{self.address.shown} does not answer (waited {self._timeout_s:g} s)") from error
        except (OSError, ValueError) as error:  # ValueError: a host's name that cannot be one
            self.close()
            raise Unreachable(f"{self.address.shown}: {getattr(error, 'strerror', None) or error}") from error
        except BaseException:  # an answer that nobody read must not become the next call's
            self.close()
            raise

    def _judged(self, reply: Any) -> Any:
        is_unable = isinstance(reply, Refused) and _AWAY.search(str(reply))
        return Unable(f"{self.address.shown}: {reply}") if is_unable else reply

    def _connect(self) -> None:
        if self._socket is not None and self._pid == os.getpid() and not _has_ended(self._socket):
            return
        self.close()  # a forked child must not share its parent's connection
        self._pid = os.getpid()
        self._socket = open_socket(self.address, self._timeout_s)
        self._reader = hiredis.Reader(
            encoding="utf-8", errors="replace", replyError=self._refused, notEnoughData=_UNFINISHED
        )
        greeting = [hiredis.pack_command(command) for command in _greeting(self.address)]
        *logins, _ = self._exchange(b"".join(greeting), len(greeting))
        for reply in logins:
            if isinstance(reply, Refused):
                refused = Unreachable(f"{self.address.shown}: Redis refused the login: {reply}")
                raise judged if isinstance(judged := self._judged(reply), Unable) else refused

    def _refused(self, text: str) -> Refused:
        self._errors.append(NotPermitted(text) if _NOT_PERMITTED.search(text) else Refused(text))
        return self._errors[-1]

    def _exchange(self, request: bytes, count: int) -> list[Any]:
        assert self._socket is not None
        assert self._reader is not None
        self._socket.sendall(request)
        deadline = time.monotonic() + self._timeout_s * _WHOLE_CALL
        replies: list[Any] = []
        received = b""
        while len(replies) < count:
            try:
                reply = self._next_reply()
            except Exception as error:  # hiredis raises errors of many types
                raise self._not_redis(received, error) from error
            if reply is not _UNFINISHED:
                replies.append(reply)
                continue
            received = self._receive(deadline)
        if self._reader.has_data():
            raise self._not_redis(received, "more replies than commands")
        return replies

    def _receive(self, deadline: float) -> bytes:
        """Feed the reader with what comes next, and return that."""
        assert self._socket is not None
        assert self._reader is not None
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        received = self._socket.recv(_CHUNK)
        if not received:
            raise ConnectionError("the server closed the connection")
        if not self._reader.has_data() and _HUGE.match(received):
            raise self._not_redis(received, "a reply too large")
        self._reader.feed(received)
        return received

    def _next_reply(self) -> Any:
        """The next reply that has come in full; a message that was not asked for is passed over."""
        assert self._reader is not None
        while (reply := self._reader.gets()) is not _UNFINISHED:
            errors, self._errors = self._errors, []
            if isinstance(reply, hiredis.PushNotification):
                continue
            if errors:  # also one inside a list
                return errors[0]
            if isinstance(reply, bool) or not isinstance(reply, _REPLY_TYPES):
                raise ValueError(f"a reply of the type {type(reply).__name__}")
            return reply
        return _UNFINISHED

    def _not_redis(self, received: bytes, why: object) -> NotRedis:
        start = received[:_STARTS_SHOWN].decode("ascii", "backslashreplace")
        shown = "".join(letter if letter.isprintable() else " " for letter in start).strip()
        hint = "; it may want TLS (rediss://)" if received[:1] == b"\x15" and not self.address.tls else ""
        return NotRedis(f"{self.address.shown} answers, but not as Redis does: {shown or why}{hint}")


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
    return [*commands, ("PING",)]  # whatever the answer: there is one
