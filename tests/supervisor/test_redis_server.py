"""The home's own Redis: private, durable, one at a time, recognised again, restarted when it dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mistudio_cli.error_messages import explain
from mistudio_cli.errors import Code, NoRedis
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.redis import redis_server
from mistudio_cli.supervisor.redis_keeper import RedisKeeper
from tasks.paths import SOCKET_PATH_MAX
from tasks.redis_client import redis_connection
from tasks.system import process_identity
from tasks.system.process_identity import is_alive
from tests.conftest import PATIENCE_S, compile_library, until
from tests.supervisor.conftest import Home, Keep, keeping

SLOW_DISK = Path(__file__).parent / "slow_disk.c"


def test_it_is_private_and_durable_and_nothing_listens_on_tcp(home: Home, keep: Keep) -> None:
    keeper = keep()
    settings = {
        name: home.redis_says("CONFIG", "GET", name)[1]
        for name in ("appendonly", "appendfsync", "maxmemory-policy", "save", "port")
    }
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert not list(home.redis.net_connections("inet"))
    assert stat.S_IMODE(home.places.redis_socket.stat().st_mode) == 0o600
    for folder in (home.places.redis, home.places.run, home.places.logs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    keeper.let_go()


def test_a_killed_one_comes_back_at_once_with_all_it_had(home: Home, keep: Keep) -> None:
    keeper = keep()
    home.redis_says("SET", "kept", "yes")
    before = home.redis
    before.kill()
    until(lambda: keeper.tick() or (keeper.answers() and keeper.restarts == 1))
    assert home.redis_says("GET", "kept") == "yes"
    assert home.redis != before


def test_what_it_has_answered_outlives_a_kill_however_slow_the_disk_is(
    home: Home, keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing = tmp_path / "syncing"
    monkeypatch.setenv("LD_PRELOAD", str(compile_library(SLOW_DISK, tmp_path / "slow_disk.so")))
    monkeypatch.setenv("SLOW_DISK_MARKER", str(syncing))
    keeper = keep()
    monkeypatch.delenv("LD_PRELOAD")
    syncing.unlink(missing_ok=True)
    until(lambda: home.redis_says("INCR", "answered") and syncing.exists(), "the disk to be busy")
    answered = home.redis_says("INCR", "answered")
    home.redis.kill()
    until(lambda: keeper.tick() or (keeper.answers() and keeper.restarts == 1))
    assert int(home.redis_says("GET", "answered")) == answered


def test_the_next_keeper_adopts_it_and_restarts_it_too(home: Home, keep: Keep) -> None:
    first = keep()
    home.redis_says("SET", "kept", "yes")
    server = home.redis
    first.let_go()
    second = keep()
    assert home.redis == server
    server.kill()
    psutil.wait_procs([server])
    until(lambda: second.tick() or (second.answers() and second.restarts == 1))
    assert home.redis_says("GET", "kept") == "yes"


def test_one_whose_pid_was_never_written_down_is_found_at_its_socket_and_never_doubled(home: Home, keep: Keep) -> None:
    keep()
    server = home.redis
    (home.places.run / "redis.json").unlink()
    assert redis_server.running(home.places) == server
    assert redis_server.start(home.places) is None
    keep()
    assert json.loads((home.places.run / "redis.json").read_text())["pid"] == server.pid


def test_a_recycled_pid_is_never_taken_for_it_nor_signalled(home: Home, keep: Keep) -> None:
    other_process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    home.places.run.mkdir(parents=True)
    result = {**process_identity.describe(os.getpid()), "pid": other_process.pid}
    (home.places.run / "redis.json").write_text(json.dumps(result))
    assert redis_server.running(home.places) is None
    assert redis_server.stop(home.places) is False
    keep()
    assert home.redis.pid != other_process.pid
    redis_server.stop(home.places)
    assert other_process.poll() is None
    other_process.communicate(b"\n")
    assert other_process.returncode == 0


def test_a_strange_home_is_a_home_like_any_other(strange_home: Home) -> None:
    keepers = keeping(strange_home)
    next(keepers)()
    assert len(os.fsencode(strange_home.places.redis_socket)) <= SOCKET_PATH_MAX
    client = redis_connection.connect(redis_server.own_url(strange_home.places))
    assert client.call("PING") == "PONG"
    client.close()
    next(keepers, None)


def test_one_that_cannot_read_its_file_says_so_in_its_own_words(home: Home) -> None:
    home.places.redis.mkdir(parents=True)
    (home.places.redis / "appendonly.aof").write_text("this is no append-only file\n" * 10)
    with pytest.raises(NoRedis) as raised:
        supervisor_client.broker_url_for(home.settings)
    assert explain(raised.value).code is Code.UNREACHABLE
    assert raised.value.sentence.startswith("Redis does not stay up (exit code 1): ")
    assert "append only file" in raised.value.sentence
    assert raised.value.hint == f"See {home.places.logs / 'redis.log'}"
    assert (home.places.redis / "appendonly.aof").read_text() == "this is no append-only file\n" * 10


def test_without_any_redis_server_the_user_sees_what_to_install(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(redis_server, "find_spec", lambda name: None)
    keeper = RedisKeeper(home.places, time.monotonic)
    keeper.wanted = True
    keeper.tick()
    assert keeper.trouble is not None
    assert "There is no redis-server 6.2 or newer on this machine. Install one" in keeper.trouble


def end(keeper: RedisKeeper) -> None:
    """End the server that this keeper has started."""
    started = keeper._started
    assert started is not None
    keeper.let_go()
    started.terminate()
    started.wait(PATIENCE_S)


def test_what_kept_redis_from_starting_is_forgotten_when_it_has_started(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    later = itertools.count(0.0, 40.0)  # no pause is longer than that between two looks
    keeper = RedisKeeper(home.places, lambda: next(later))
    keeper.wanted = True
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        without.setattr(redis_server, "find_spec", lambda name: None)
        for _ in range(10):
            keeper.tick()
        assert keeper.trouble is not None
    until(lambda: keeper.tick() or keeper.answers())
    assert keeper.trouble is None
    end(keeper)


def test_that_redis_did_not_stay_up_is_forgotten_when_it_has(home: Home) -> None:
    ahead = [0.0]
    keeper = RedisKeeper(home.places, lambda: time.monotonic() + ahead[0])
    keeper.wanted = True

    def dies() -> bool:
        if keeper._server is not None:
            keeper._server.kill()
        keeper.tick()
        return keeper.trouble is not None

    until(dies, "Redis to be given up")
    assert keeper.trouble is not None
    assert "does not stay up" in keeper.trouble
    until(lambda: keeper.tick() or keeper.answers())
    assert keeper.trouble is not None, "it may die again at once"
    ahead[0] = 61.0
    keeper.tick()
    assert keeper.trouble is None
    end(keeper)


@pytest.mark.parametrize(
    ("says", "is_taken"),
    [
        ("Redis server v=7.0.15 sha=00000000:0", True),
        ("Valkey server v=8.1.0 sha=00000000:0", True),
        ("Redis server v=6.2.0 sha=0", True),
        ("Redis server v=6.0.16 sha=00000000:0", False),
        ("Redis server v=5.10.1", False),
        ("no server at all", False),
    ],
)
def test_only_a_server_new_enough_is_taken_from_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, is_taken: bool
) -> None:
    script = tmp_path / "redis-server"
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (redis_server.find_server() == str(script)) is is_taken


def test_it_ends_in_good_order(home: Home, keep: Keep) -> None:
    keep().let_go()
    server = home.redis
    assert redis_server.stop(home.places) is True
    assert redis_server.running(home.places) is None
    assert not is_alive(server)
    assert "ready to exit, bye bye" in (home.places.logs / "redis.log").read_text()


def test_it_is_no_child_of_the_terminal(home: Home, keep: Keep) -> None:
    keep()
    assert os.getsid(home.redis.pid) == home.redis.pid
    os.kill(home.redis.pid, signal.SIGHUP)
    assert home.redis_says("PING") == "PONG"
