"""Whatever bytes come back, a call ends in time with a reply, Unreachable or Refused, and leaks no descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.redis_client import redis_connection
from tests.conftest import PATIENCE_S, deadline
from tests.redis_client.foreign_replies import BY_HAND, ForeignServer, at_random, foreign_server_at

SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "7"))
COUNT = 20_000 if os.environ.get("MISTUDIO_TEST_DEEPER") else 1_500


@pytest.fixture
def foreign_server(short_tmp: Path) -> Iterator[ForeignServer]:
    with foreign_server_at(short_tmp / "s") as answering:
        yield answering


def client_of(short_tmp: Path, timeout_s: float = 2 * PATIENCE_S) -> redis_connection.Client:
    """One that waits for longer than a test does, so that whatever waits in vain is found to hang."""
    return redis_connection.connect(f"redis+socket://{short_tmp}/s", timeout_s)


def said_of(client: redis_connection.Client) -> object:
    """The reply, or what kind of failure it was; any other exception passes."""
    try:
        return client.call("PING")
    except (redis_connection.Unreachable, redis_connection.Refused) as error:
        return type(error)


@pytest.mark.parametrize("greeting", [None, b"+PONG\r\n"], ids=["at once", "later"])
@pytest.mark.parametrize("name", BY_HAND)
def test_no_answer_raises_anything_else_by_hand(
    short_tmp: Path, foreign_server: ForeignServer, name: str, greeting: bytes | None
) -> None:
    foreign_server.answer, foreign_server.greeting = BY_HAND[name], greeting
    client = client_of(short_tmp)
    with deadline(PATIENCE_S, name):
        result = said_of(client)
        assert isinstance(result, str) or result in (
            redis_connection.Unreachable,
            redis_connection.NotRedis,
            redis_connection.Refused,
            redis_connection.Unable,
        )
    client.close()


def test_no_answer_raises_anything_else_at_random(short_tmp: Path, foreign_server: ForeignServer) -> None:
    client, kinds = client_of(short_tmp), set()
    for number, foreign_server.answer in enumerate(at_random(SEED, COUNT)):
        foreign_server.greeting = None if number % 3 == 0 else b"+PONG\r\n"
        with deadline(PATIENCE_S, repr(foreign_server.answer)):
            result = said_of(client)
        kinds.add(result if isinstance(result, type) else type(result))
    client.close()
    assert kinds >= {
        redis_connection.Unreachable,
        redis_connection.NotRedis,
        redis_connection.Refused,
        redis_connection.Unable,
        str,
    }, "the answers are too much alike"


@pytest.mark.parametrize("name", ["a web server", "ssh", "mail", "memcached"])
def test_what_answers_otherwise_is_named_by_its_first_words(
    short_tmp: Path, foreign_server: ForeignServer, name: str
) -> None:
    foreign_server.answer = BY_HAND[name]
    client = client_of(short_tmp)
    with pytest.raises(redis_connection.NotRedis, match="answers, but not as Redis does: ") as raised:
        client.call("PING")
    assert BY_HAND[name].decode().split("\r\n")[0] in str(raised.value)


def test_a_port_that_wants_tls_is_recognized(short_tmp: Path, foreign_server: ForeignServer) -> None:
    foreign_server.answer = BY_HAND["a TLS alert"]
    with pytest.raises(redis_connection.NotRedis, match=r"it may want TLS \(rediss://\)"):
        client_of(short_tmp).call("PING")


def test_an_error_inside_a_list_is_that_error(short_tmp: Path, foreign_server: ForeignServer) -> None:
    foreign_server.answer = BY_HAND["an error in a list"]
    client = client_of(short_tmp)
    with pytest.raises(redis_connection.Refused, match="ERR inner"):
        client.call("PING")
    client.close()


def test_a_push_before_the_reply_is_passed_over(short_tmp: Path, foreign_server: ForeignServer) -> None:
    foreign_server.answer = b">2\r\n+invalidate\r\n*1\r\n-ERR pushed\r\n+PONG\r\n"
    client = client_of(short_tmp)
    assert client.call("PING") == "PONG"
    client.close()


def test_one_that_is_silent_or_stops_midway_is_given_up_in_time(short_tmp: Path, foreign_server: ForeignServer) -> None:
    foreign_server.stays = True
    for foreign_server.answer in (b"", b"$100\r\nab"):
        client = client_of(short_tmp, 0.2)
        silent = pytest.raises(redis_connection.Silent, match=r"does not answer \(waited 0\.2 s\)")
        with deadline(PATIENCE_S, repr(foreign_server.answer)), silent:
            client.call("PING")


def test_failures_leave_no_descriptor_behind(short_tmp: Path, foreign_server: ForeignServer) -> None:
    client, before = client_of(short_tmp), len(os.listdir("/proc/self/fd"))
    for foreign_server.answer in [BY_HAND["a web server"], b"", b"-ERR no\r\n"] * 20:
        said_of(client)
    client.close()
    foreign_server.answer = b"+OK\r\n"
    said_of(client)
    client.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
