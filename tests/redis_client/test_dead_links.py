"""Each connection to Redis over a network is one that the system gives up once nothing comes through any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tasks.messaging.app import HEALTH_CHECK_INTERVAL_S, make_app
from tasks.redis_client.redis_socket import DEAD_LINK_OPTIONS, open_socket
from tasks.redis_client.redis_url import parse_url
from tests.conftest import RedisServer
from tests.fixtures.proxy import Proxy, proxied

NOTICED_WITHIN_S = 20


@pytest.fixture
def proxy(session_redis: RedisServer) -> Iterator[Proxy]:
    with proxied(session_redis.socket) as proxy:
        yield proxy


def check(link: socket.socket) -> None:
    assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    found = {option: link.getsockopt(socket.IPPROTO_TCP, option) for option in DEAD_LINK_OPTIONS}
    assert found == DEAD_LINK_OPTIONS
    idle, every, times = (found[getattr(socket, f"TCP_KEEP{name}")] for name in ("IDLE", "INTVL", "CNT"))
    assert idle + every * times <= NOTICED_WITHIN_S, "one over which nothing is sent"
    assert found[socket.TCP_USER_TIMEOUT] <= NOTICED_WITHIN_S * 1000, "one over which something is"


def test_the_ledgers(proxy: Proxy) -> None:
    with open_socket(parse_url(f"redis://127.0.0.1:{proxy.port}/0"), 5.0) as link:
        check(link)


def test_celerys(proxy: Proxy) -> None:
    app = make_app(f"redis://127.0.0.1:{proxy.port}/0")
    with app.connection_for_read() as connection, connection.channel() as channel:
        for client in (channel.client, channel.subclient):
            client.ping()
            link = client.connection_pool.get_connection()
            check(link._sock)
            assert link.health_check_interval == HEALTH_CHECK_INTERVAL_S
            client.connection_pool.release(link)
    results = app.backend.client
    results.ping()
    link = results.connection_pool.get_connection()
    assert link._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    results.connection_pool.disconnect()
    app.close()
