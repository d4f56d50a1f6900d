"""A Redis that is there and does not answer: said at once in one sentence, and not for long if it is the home's own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from mistudio_cli.errors import Code
from mistudio_cli.redis import redis_server
from mistudio_cli.redis.probe import Answer
from mistudio_cli.supervisor.redis_keeper import SILENT_UNTIL_KILLED_S, RedisKeeper
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Clock
from tests.supervisor.conftest import Home
from tests.supervisor.stopped_redis import StoppedRedis
from tests.supervisor.test_workers import Cli

#: What is promised is 1.5 s; a busy test machine may need much more, but none that waits for Redis ever ends.
AT_ONCE_S = 30.0

COMMANDS = ("queue ls", "queue ls --json", "jobs ls", "jobs wait last", "submit nap", "workers start")


@pytest.fixture(scope="module")
def black_hole() -> Iterator[str]:
    """The URL of a port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture
def stopped(home: Home) -> Iterator[StoppedRedis]:
    assert Cli(home)("workers start").returncode == 0
    with StoppedRedis(home) as stopped:
        yield stopped


def timed(cli: Cli, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = cli(words, **environment)
    assert time.monotonic() - began < AT_ONCE_S, words
    return done


def test_one_of_our_own_that_hangs_is_said_at_once_by_every_command(home: Home, stopped: StoppedRedis) -> None:
    cli, pid = Cli(home), stopped.server.pid
    for words in COMMANDS:
        stopped.keep_stopped()
        result = timed(cli, words)
        assert (result.returncode, bool(result.stdout)) == (Code.UNREACHABLE, "--json" in words), words
        first, hint = result.stderr.splitlines()
        who = f"Redis at {home.places.redis_socket} (pid {pid}, stopped)"
        assert first == f"{who} does not answer (waited 1 s).", words
        assert hint == f"  kill -CONT {pid}"
    stopped.keep_stopped()
    status = timed(cli, "workers status --json")
    assert status.returncode == Code.UNREACHABLE
    seen = json.loads(status.stdout)
    assert [(worker["state"], worker["busy"]) for worker in seen["workers"]] == [("running", None)]
    troubles = {trouble["part"]: "does not answer" in trouble["message"] for trouble in seen["errors"]}
    troubles.pop("processes", None)  # what processes hold takes longer than a second on a busy machine
    assert troubles == {"ledger": True}


def test_a_named_one_that_hangs_is_said_at_once_by_every_command(home: Home, black_hole: str) -> None:
    for words in COMMANDS:
        result = timed(Cli(home), words, CELERY_BROKER_URL=black_hole)
        assert (result.returncode, bool(result.stdout)) == (Code.UNREACHABLE, "--json" in words), words
        assert result.stderr.splitlines()[0] == f"Redis at {black_hole} does not answer (waited 1 s).", words


@pytest.fixture
def kept(home: Home) -> Iterator[tuple[RedisKeeper, Clock]]:
    """A keeper whose Redis answers, and its clock."""
    clock = Clock()
    keeper = RedisKeeper(home.places, clock)
    keeper.wanted = True
    keeper.tick()
    until(keeper.answers)
    yield keeper, clock
    started = keeper._started
    redis_server.stop(home.places)
    keeper.let_go()
    if started is not None:
        started.wait(PATIENCE_S)


def test_the_probe_has_three_answers(home: Home, kept: tuple[RedisKeeper, Clock]) -> None:
    until(lambda: redis_server.probe(home.places) is Answer.ANSWERS)
    home.redis.send_signal(signal.SIGSTOP)
    assert redis_server.probe(home.places) is Answer.SILENT
    home.redis.send_signal(signal.SIGCONT)
    until(lambda: redis_server.probe(home.places) is Answer.ANSWERS)
    redis_server.stop(home.places)
    assert redis_server.probe(home.places) is Answer.NOT_RUNNING


def pass_time(keeper: RedisKeeper, clock: Clock, seconds: float, step: float = 0.5) -> None:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        keeper.tick()


def test_one_that_hangs_for_thirty_seconds_is_started_again_with_its_data(
    home: Home, kept: tuple[RedisKeeper, Clock]
) -> None:
    keeper, clock = kept
    home.redis_says("SET", "kept", "yes")
    server = home.redis
    server.send_signal(signal.SIGSTOP)
    pass_time(keeper, clock, SILENT_UNTIL_KILLED_S - 2)
    assert server.is_running()
    pass_time(keeper, clock, 4)
    psutil.wait_procs([server], PATIENCE_S)
    until(lambda: keeper.tick() or keeper.answers())
    assert (keeper.restarts, home.redis_says("GET", "kept")) == (1, "yes")
    assert home.redis != server


def test_one_whose_socket_was_removed_is_started_again(home: Home, kept: tuple[RedisKeeper, Clock]) -> None:
    keeper, clock = kept
    home.redis_says("SET", "kept", "yes")
    home.places.redis_socket.unlink()
    pass_time(keeper, clock, SILENT_UNTIL_KILLED_S + 4)
    until(lambda: keeper.tick() or keeper.answers())
    assert home.redis_says("GET", "kept") == "yes"


def test_one_that_answers_or_whose_keeper_slept_is_let_be(home: Home, kept: tuple[RedisKeeper, Clock]) -> None:
    keeper, clock = kept
    server = home.redis
    for passed in (*[0.5] * 300, *[3600.0] * 50):  # the latter: the machine sleeps an hour, again and again
        clock.now += passed
        until(lambda: keeper.tick() or not keeper._watch.silent_s)
    assert (home.redis, keeper.restarts) == (server, 0)
