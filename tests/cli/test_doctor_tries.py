"""`doctor` tries what the product needs: each state in which nothing works is found, with its cause, and fails it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.errors import Code
from tasks.redis_client.redis_connection import connect
from tests.cli.conftest import Cli
from tests.conftest import RedisServer, compile_library
from tests.redis_client.foreign_replies import BY_HAND, foreign_server_at

REFUSING = Path(__file__).parent / "no_locks_no_writes.c"


@pytest.fixture
def here(cli: Cli, own_redis: RedisServer) -> Iterator[Cli]:
    """The command line with a Redis of this test's own."""
    (cli.home / "run").mkdir()
    client = connect(own_redis.url)
    client.call("CLIENT", "ID")
    yield dataclasses.replace(cli, broker_url=own_redis.url, ledger=type(cli.ledger)(client))
    client.close()


def failures(here: Cli, **environment: str) -> dict[str, dict[str, Any]]:
    """The checks that failed; that any did is the exit code's to say."""
    result = here("doctor", "--json", **environment)
    checks = {check["name"]: check for check in result.json["checks"] if check["verdict"] == "failed"}
    assert (result.code == Code.FAILED) == bool(checks) == (not result.json["ok"])
    assert all(check["mend"] for check in checks.values())
    return checks


def test_all_that_is_well_fails_nothing_and_leaves_nothing(here: Cli) -> None:
    assert failures(here) == {}
    assert here.ledger.client.call("EXISTS", "mistudio:doctor") == 0
    assert list(here.home.rglob("*doctor*")) == []


@pytest.mark.parametrize(
    ("setting", "cause", "hint"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "OOM command not allowed", "raise it"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "NOREPLICAS", "replicas are away"),
    ],
)
def test_a_redis_that_takes_no_writes_is_found(here: Cli, setting: tuple[str, ...], cause: str, hint: str) -> None:
    assert here.ledger.client.call(*setting) == "OK"
    (found,) = failures(here).values()
    assert found["name"] == "redis writes"
    assert cause in found["detail"]
    assert hint in found["mend"]


def test_a_replica_is_found(here: Cli) -> None:
    assert here.ledger.client.call("REPLICAOF", "127.0.0.1", "1") == "OK"
    (found,) = failures(here).values()
    assert found["name"] == "redis"
    assert "is a replica of 127.0.0.1:1" in found["detail"]
    assert "Name the master" in found["mend"]


@pytest.mark.parametrize("right", ["-time", "-evalsha", "-brpop", "-publish", "resetkeys ~mistudio:*", "resetchannels"])
def test_a_user_who_lacks_a_right_is_found(here: Cli, right: str) -> None:
    rules = ["on", ">pw", "~*", "&*", "+@all", *right.split()]
    assert here.ledger.client.call("ACL", "SETUSER", "lab", *rules) == "OK"
    url = here.broker_url.replace("redis+socket://", "redis+socket://lab:pw@")
    found = failures(here, CELERY_BROKER_URL=url)
    assert list(found) == ["redis writes"], found
    assert "mistudio fleet acl worker" in found["redis writes"]["mend"]
    assert "pw" not in json.dumps(found).replace("pwd", "")


def test_a_redis_that_hangs_costs_one_timeout_and_is_called_so(here: Cli, own_redis: RedisServer) -> None:
    """Who has waited in vain closes the connection. Another one, which asks nothing, shows whose Redis it is."""
    assert own_redis.process is not None
    here.ledger.client.call("CONFIG", "RESETSTAT")
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        (found,) = failures(here, MISTUDIO_READ_PATIENCE_S="1").values()
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert (found["name"], "does not answer" in found["detail"]) == ("redis", True)
    assert "total_connections_received:2\r\n" in here.ledger.client.call("INFO", "stats")


def connections_to(listener: socket.socket) -> int:
    """How many have been made, which nobody has taken."""
    listener.setblocking(False)
    for number in itertools.count():
        try:
            link, _ = listener.accept()
        except BlockingIOError:
            return number
        link.close()
    raise AssertionError


def test_a_black_hole_costs_one_timeout(here: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        (found,) = failures(here, CELERY_BROKER_URL=url, MISTUDIO_READ_PATIENCE_S="1").values()
        assert connections_to(listener) == 1
    assert "does not answer" in found["detail"]


@pytest.mark.parametrize("name", ["a web server", "ssh"])
def test_what_is_no_redis_is_called_so_by_every_command(here: Cli, short_tmp: Path, name: str) -> None:
    with foreign_server_at(short_tmp / "s") as answering:
        answering.answer, answering.greeting = BY_HAND[name], None
        url = f"redis+socket://{short_tmp}/s"
        (found,) = failures(here, CELERY_BROKER_URL=url).values()
        assert "answers, but not as Redis does" in found["detail"]
        for words in ("queue ls", "jobs ls --json", "submit nap", "workers start"):
            result = here(*words.split(), CELERY_BROKER_URL=url)
            assert (result.code, bool(result.out)) == (Code.UNREACHABLE, "--json" in words)
            assert result.err.splitlines()[0].startswith(f"{short_tmp}/s answers, but not as Redis does: ")


def test_entries_that_cannot_be_read_are_named_with_how_to_remove_them(here: Cli) -> None:
    here.ledger.client.call("HSET", "mistudio:workers", "evil", "not JSON")
    result = here("doctor", "--json")
    (found,) = [check for check in result.json["checks"] if check["name"] == "redis entries"]
    assert (result.code, found["verdict"]) == (Code.OK, "warning")
    assert found["detail"] == "written by something else, is skipped: mistudio:workers evil: is not JSON"
    assert found["mend"].endswith("redis-cli HDEL mistudio:workers 'evil'")
    here.ledger.client.call("DEL", "mistudio:workers")
    here.ledger.client.call("SET", "mistudio:workers", "a text")
    assert failures(here)["redis entries"]["detail"].startswith("written by something else, blocks commands: ")


@pytest.mark.parametrize("place", ["a file", "a file/in", "/proc/x"])
def test_a_folder_that_can_never_be_made_is_found(here: Cli, place: str) -> None:
    (here.home / "a file").touch()
    found = failures(here, MISTUDIO_STORE=str(here.home / place))["store"]
    assert (f"{here.home / place} cannot be used: " in found["detail"], "MISTUDIO_STORE" in found["mend"]) == (
        True,
        True,
    )


def test_a_file_system_without_locks_or_writes_is_found(here: Cli, short_tmp: Path) -> None:
    library = compile_library(REFUSING, short_tmp / "refusing.so", "-ldl")
    preload = {"LD_PRELOAD": str(library)}
    assert list(failures(here, NO_LOCKS="1", **preload)) == ["locks"]
    (here.home / "store").mkdir()
    found = failures(here, DENIED=str(here.home / "store"), **preload)
    assert (list(found), "Read-only file system" in found["store"]["detail"]) == (["store"], True)
    assert list(failures(here, DENIED="/dev/shm", **preload)) == ["shared memory"]
