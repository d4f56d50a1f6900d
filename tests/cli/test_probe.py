"""Whether Redis answers is known within a second, whatever it is that hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio_cli import session
from mistudio_cli.error_messages import explain
from mistudio_cli.redis.probe import require_answer
from tasks.paths import Places, make_private
from tasks.redis_client.redis_connection import Client, NotRedis, Silent, Unreachable
from tasks.redis_client.redis_socket import open_socket
from tasks.redis_client.redis_tls import Tls
from tasks.redis_client.redis_url import Address
from tests.conftest import RedisServer, until

#: For two addresses, one after the other: each gets half of it, which is more than this machine pauses for.
TWO_PATIENCES_S = 12.0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_one_that_answers_is_said_to(session_redis: RedisServer) -> None:
    client = Client(Address(path=str(session_redis.socket)))
    require_answer(client)
    client.close()


def test_a_name_lookup_that_hangs_costs_no_more_than_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    over, before = threading.Event(), set(threading.enumerate())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait() and [])
    with pytest.raises(Silent, match=r"redis://no\.such\.host:6379/0 does not answer \(waited 0\.2 s\)"):
        require_answer(Client(Address(host="no.such.host")), 0.2)
    assert set(threading.enumerate()) - before, "it hangs still"
    over.set()
    until(lambda: not set(threading.enumerate()) - before)


def test_a_handshake_that_hangs_costs_no_more_than_the_patience(silent_port: int) -> None:
    client = Client(Address(host="127.0.0.1", port=silent_port, tls=Tls()), timeout_s=0.5)
    before = set(threading.enumerate())
    with pytest.raises(Silent):
        require_answer(client, 0.1)
    until(lambda: not set(threading.enumerate()) - before, "the handshake to be given up")


def test_an_address_that_is_silent_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    """As a name with an IPv6 address that leads nowhere."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:  # its backlog is full from here on
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", where) for where in (full.getsockname(), ("127.0.0.1", silent_port))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    link = open_socket(Address(host="two.addresses"), TWO_PATIENCES_S)
    assert link.getpeername()[1] == silent_port
    for one in (link, full, *waiting):
        one.close()


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "xn--\udcff"])
def test_a_name_that_cannot_be_one_is_unreachable_and_no_traceback(host: str) -> None:
    with pytest.raises(Unreachable) as raised:
        Client(Address(host=host)).open()
    assert not isinstance(raised.value, NotRedis)


def test_the_folder_of_the_homes_own_redis_explains_no_other_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_flags", {})
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    places = Places(tmp_path, tmp_path / "store")
    own, other = f"{places.redis_socket}: Connection refused", "redis://lab:1/0: Connection refused"

    def said(words: str) -> str:
        return explain(Unreachable(words)).sentence

    assert said(own) == f"Redis cannot be reached: {own}."
    make_private(places.run)
    (places.run / "redis.lock").touch()
    assert said(own) == f"Redis cannot be reached: its folder {places.redis} was removed."
    assert said(other) == f"Redis cannot be reached: {other}."
