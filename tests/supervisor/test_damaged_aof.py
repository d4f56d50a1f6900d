"""Garbage at the end of Redis' file: it is served up to there, a copy is kept, and it is said."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest

from mistudio_cli.redis import redis_aof, redis_server
from mistudio_cli.supervisor.redis_keeper import RedisKeeper
from tests.conftest import PATIENCE_S, until
from tests.supervisor.conftest import Home
from tests.supervisor.test_workers import Cli

GARBAGE = {
    "text": b"this is no command\n" * 3,
    "zeros": b"\0" * 4096,
    "half a command and more": b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$9\r\nhalf" + b"\xff" * 50,
}


Keep = Callable[[], RedisKeeper]


@pytest.fixture
def keep(home: Home) -> Iterator[Keep]:
    """Makes keepers of this home's Redis, however often it dies before it answers."""
    keepers = []

    def keep() -> RedisKeeper:
        keepers.append(keeper := RedisKeeper(home.places, time.monotonic))
        keeper.wanted = True
        until(lambda: keeper.tick() or keeper.answers(), "Redis to answer")
        return keeper

    yield keep
    started = [keeper._started for keeper in keepers if keeper._started is not None]
    redis_server.stop(home.places)
    for keeper in keepers:
        keeper.let_go()
    for process in started:
        process.wait(PATIENCE_S)


def damaged(home: Home, keep: Keep, garbage: bytes) -> bytes:
    """Redis has died after somebody wrote to its file; what that holds now."""
    keep().let_go()
    for number in range(50):
        home.redis_says("SET", f"kept-{number}", "yes")
    redis_server.stop(home.places)
    file = home.places.redis / "appendonly.aof"
    with file.open("ab") as stream:
        stream.write(garbage)
    return file.read_bytes()


@pytest.mark.parametrize("name", GARBAGE)
def test_it_is_served_up_to_there_with_a_copy_and_a_sentence(
    home: Home,
    keep: Keep,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    whole = damaged(home, keep, GARBAGE[name])
    good = len(whole) - len(GARBAGE[name])
    with caplog.at_level(logging.WARNING, "mistudio.supervisor"):
        keeper = keep()
    assert [home.redis_says("GET", f"kept-{number}") for number in range(50)] == ["yes"] * 50
    (copy,) = redis_aof.copies(home.places)
    assert copy.read_bytes() == whole
    assert copy.stat().st_mode & 0o777 == 0o600
    assert f"appendonly.aof cannot be read from byte {good} on" in caplog.text
    assert keeper.trouble is None


def test_doctor_names_file_and_byte_before_and_the_copy_after(home: Home, keep: Keep) -> None:
    garbage = GARBAGE["text"]
    whole = damaged(home, keep, garbage)
    before = {check["name"]: check for check in json.loads(Cli(home)("doctor --json").stdout)["checks"]}
    assert before["redis file"]["verdict"] == "failed"
    assert f"appendonly.aof cannot be read from byte {len(whole) - len(garbage)} on" in before["redis file"]["detail"]
    keep()
    after = {check["name"]: check for check in json.loads(Cli(home)("doctor --json").stdout)["checks"]}
    assert after["redis file"]["verdict"] == "warning"
    assert str(redis_aof.copies(home.places)[0]) in after["redis file"]["detail"]
