"""One reading of a Redis URL: the ledger, Celery's broker and its results agree on each, or all refuse it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tasks.errors import UserError
from tasks.messaging.app import make_app, open_ledger
from tasks.messaging.transport import Transport
from tasks.redis_client.redis_url import Address, parse_url
from tests.redis_client.redis_urls import MEANINGS, REFUSED

#: Attributes of redis-py's connections that are the same question under another name in an Address.
_TLS = ("cert_reqs", "check_hostname", "ca_certs", "ca_path", "certfile", "keyfile", "ssl_min_version", "ssl_ciphers")


def test_the_table_has_at_least_sixty_urls() -> None:
    assert len(MEANINGS) + len(REFUSED) >= 60


@pytest.mark.parametrize("url", MEANINGS)
def test_it_means_the_same_to_ledger_broker_and_results(url: str) -> None:
    meant = MEANINGS[url]
    assert parse_url(url) == meant
    app = make_app(url)
    assert open_ledger(app).client.address == meant
    for connection in (_of_broker(app), _of_results(app)):
        assert _read_back(connection) == _expected(meant), type(connection)


@pytest.mark.parametrize("url", REFUSED)
def test_it_is_refused_by_all_in_a_sentence_without_its_secrets(url: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_url(url)
    assert "CELERY_BROKER_URL" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    with pytest.raises(UserError):
        make_app(url)


def test_the_results_may_be_in_another_redis_or_in_no_redis() -> None:
    app = make_app("redis://h:1/0", "rediss://r:2/3?ssl_cert_reqs=none")
    assert _read_back(_of_broker(app)) == _expected(Address(host="h", port=1))
    assert _read_back(_of_results(app)) == _expected(parse_url("rediss://r:2/3?ssl_cert_reqs=none"))
    assert make_app("redis://h:1/0", "cache+memory://").conf.result_backend == "cache+memory://"
    with pytest.raises(UserError, match="CELERY_RESULT_BACKEND has the option 'foo'"):
        make_app("redis://h:1/0", "redis://h:1/1?foo=1")


def test_a_clone_of_the_connection_has_our_transport_and_the_same_address() -> None:
    connection = make_app("rediss://me:x@h:1/2?ssl_ca_certs=/ca").connection_for_write()
    for one in (connection, connection.clone()):
        assert isinstance(one.transport, Transport)
        assert (one.hostname, one.port, one.ssl["ssl_ca_certs"]) == ("h", 1, "/ca")


def _of_broker(app: Any) -> Any:
    """A connection as kombu's channel makes it, not connected."""
    connection = app.connection_for_write()
    channel = Transport.Channel.__new__(Transport.Channel)
    channel.connection = connection.transport
    for name, value in app.conf.broker_transport_options.items():
        setattr(channel, name, value)
    result = channel._connparams()
    cls = result.pop("connection_class")
    return cls(**{name: value for name, value in result.items() if name != "max_connections"})


def _of_results(app: Any) -> Any:
    return app.backend.client.connection_pool.make_connection()


def _read_back(connection: Any) -> dict[str, Any]:
    """Where a connection of redis-py leads, and how it logs in and verifies."""
    where = {name: getattr(connection, name, None) for name in ("path", "host", "port")}
    where |= {name: None for name in ("host", "port") if where["path"]}
    login = {name: getattr(connection, name) or None for name in ("db", "username", "password")}
    is_tls = isinstance(connection, redis.SSLConnection)
    return {**where, **login, "tls": {name: getattr(connection, name) for name in _TLS} if is_tls else None}


def _expected(meant: Address) -> dict[str, Any]:
    tls = None
    if meant.tls is not None:
        context, given = meant.tls.for_redis_py(), meant.tls
        tls = {name: getattr(given, name.removeprefix("ssl_"), None) for name in _TLS}
        tls |= {"cert_reqs": context["ssl_cert_reqs"], "ssl_min_version": context.get("ssl_min_version")}
    where = {"path": meant.path, "host": None, "port": None}
    if meant.sentinels is not None:  # where a connection asks for the master; see test_sentinel.py
        where |= dict(zip(("host", "port"), meant.sentinels.hosts[0], strict=True))
    elif meant.path is None:
        where |= {"host": meant.host, "port": meant.port}
    login = {"db": meant.db or None, "username": meant.username, "password": meant.password}
    return {**where, **login, "tls": tls}
