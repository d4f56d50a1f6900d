"""A second host joins by one command, with a password that no one else can read, and leaves by another."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pexpect
import pytest

from mistudio_cli.errors import Code
from mistudio_cli.fleet import joined_settings, supervisor_client
from tasks.errors import UserError
from tasks.fleet.acl import ROLES
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.redis_client.redis_connection import connect
from tasks.redis_client.redis_url import parse_url, with_prefix
from tasks.settings import read_file
from tasks.storage.store_id import make_store_id
from tasks.worker.fleet_membership import why_refused
from tests.conftest import PATIENT, RedisServer
from tests.fixtures.processes import asked
from tests.fixtures.sentinel import NAME, replicated
from tests.supervisor.conftest import MISTUDIO, Home, ending

PASSWORD = "p@ss/w:rd#1"


@dataclass
class Host:
    """Somebody at a host, who types."""

    home: Home

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "CELERY_"))}
        folder = str(self.home.places.home)
        return {**kept, "MISTUDIO_HOME": folder, "MISTUDIO_CONFIG_DIR": f"{folder}-config", **PATIENT}

    @property
    def file(self) -> Path:
        return Path(self.environment["MISTUDIO_CONFIG_DIR"]) / "mistudio.toml"

    def type(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MISTUDIO, *words],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=400,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture
def host(short_tmp: Path) -> Iterator[Host]:
    for home in ending(short_tmp / "second"):
        yield Host(home)


@pytest.fixture
def secret_redis(own_redis: RedisServer) -> RedisServer:
    with closing(connect(own_redis.url)) as client:
        client.call("CONFIG", "SET", "requirepass", PASSWORD)
    return own_redis


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    make_store_id(tmp_path / "shared")
    return str(tmp_path / "shared")


def test_one_command_joins_and_another_leaves_and_twice_is_harmless(
    host: Host, secret_redis: RedisServer, secret: str, store: str
) -> None:
    words = ("join", secret_redis.url, "--store", store, "--profile", "minimal", "--password-file", secret)
    for _ in range(2):
        done = host.type(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1].startswith("This host has joined.")
    assert stat.S_IMODE(host.file.stat().st_mode) == 0o600
    assert f'store = "{store}"' in host.file.read_text()
    (worker,) = json.loads(host.type("workers", "status", "--json").stdout)["workers"]
    assert worker["state"] == "running"
    note = host.home.places.joined_note
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert not {PASSWORD, quote(PASSWORD, safe="")} & set(re.split(r"[:@\"]", note.read_text()))
    assert PASSWORD not in host.type("config", "show").stdout
    lines = [asked(process, lambda each: each.cmdline()) for process in host.home.processes()]
    assert PASSWORD not in " ".join(word for line in lines for word in line or ())
    result = host.type("submit", "describe", "--artifact", "tokens/none")
    assert result.returncode == Code.USAGE, "it looks into the shared store"
    for said in ("This host shares no Redis any more.", "This host had not joined."):
        done = host.type("leave")
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
    assert "broker_url" not in host.file.read_text()
    assert not host.home.processes()


def test_a_redis_with_sentinels_is_joined_by_the_same_command(host: Host, secret: str, store: str) -> None:
    with replicated(PASSWORD) as servers:
        url = f"sentinel://{servers.hosts}/{NAME}/0"
        for inside in (url.replace("://", "://:secret@"), f"{url}?sentinel_password=secret"):
            done = host.type("join", inside, "--store", store, "--password-file", secret)
            assert done.returncode == Code.USAGE
            assert done.stderr.startswith("A password on the command line can be read by every user")
        done = host.type("join", url, "--store", store)
        assert (done.returncode, done.stderr.splitlines()[0]) == (Code.USAGE, f"Redis at {url} wants a password.")
        done = host.type("join", url, "--store", store, "--profile", "minimal", "--password-file", secret)
        assert done.returncode == 0, done.stderr
        assert read_in(host)["broker_url"] == servers.url, "the Sentinels want the same password"
        assert PASSWORD not in host.type("config", "show").stdout
        assert quote(PASSWORD, safe="") not in host.home.places.joined_note.read_text()
        assert states(host) == ["running"]
        assert host.type("leave").returncode == 0


def read_in(host: Host) -> dict[str, str]:
    """The settings file of that host."""
    return tomllib.loads(host.file.read_text())


@pytest.mark.parametrize(
    ("url", "flags", "code", "sentence"),
    [
        ("redis://:{password}@localhost/0", (), Code.USAGE, "A password on the command line can be read by every user"),
        ("{url}", (), Code.USAGE, "wants a password."),
        ("{url}", ("--password-file", "{wrong}"), Code.USAGE, "does not take this password."),
        ("{url}", ("--password-file", "{empty}"), Code.USAGE, "does not hold one password alone."),
        ("{url}", ("--password-file", "/nowhere/file"), Code.USAGE, "/nowhere/file cannot be read"),
        (
            "redis://127.0.0.1:1/0",
            (),
            Code.UNREACHABLE,
            "Redis cannot be reached: redis://127.0.0.1:1/0: Connection refused.",
        ),
        ("foo", (), Code.USAGE, "The Redis URL in the argument URL has no scheme."),
        ("redis://[lab/0", (), Code.USAGE, "The Redis URL in the argument URL cannot be understood."),
        ("redis://nosuchhost.invalid/0", (), Code.UNREACHABLE, "Redis cannot be reached"),
        ("http://lab/0", (), Code.USAGE, "has the scheme 'http'"),
        ("{url}", ("--store", "s3://bucket"), Code.USAGE, "s3://bucket is a URL, and a store is a folder."),
        ("{url}", ("--store", "/nowhere"), Code.USAGE, "There is no folder /nowhere on this host."),
        ("{url}", ("--profile", "nosuch", "--password-file", "{secret}"), Code.USAGE, "nosuch"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    host: Host,
    secret_redis: RedisServer,
    secret: str,
    tmp_path: Path,
    url: str,
    flags: tuple[str, ...],
    code: Code,
    sentence: str,
) -> None:
    (tmp_path / "wrong").write_text("another")
    (tmp_path / "empty").write_text("\n")
    meant = {"url": secret_redis.url, "password": "secret", "secret": secret}
    meant |= {name: str(tmp_path / name) for name in ("wrong", "empty")}
    done = host.type("join", url.format(**meant), *(flag.format(**meant) for flag in flags))
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert "CELERY_BROKER_URL" not in done.stderr
    assert PASSWORD not in done.stderr
    assert not host.file.exists()
    assert not host.home.processes()


def test_a_password_is_asked_for_where_somebody_can_be_asked(host: Host, secret_redis: RedisServer, store: str) -> None:
    words = ["join", secret_redis.url, "--store", store, "--profile", "minimal"]
    typed = pexpect.spawn(MISTUDIO, words, env=host.environment, encoding="utf-8", timeout=100)
    typed.expect("Password of Redis")
    typed.sendline(PASSWORD)
    typed.expect("This host has joined.")
    typed.expect(pexpect.EOF)
    typed.close()
    assert typed.exitstatus == 0
    assert PASSWORD not in str(typed.before)
    assert host.type("leave").returncode == 0


def test_another_store_is_refused_before_anything_is_written(
    host: Host, own_redis: RedisServer, store: str, tmp_path: Path
) -> None:
    with closing(connect(own_redis.url)) as client:
        ledger = Ledger(client)
        assert why_refused(ledger, Path(store)) == ""
        ledger.heartbeat(WorkerHeartbeat("w@first", "first", 1, ("training",), 1, 0.0))
        (tmp_path / "empty").mkdir()
        done = host.type("join", own_redis.url, "--store", str(tmp_path / "empty"))
    assert done.returncode == Code.USAGE
    assert done.stderr.startswith(f"This host cannot join: its store {tmp_path / 'empty'} is empty")
    assert not host.file.exists()


def test_a_host_joins_the_installation_of_its_prefix_as_a_user_who_may_use_no_other(
    host: Host, own_redis: RedisServer, store: str, tmp_path: Path
) -> None:
    text, worker = written_by_hand(host, 'prefix = "lab3"'), next(role for role in ROLES if role.name == "worker")
    full_url = with_prefix(own_redis.url, "lab2")
    with closing(connect(full_url)) as client:
        ledger = Ledger(client)
        assert why_refused(ledger, Path(store)) == ""
        ledger.heartbeat(WorkerHeartbeat("w@first", "first", 1, ("training",), 1, 0.0))
        client.call("ACL", "SETUSER", worker.user, *worker.rules(client.address, "pw"))
    (tmp_path / "pw").write_text("pw")
    login = own_redis.url.replace("://", f"://{worker.user}@")
    flags = ("--profile", "minimal", "--password-file", str(tmp_path / "pw"))
    join = ("--prefix", "lab2", "join", login, *flags, "--store")
    (tmp_path / "empty").mkdir()
    refused = host.type(*join, str(tmp_path / "empty"))
    assert refused.stderr.startswith(f"This host cannot join: its store {tmp_path / 'empty'} is empty")
    done = host.type(*join, store)
    assert done.returncode == 0, done.stderr
    assert (read_in(host)["prefix"], parse_url(read_in(host)["broker_url"]).prefix) == ("lab2", "lab2")
    with closing(connect(full_url)) as client:
        assert any(heartbeat.name != "w@first" for heartbeat in Ledger(client).workers()), "its worker consumes there"
    assert host.type("leave").returncode == 0
    assert host.file.read_text() == text


def test_an_environment_that_would_override_it_is_said(host: Host, own_redis: RedisServer, store: str) -> None:
    done = host.type("join", own_redis.url, "--store", store, MISTUDIO_STORE="/elsewhere")
    assert done.returncode == Code.USAGE
    assert done.stderr.startswith("MISTUDIO_STORE is /elsewhere here and would override it.")
    assert not host.file.exists()


def written_by_hand(host: Host, *lines: str) -> str:
    """A settings file as somebody wrote it, which others may read; its text."""
    host.file.parent.mkdir(parents=True)
    host.file.write_text("".join(f"{line}\n" for line in ("# by hand", *lines)))
    host.file.chmod(0o644)
    return host.file.read_text()


def is_untouched(host: Host, text: str) -> bool:
    there = (host.file.read_text(), stat.S_IMODE(host.file.stat().st_mode))
    return there == (text, 0o644) and not (host.home.places.joined_note).exists()


def states(host: Host) -> list[str]:
    return [worker["state"] for worker in json.loads(host.type("workers", "status", "--json").stdout)["workers"]]


def test_while_workers_run_on_another_redis_nothing_is_written_and_they_run_on(
    host: Host, own_redis: RedisServer, store: str
) -> None:
    text = written_by_hand(host, "keep_jobs = 7")
    assert host.type("workers", "start").returncode == 0
    done = host.type("join", own_redis.url, "--store", store)
    assert done.returncode == Code.USAGE
    first, second = done.stderr.splitlines()
    assert first == "Workers run already on another Redis: all-queues."
    assert second.strip() == "First: mistudio workers stop"
    assert is_untouched(host, text)
    assert states(host) == ["running"]
    done = host.type("leave")
    assert (done.returncode, done.stderr) == (0, "This host had not joined.\n")
    assert states(host) == ["running"], "on its own Redis, which it keeps"


def test_a_start_that_is_refused_leaves_the_settings_as_they_were(
    host: Host, own_redis: RedisServer, store: str
) -> None:
    text = written_by_hand(host)
    shared = {"CELERY_BROKER_URL": own_redis.url, "MISTUDIO_STORE": store}
    assert host.type("workers", "start", "minimal", **shared).returncode == 0
    done = host.type("join", own_redis.url, "--store", store, "--profile", "datasets")
    assert done.returncode == Code.USAGE
    assert "\nOther workers run already: all-queues.\n" in f"\n{done.stderr}"
    assert is_untouched(host, text)


def test_leave_restores_what_was_there_before_and_keeps_what_was_changed_since(
    host: Host, own_redis: RedisServer, store: str, tmp_path: Path
) -> None:
    text = written_by_hand(host, f'store = "{tmp_path}/mine"', 'broker_url = "redis://:old@before:1/0"')
    join = ("join", own_redis.url, "--store", store, "--profile", "minimal")
    for _ in range(2):
        done = host.type(*join)
        assert done.returncode == 0, done.stderr
    done = host.type("leave")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("This host has left; its Redis is redis://:***@before:1/0.")
    assert host.file.read_text() == text
    assert host.type(*join).returncode == 0
    assert host.type("config", "set", "store", f"{tmp_path}/other").returncode == 0
    assert host.type("leave").returncode == 0
    assert host.file.read_text() == text.replace("/mine", "/other")


def test_a_note_that_cannot_be_read_is_one_sentence_and_stops_no_worker(host: Host) -> None:
    assert host.type("workers", "start").returncode == 0
    (host.home.places.joined_note).write_text("[]")
    done = host.type("leave")
    assert done.returncode == Code.USAGE
    assert f"{host.home.places.run / 'joined.json'} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert states(host) == ["running"]


@pytest.fixture
def as_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host, whose settings are this process's."""
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", host.environment["MISTUDIO_CONFIG_DIR"])
    return host


def test_the_password_is_never_in_a_file_that_others_can_read(as_host: Host) -> None:
    written_by_hand(as_host)
    modes, is_watching = [], True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_watching and event == "os.rename" and str(arguments[1]) == str(as_host.file):
            modes.append(stat.S_IMODE(os.stat(str(arguments[0])).st_mode))

    sys.addaudithook(watch)
    wanted = {"broker_url": "redis://:secret@lab/0", "store": "/shared"}
    with joined_settings.written(as_host.home.places, wanted):
        is_watching = False
        assert modes == [0o600], "one replacement, which brings its permissions along"
        assert {name: read_file()[name] for name in wanted} == wanted


def test_settings_stay_when_a_worker_was_started_with_them(as_host: Host, own_redis: RedisServer, store: str) -> None:
    wanted = {"broker_url": own_redis.url, "store": store}
    starting = joined_settings.written(as_host.home.places, wanted)
    starting.__enter__()
    assert as_host.type("workers", "start").returncode == 0
    error = KeyboardInterrupt()
    assert not starting.__exit__(KeyboardInterrupt, error, None)
    assert {name: read_file()[name] for name in wanted} == wanted
    assert as_host.type("leave").returncode == 0
    assert not set(wanted) & set(read_file())


def test_a_join_that_follows_another_one_keeps_what_was_there_before_the_first(as_host: Host) -> None:
    text = written_by_hand(as_host, 'broker_url = "redis://before/0"')
    places = as_host.home.places
    for wanted in ({"broker_url": "redis://one/0"}, {"broker_url": "redis://two/0", "store": "/shared"}):
        with joined_settings.written(places, wanted):
            pass
    joined_settings.restore(places)
    assert as_host.file.read_text() == text
    assert joined_settings.read(places) is None


def test_a_supervisor_of_an_earlier_version_is_to_be_stopped_first(host: Host) -> None:
    assert host.type("workers", "start").returncode == 0
    reply = supervisor_client.ask(host.home.places, "an operation of a later version")
    with pytest.raises(UserError) as refused:
        supervisor_client._accepted(reply)
    assert refused.value.sentence == "The supervisor that runs is of an earlier version."
    assert refused.value.hint == "First: mistudio workers stop --all"
