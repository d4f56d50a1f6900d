"""The small Redis client: what it promises, against the real server."""

from __future__ import annotations

import gc
import os
import warnings
import weakref

import pytest

from mistudio_cli.settings import redacted
from tasks.errors import UserError
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_tls import Tls
from tests.conftest import RedisServer


def test_it_reads_every_form_of_url_celery_takes() -> None:
    assert redis_connection.parse_url("redis://h:1/2") == redis_connection.Address(host="h", port=1, db=2)
    assert redis_connection.parse_url("redis+socket:///a/b%20c?virtual_host=3") == redis_connection.Address(
        path="/a/b c", db=3
    )
    result = redis_connection.parse_url("rediss://user:p%40ss@h")
    assert (result.username, result.password, result.tls, result.port) == ("user", "p@ss", Tls(), 6379)
    assert "p@ss" not in result.shown


def test_another_scheme_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="amqp"):
        redis_connection.parse_url("amqp://h")


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:1/0",
        f"redis://me:{SECRET}@h:1/0",
        f"redis://me:a/b#{SECRET}@h:1/0",
        f"redis://h:1/0?password={SECRET}",
        f"redis+socket:///p?virtual_host=0&password={SECRET}",
        f"sentinel://me:{SECRET}@a:1,b:2/m/0",
        f"sentinel://a:1,b:2/m?sentinel_password={SECRET}",
    ],
)
def test_no_password_is_shown_even_of_a_url_that_is_misspelled(url: str) -> None:
    assert SECRET not in redacted(url)
    assert redacted(url) != url
    assert SECRET not in _said_of(url)


def _said_of(url: str) -> str:
    try:
        return redis_connection.parse_url(url).shown
    except UserError as problem:
        return str(problem)


@pytest.mark.parametrize("url", ["redis://h:port/0", "redis://h/zero", "redis://h:99999999/0", "redis://[h/0"])
def test_a_url_that_cannot_be_understood_is_said_so(url: str) -> None:
    with pytest.raises(UserError, match="cannot be understood"):
        redis_connection.parse_url(url)


def test_a_batch_is_answered_in_order_with_refusals_in_their_place(session_redis: RedisServer) -> None:
    client = redis_connection.connect(session_redis.url)
    client.call("SET", "wire-test", "é" * 100_000)
    text, refused, number = client.batch([("GET", "wire-test"), ("NO-SUCH",), ("STRLEN", "wire-test")])
    assert text == "é" * 100_000
    assert isinstance(refused, redis_connection.Refused)
    assert number == 200_000
    with pytest.raises(redis_connection.Refused):
        client.call("NO-SUCH")
    client.close()


def test_a_client_that_nobody_has_any_more_is_gone_at_once(session_redis: RedisServer) -> None:
    client = redis_connection.connect(session_redis.url)
    client.call("PING")
    left = weakref.ref(client)
    gc.disable()
    try:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it was not closed
            del client
        assert left() is None
    finally:
        gc.enable()


def test_a_restarted_server_is_found_again_without_a_failed_call(own_redis: RedisServer) -> None:
    client = redis_connection.connect(own_redis.url)
    client.call("SET", "kept", "1")
    own_redis.kill()
    with pytest.raises(redis_connection.Unreachable):
        client.call("PING")
    own_redis.start()
    assert client.call("GET", "kept") == "1"  # written before the kill: the append-only file kept it
    own_redis.kill()
    own_redis.start()
    assert client.call("GET", "kept") == "1"
    client.close()


def test_nobody_there_is_unreachable_with_the_address(short_tmp: os.PathLike[str]) -> None:
    with pytest.raises(redis_connection.Unreachable, match="nobody"):
        redis_connection.connect(f"redis+socket://{short_tmp}/nobody").call("PING")


def test_a_forked_child_opens_a_connection_of_its_own(session_redis: RedisServer) -> None:
    client = redis_connection.connect(session_redis.url)
    parent_id = client.call("CLIENT", "ID")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(client.call("CLIENT", "ID")).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 100)) != parent_id
    assert client.call("CLIENT", "ID") == parent_id
    os.close(reader)
    os.close(writer)
    client.close()
