"""Ways in which a Redis that is there serves badly, each with its end; admin commands go past the proxy."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tasks.redis_client.redis_connection import Client
from tests.conftest import RedisServer
from tests.fixtures.proxy import HTTP, Proxy

Refusal = Callable[[Client, RedisServer, Proxy], object]


@contextmanager
def _setting(name: str, value: str, usual: str, admin: Client, *_: object) -> Iterator[None]:
    admin.call("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        admin.call("CONFIG", "SET", name, usual)


@contextmanager
def _read_only(admin: Client, *_: object) -> Iterator[None]:
    admin.call("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        admin.call("REPLICAOF", "NO", "ONE")


@contextmanager
def _full_of_clients(admin: Client, *_: object) -> Iterator[None]:
    """All are cut off, and none comes in again."""
    admin.call("CONFIG", "SET", "maxclients", "1")
    admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        yield
    finally:
        admin.call("CONFIG", "SET", "maxclients", "1000")


@contextmanager
def _stopped(admin: Client, server: RedisServer, *_: object) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@contextmanager
def _proxy_answers(answer: bytes, admin: Client, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    proxy.misbehave(answer)
    try:
        yield
    finally:
        proxy.behave()


@contextmanager
def _cut(admin: Client, server: RedisServer, proxy: Proxy) -> Iterator[None]:
    proxy.cut()
    yield


REFUSALS: dict[str, Refusal] = {
    "read-only": _read_only,
    "a web server": partial(_proxy_answers, HTTP),
    "too few replicas": partial(_setting, "min-replicas-to-write", "1", "0"),
    "too many clients": _full_of_clients,
    "hangs up": partial(_proxy_answers, b""),
    "stopped": _stopped,
    "full": partial(_setting, "maxmemory", "1", "0"),
    "cut": _cut,
    "another protocol": partial(_proxy_answers, b"%1\r\n*1\r\n+a\r\n+b\r\n"),
    "a reply 100 000 lists deep": partial(_proxy_answers, b"*1\r\n" * 100_000),
}
