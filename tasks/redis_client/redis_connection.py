"""A small blocking Redis client, which every Redis call outside Celery goes through.

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
from functools import partial
from typing import Any

import hiredis

from tasks.redis_client.redis_errors import NoMaster as NoMaster
from tasks.redis_client.redis_errors import NotPermitted as NotPermitted
from tasks.redis_client.redis_errors import NotRedis as NotRedis
from tasks.redis_client.redis_errors import Refused as Refused
from tasks.redis_client.redis_errors import Replica as Replica
from tasks.redis_client.redis_errors import Silent as Silent
from tasks.redis_client.redis_errors import Unable as Unable
from tasks.redis_client.redis_errors import Unreachable as Unreachable
from tasks.redis_client.redis_role import has_no_replicas, require_master
from tasks.redis_client.redis_socket import open_socket
from tasks.redis_client.redis_url import Address as Address
from tasks.redis_client.redis_url import parse_url as parse_url

Command = tuple[Any, ...]

_CHUNK = 65536

#: What a server says that is there but cannot serve now (full, failing over, restarting): it is as good as away.
_AWAY = re.compile(r"\b(LOADING|MISCONF|OOM|READONLY|NOREPLICAS|BUSY|MASTERDOWN|CLUSTERDOWN|max number of clients)\b")

#: The replies of a whole call may take this many times the timeout of one chunk.
_WHOLE_CALL = 10

#: A list of a size that no reply of ours has, at the start of a reply: hiredis would allocate all of it at once.
_HUGE = re.compile(rb"(?:[*%~>|]\d{1,7}\r\n|[:+_,#][^\r\n]*\r\n)*[*%~>|]\d{8}")
_STARTS_SHOWN = 60

#: A connection asks for the server's role when it opens, and in the batch of a call when that was so long ago: a
#: master that is made a replica by hand keeps its connections. With Sentinels, one that was replaced does for a while.
_ROLE_EVERY_S, _ROLE_EVERY_S_WITH_SENTINELS = 5.0, 1.0

#: How long the Sentinels may take to name the master.
_FIND_MASTER_S = 5.0

#: How long they may take to name it again while it serves, and how long none is asked after no answer in that time.
_FIND_MASTER_AGAIN_S, _NO_ANSWER_HOLDS_S = 0.5, 10.0

#: What a server says of a command, or of one inside a script, that the connection's user has no right to.
_NOT_PERMITTED = re.compile(r"\bNOPERM\b|executing the script can't|ACL failure")

_UNFINISHED = object()
_REPLY_TYPES = (str, int, list, type(None))


class Client:
    """One connection to a Redis that is no replica: the one at an address, or the master that its Sentinels name.

    It reconnects for the next call after a failure; it never repeats a call by itself.
    """

    def __init__(self, address: Address, timeout_s: float = 5.0) -> None:
        self.address = self._server = address
        self._timeout_s = timeout_s
        self._role_asked_at = 0.0
        self._ask_sentinels_from = 0.0
        self._socket: socket.socket | None = None
        self._reader: hiredis.Reader | None = None
        self._errors: list[Refused] = []
        self._pid = os.getpid()

    def key(self, name: str) -> str:
        """The key of the ledger with that name."""
        return self.address.key_prefix + name

    def celery_key(self, name: str) -> str:
        """The key of Celery's with that name."""
        return self.address.celery_prefix + name

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
            replies = self._ask_role_again(packed) if self._is_role_old() else self._exchange(packed)
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
        self._errors.clear()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Whatever goes wrong with the connection ends it and is Unreachable."""
        try:
            yield
        except Unreachable:
            self._give_up()
            raise
        except TimeoutError as error:
            self._give_up()
            raise Silent(f"{self._shown} does not answer (waited {self._timeout_s:g} s)") from error
        except (OSError, ValueError) as error:  # ValueError: a host's name that cannot be one
            self._give_up()
            raise Unreachable(f"{self._shown}: {getattr(error, 'strerror', None) or error}") from error
        except BaseException:  # an answer that nobody read must not become the next call's
            self.close()
            raise

    def _give_up(self) -> None:
        """Close the socket; another Sentinel is to say where the next one leads."""
        self.close()
        self._distrust_sentinel()

    def _distrust_sentinel(self) -> None:
        if self.address.sentinels is not None:
            from tasks.redis_client import sentinel  # most addresses have none

            sentinel.distrust(self.address)

    @property
    def _shown(self) -> str:
        if self.address.sentinels is None or self._server is self.address:
            return self.address.shown
        return f"{self._server.shown} (master {self.address.sentinels.master})"

    def _judged(self, reply: Any) -> Any:
        if not isinstance(reply, Refused) or not (found := _AWAY.search(str(reply))):
            return reply
        if found[0] == "READONLY":
            self._give_up()  # it has become a replica: the next call looks for the master
        return Unable(f"{self._shown}: {reply}")

    def _connect(self) -> None:
        if self._socket is not None and self._pid == os.getpid() and not _has_ended(self._socket):
            return
        self.close()  # a forked child must not share its parent's connection
        self._pid = os.getpid()
        self._server = self.address  # until a master is found
        if self.address.sentinels is not None:
            self._server = find_master(self.address, min(self._timeout_s, _FIND_MASTER_S))
        self._socket = open_socket(self._server, self._timeout_s)
        self._reader = hiredis.Reader(
            encoding="utf-8",
            errors="replace",
            # no method of this client: it would be kept alive, and its socket open, when nobody has it any more
            replyError=partial(_refused, self._errors),
            notEnoughData=_UNFINISHED,
        )
        *logins, role = self._exchange([hiredis.pack_command(command) for command in self._greeting()])
        self._check_role(role)
        for reply in logins:
            if isinstance(reply, Refused):
                refused = Unreachable(f"{self._shown}: Redis refused the login: {reply}")
                raise judged if isinstance(judged := self._judged(reply), Unable) else refused

    def _greeting(self) -> list[Command]:
        commands: list[Command] = []
        if self.address.password is not None:
            commands.append(("AUTH", *filter(None, [self.address.username]), self.address.password))
        if self.address.db:
            commands.append(("SELECT", self.address.db))
        return [*commands, ("ROLE",)]

    def _check_role(self, reply: Any) -> None:
        require_master(self._shown, reply)
        self._role_asked_at = time.monotonic()

    def _is_role_old(self) -> bool:
        every_s = _ROLE_EVERY_S if self.address.sentinels is None else _ROLE_EVERY_S_WITH_SENTINELS
        return time.monotonic() > self._role_asked_at + every_s

    def _ask_role_again(self, packed: list[bytes]) -> list[Any]:
        """The replies to these commands, none of which was that of a replica."""
        role, *replies = self._exchange([hiredis.pack_command(("ROLE",)), *packed])
        self._check_role(role)
        if self.address.sentinels is not None and has_no_replicas(role):
            self._check_still_named()
            self._role_asked_at = time.monotonic()  # after the Sentinels, which may have been slow
        return replies

    def _check_still_named(self) -> None:
        """Unable when the Sentinels name another master: this one serves until it learns that it was replaced."""
        if time.monotonic() < self._ask_sentinels_from:
            return
        try:
            named = find_master(self.address, min(self._timeout_s, _FIND_MASTER_AGAIN_S))
        except NoMaster:  # without Sentinels there is no failover
            self._ask_sentinels_from = time.monotonic() + _NO_ANSWER_HOLDS_S
            self._distrust_sentinel()
            return
        if named != self._server:
            raise Unable(f"{self._shown} is no longer the master")

    def _exchange(self, packed: list[bytes]) -> list[Any]:
        assert self._socket is not None
        assert self._reader is not None
        self._socket.sendall(b"".join(packed))
        deadline = time.monotonic() + self._timeout_s * _WHOLE_CALL
        replies: list[Any] = []
        received = b""
        while len(replies) < len(packed):
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
            errors = self._errors[:]
            self._errors.clear()
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
        return NotRedis(f"{self._shown} answers, but not as Redis does: {shown or why}{hint}")


def _refused(errors: list[Refused], text: str) -> Refused:
    """An error reply, which is also added to `errors`: inside a list nobody else would see it."""
    errors.append(NotPermitted(text) if _NOT_PERMITTED.search(text) else Refused(text))
    return errors[-1]


def connect(url: str, timeout_s: float = 5.0) -> Client:
    """A client for that URL. The socket opens with the first call."""
    return Client(parse_url(url), timeout_s)


def find_master(address: Address, timeout_s: float = _FIND_MASTER_S) -> Address:
    """The address of the master that the Sentinels of this one name. NoMaster, within the timeout."""
    from tasks.redis_client import sentinel

    return sentinel.find_master(address, ask_once, timeout_s)


class AnyRoleClient(Client):
    """A connection to whatever is at that address, also a replica or a Sentinel."""

    def _check_role(self, reply: Any) -> None:
        self._role_asked_at = time.monotonic()


def ask_once(address: Address, command: Command, timeout_s: float) -> Any:
    """The reply of whatever is at that address, over a connection of its own. Unreachable or Refused."""
    client = AnyRoleClient(address, timeout_s)
    try:
        return client.call(*command)
    finally:
        client.close()


def _has_ended(link: socket.socket) -> bool:
    """Whether the server closed an idle connection: nobody sends unasked, so anything to read is the end."""
    look = select.poll()  # select() cannot see files beyond the first 1024
    look.register(link, select.POLLIN)
    return bool(look.poll(0))


def _plain(word: Any) -> bytes | int | float:
    if isinstance(word, (bytes, int, float)):
        return word
    return str(word).encode("utf-8", "backslashreplace")  # the name of a file need not be UTF-8
