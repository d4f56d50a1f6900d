"""Jobs run through a real TLS proxy, with a private authority and with a client's certificate; others are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from celery.backends.redis import RedisBackend

from tasks.jobs.record import State
from tasks.redis_client.redis_connection import NotRedis, Unreachable, connect
from tests.conftest import PATIENCE_S, RedisServer
from tests.fixtures.certificates import Authority, new_authority
from tests.fixtures.proxy import Proxy, proxied
from tests.fixtures.stack import Stack


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def plain(own_redis: RedisServer, authority: Authority) -> Iterator[Proxy]:
    """Wants no certificate from clients."""
    with proxied(own_redis.socket, authority.server("server")) as proxy:
        yield proxy


@pytest.fixture
def mutual(own_redis: RedisServer, authority: Authority) -> Iterator[Proxy]:
    """Wants one."""
    with proxied(own_redis.socket, authority.server("server", wants_client=True)) as proxy:
        yield proxy


def url_to(proxy: Proxy, *options: str, login: str = "", host: str = "127.0.0.1", db: int = 0) -> str:
    return f"rediss://{login}{host}:{proxy.port}/{db}?{'&'.join(options)}"


def says(url: str, timeout_s: float = PATIENCE_S) -> str:
    """What a call through that URL comes to."""
    client = connect(url, timeout_s)
    try:
        return str(client.call("PING"))
    except Unreachable as error:
        return str(error)
    finally:
        client.close()


def test_certificates_are_verified_by_default(own_redis: RedisServer, authority: Authority, plain: Proxy) -> None:
    own = f"ssl_ca_certs={authority.certificate}"
    assert says(url_to(plain, own)) == says(url_to(plain, own, host="localhost")) == "PONG"
    assert says(url_to(plain, "ssl_cert_reqs=none")) == "PONG"
    assert "certificate verify failed" in says(url_to(plain))
    with proxied(own_redis.socket, authority.server("elsewhere")) as other:
        assert "certificate is not valid for '127.0.0.1'" in says(url_to(other, own))
        assert says(url_to(other, own, "ssl_check_hostname=false")) == "PONG"


def test_a_client_shows_its_certificate(authority: Authority, mutual: Proxy) -> None:
    own, folder = f"ssl_ca_certs={authority.certificate}", authority.folder
    pair = f"ssl_certfile={folder / 'client.pem'}&ssl_keyfile={folder / 'client.key'}"
    locked = f"ssl_certfile={folder / 'client.pem'}&ssl_keyfile={folder / 'locked.key'}"
    assert says(url_to(mutual, own, pair)) == "PONG"
    assert says(url_to(mutual, own, locked, "ssl_password=hush")) == "PONG"
    assert says(url_to(mutual, own)) != "PONG"
    assert "cannot be used" in says(url_to(mutual, own, locked)), "nothing may ask a terminal for the password"
    assert "nowhere.pem cannot be used" in says(url_to(mutual, "ssl_ca_certs=/nowhere.pem"))


def test_plain_and_tls_do_not_mix_and_it_is_said(own_redis: RedisServer, plain: Proxy) -> None:
    with pytest.raises((NotRedis, Unreachable)):
        connect(f"redis://127.0.0.1:{plain.port}/0").call("PING")
    with proxied(own_redis.socket) as unencrypted:
        assert says(url_to(unencrypted), 2.0).startswith(f"rediss://127.0.0.1:{unencrypted.port}/0")


@pytest.mark.parametrize("form", ["own CA", "SSL_CERT_FILE", "no verification", "client certificate"])
def test_a_job_runs_through_a_proxy_and_its_result_comes_back(
    own_redis: RedisServer,
    short_tmp: Path,
    authority: Authority,
    plain: Proxy,
    mutual: Proxy,
    kinds_of_the_tests: None,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    own, folder = f"ssl_ca_certs={authority.certificate}", authority.folder
    pair = f"ssl_certfile={folder / 'client.pem'}&ssl_keyfile={folder / 'client.key'}"
    if form == "SSL_CERT_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    if form == "own CA":
        direct = connect(own_redis.url)
        direct.call("ACL", "SETUSER", "lab", "on", ">p@ss/w#rd", "~*", "&*", "+@all")
        direct.close()
    url = {
        "own CA": lambda: url_to(plain, own, login="lab:p%40ss%2Fw%23rd@", db=5),
        "SSL_CERT_FILE": lambda: url_to(plain).rstrip("?"),
        "no verification": lambda: url_to(plain, "ssl_cert_reqs=none"),
        "client certificate": lambda: url_to(mutual, own, pair),
    }[form]()
    stack = Stack(cast("RedisServer", SimpleNamespace(url=url)), short_tmp)
    try:
        stack.start_worker()
        quick, heavy = stack.submit("blink", note=form), stack.submit("nap", ticks=2)
        assert stack.ended(quick).result == {"note": form}
        assert stack.ended(heavy).state is State.SUCCEEDED
        assert isinstance(stack.app.backend, RedisBackend)
        assert stack.app.AsyncResult(quick.id).get(timeout=PATIENCE_S) == {"note": form}
    finally:
        stack.stop_worker()
        stack.ledger.close()
        stack.app.backend.result_consumer.stop()
        stack.app.backend.client.connection_pool.disconnect()
        stack.app.close()
