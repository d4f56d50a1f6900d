"""The roles of `mistudio fleet acl`: for each, every command works, or is refused in a sentence and changes nothing.

A new command fails this until it is in the table.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from mistudio_cli.app import COMMANDS
from mistudio_cli.errors import Code
from tasks.fleet import acl
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import kinds
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.quotas import Quota, read_quotas, set_quota
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_url import Address
from tests.cli.conftest import MISTUDIO
from tests.cli.in_process import clients_closed, run
from tests.conftest import PATIENCE_S, PATIENT, RedisServer, until

PASSWORD = "hunter2"

ALL = ("admin", "worker", "submitter", "reader")
SUBMIT = ("admin", "worker", "submitter")
RUN = ("admin", "worker")


@dataclass(frozen=True)
class Case:
    """The arguments of a command, the roles for which it works, and how it ends for them.

    QUEUED, ENDED and RUNNING are jobs, FILE is one of lines to submit.
    """

    words: str = ""
    roles: tuple[str, ...] = ALL
    codes: tuple[int, ...] = (0,)


#: Every command, by its name.
CASES: dict[str, Case] = {
    "quickstart": Case("--help"),  # what it does is submitted and worked on as in the tests below
    "workers start": Case("--help"),
    "workers status": Case(),
    "workers inspect": Case("", RUN),
    "workers stop": Case("--all", codes=(0, 3)),
    "workers drain": Case("--all", codes=(0, 2, 3)),
    "workers restart": Case("", codes=(0, 3)),
    "workers scale": Case("--help"),
    "workers events": Case(),
    "workers logs": Case("no-such-worker", codes=(3,)),
    "hosts ls": Case(),
    "hosts show": Case("nowhere", codes=(3,)),
    "profiles ls": Case(),
    "profiles show": Case("full"),
    "profiles validate": Case(),
    "profiles export": Case("full"),
    "submit pipeline": Case("--example"),
    "submit many": Case("FILE", SUBMIT),
    "submit cleanup": Case("", SUBMIT),
    "queue ls": Case(),
    "queue peek": Case("training"),
    "queue pause": Case("training", RUN),
    "queue resume": Case("processing", RUN),
    "queue purge": Case("training --yes", SUBMIT),
    "queue move": Case("QUEUED --to extraction --top", SUBMIT),
    "jobs ls": Case("--owner alice --wide"),
    "jobs export": Case(),
    "jobs set-priority": Case("QUEUED 9", SUBMIT),
    "jobs rm": Case("ENDED", RUN),
    "jobs show": Case("QUEUED"),
    "jobs explain": Case("QUEUED"),
    "jobs retry": Case("ENDED", SUBMIT),
    "jobs logs": Case("ENDED", codes=(0, 3)),
    "jobs wait": Case("ENDED", codes=(0,)),
    "jobs cancel": Case("QUEUED --no-wait", SUBMIT),
    "saes ls": Case(),
    "saes show": Case("none", codes=(2, 3)),
    "top": Case("--once"),
    "serve": Case("--help"),
    "join": Case("--help"),
    "leave": Case(),
    "fleet acl": Case(),
    "fleet quota set": Case("alice --queued 9000", RUN),
    "fleet quota unset": Case("alice", RUN),
    "fleet quota ls": Case(),
    "doctor": Case("", codes=(0, 1)),
    "config show": Case(),
    "config get": Case("keep_jobs"),
    "config set": Case("keep_jobs 10"),
    "config unset": Case("keep_jobs"),
    "config path": Case(),
}

#: Those that differ from `submit cleanup` in their parameters alone.
SUBMITS = {f"submit {kind}" for kind in kinds()} | {f"saes {verb}" for verb in ("import", "export", "push", "pull")}


def names_of(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if not below:
        yield " ".join(path)
    for name, found in (below or {}).items():
        yield from names_of(found, (*path, name))


def test_every_command_is_in_the_table() -> None:
    modules = {noun: importlib.import_module(f"mistudio_cli.commands.{noun}") for noun in COMMANDS}
    found = {name for noun, module in modules.items() for name in names_of(typer.main.get_command(module.app), (noun,))}
    assert found - SUBMITS - set(CASES) == set()
    assert set(CASES) - found == set()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis with a user for each role, as `fleet acl` prints them."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    server = RedisServer(folder)
    server.start()
    client = redis_connection.connect(server.url)
    try:
        for line in acl.lines(Address()):
            assert client.call(*line.replace(">PASSWORD", f">{PASSWORD}").split()) == "OK"
        yield server
    finally:
        client.close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def url_of(server: RedisServer, role: str) -> str:
    return server.url.replace("://", f"://mistudio-{role}:{PASSWORD}@")


@dataclass(frozen=True)
class Fleet:
    """A ledger with some jobs, seen by one who may do all."""

    ledger: Ledger
    words: dict[str, str]

    def everything(self) -> dict[str, Any]:
        """All that is in Redis."""
        keys = sorted(self.ledger.client.call("KEYS", "*"))
        dumps = self.ledger.client.batch([("DUMP", key) for key in keys])
        return dict(zip(keys, dumps, strict=True))


@pytest.fixture
def fleet(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    client = redis_connection.connect(server.url)
    client.call("FLUSHDB")
    ledger = Ledger(client)
    job = {
        name: Job(new_job_id(), "cleanup", name, "training", {}, owner="alice") for name in ("queued", "ended", "runs")
    }
    ledger.submit_all(list(job.values()))
    claim = ledger.claim(job["ended"].id, "w@h", "h")
    assert claim is not None
    ledger.finish(claim, State.SUCCEEDED, "done")
    ledger.claim(job["runs"].id, "w@h", "h")
    ledger.submit(Job(new_job_id(), "cleanup", "child", "training", {}, parents=(job["queued"].id,)))
    ledger.queues.pause("processing")
    set_quota(client, "alice", Quota(running=1, queued=500))
    client.call("SET", "another-application", "secret")
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"kind": "cleanup"}\n')
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MISTUDIO_READ_PATIENCE_S", "60")  # a busy test machine is slow, and does not hang
    with clients_closed(monkeypatch):
        words = {"QUEUED": job["queued"].id, "ENDED": job["ended"].id, "RUNNING": job["runs"].id, "FILE": str(file)}
        yield Fleet(ledger, words)
    client.close()


@pytest.mark.parametrize("role", ALL)
@pytest.mark.parametrize("name", CASES)
def test_each_command_works_or_is_refused_in_a_sentence(
    server: RedisServer,
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    role: str,
) -> None:
    case = CASES[name]
    monkeypatch.setenv("CELERY_BROKER_URL", url_of(server, role))
    words = [fleet.words.get(word, word) for word in case.words.split()]
    before = fleet.everything()
    code = run(*name.split(), *words)
    printed = capsys.readouterr()
    if role in case.roles:
        assert code in case.codes, printed.err
        assert "lacks the right" not in printed.err
        return
    assert code == Code.UNREACHABLE, printed
    assert "lacks the right to do this" in printed.err.splitlines()[0]
    assert len(printed.err.splitlines()) == 2, printed.err
    assert "Traceback" not in printed.err
    assert "@user_script" not in printed.err
    assert fleet.everything() == before, "nothing is half done"


@pytest.mark.parametrize("role", ["submitter", "reader"])
@pytest.mark.parametrize(
    "command",
    ["workers start --queues training", "workers scale training=1", "quickstart", "join URL --password-file SECRET"],
)
def test_who_could_run_no_worker_starts_none(
    server: RedisServer,
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    role: str,
) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    meant = {"URL": url_of(server, role).replace(f":{PASSWORD}", ""), "SECRET": str(tmp_path / "secret")}
    if not command.startswith("join"):
        monkeypatch.setenv("CELERY_BROKER_URL", url_of(server, role))
    before = fleet.everything()
    assert run(*(meant.get(word, word) for word in command.split())) == Code.UNREACHABLE
    printed = capsys.readouterr().err
    assert printed.splitlines()[-2].startswith("The Redis user lacks the right to do this")
    assert fleet.everything() == before
    assert not (tmp_path / "home" / "run" / "supervisor.pid").exists()
    assert not (tmp_path / "config" / "mistudio.toml").exists()


@pytest.mark.parametrize("role", ALL)
def test_the_rest_interface_reads_as_every_role(server: RedisServer, fleet: Fleet, tmp_path: Path, role: str) -> None:
    environment = {**os.environ, "CELERY_BROKER_URL": url_of(server, role)}
    with subprocess.Popen(
        [MISTUDIO, "serve", "--port", "0"], env=environment, stderr=subprocess.PIPE, text=True
    ) as api:
        assert api.stderr is not None
        where = f"{api.stderr.readline().split()[2]}/api/v1/workers"
        for name in ("queues", "active", "stats", "health"):
            assert urllib.request.urlopen(f"{where}/{name}", timeout=PATIENCE_S).status == 200
        api.send_signal(signal.SIGTERM)


#: What no submitter may do, each as a command to Redis: to the quotas (KEY), to all of Redis, to other applications.
FORBIDDEN = """
SET KEY {} | GETSET KEY {} | SETEX KEY 9 {} | PSETEX KEY 9 {} | SETRANGE KEY 0 {} | APPEND KEY x | SETNX KEY {}
MSET KEY {} | MSETNX KEY {} | SETBIT KEY 1 1 | BITFIELD KEY SET u8 0 1 | BITOP NOT KEY mistudio:x | PFADD KEY x
PFMERGE KEY mistudio:x | INCR KEY | INCRBY KEY 1 | INCRBYFLOAT KEY 1 | DECR KEY | GETDEL KEY | GETEX KEY EX 1
DEL KEY | UNLINK KEY | EXPIRE KEY 0 | PEXPIRE KEY 0 | EXPIREAT KEY 1 | PEXPIREAT KEY 1 | MOVE KEY 1
RENAME KEY mistudio:x | RENAMENX KEY mistudio:x | RENAME mistudio:ids KEY | COPY mistudio:ids KEY REPLACE
RESTORE KEY 0 x REPLACE | MIGRATE h 1 KEY 0 9 | SORT mistudio:ids BY nosort STORE KEY
ZUNIONSTORE KEY 1 mistudio:ids | ZINTERSTORE KEY 1 mistudio:ids | ZDIFFSTORE KEY 1 mistudio:ids
ZRANGESTORE KEY mistudio:ids 0 -1 | SUNIONSTORE KEY mistudio:x | SDIFFSTORE KEY mistudio:x
SINTERSTORE KEY mistudio:x | GEOSEARCHSTORE KEY mistudio:x FROMLONLAT 0 0 BYRADIUS 1 m
HSET KEY a b | HSETNX KEY a b | HDEL KEY a | SADD KEY a | SREM KEY a | ZADD KEY 1 a | ZREM KEY a
ZREMRANGEBYSCORE KEY -inf +inf | LPUSH KEY a | RPUSH KEY a | XADD KEY * a b
SWAPDB 0 1 | FLUSHALL | FLUSHDB | CONFIG GET * | CONFIG SET maxmemory 1 | KEYS * | SCAN 0 | RANDOMKEY | DBSIZE
MONITOR | SHUTDOWN | DEBUG SLEEP 0 | ACL SETUSER alice on | ACL LIST | SCRIPT FLUSH | CLIENT KILL TYPE normal
GET another-application | TYPE another-application | GET celery-task-meta-x | LRANGE training_v1 0 -1
LRANGE trainings 0 -1 | LPUSH celery x | PUBLISH /0.celery.pidbox x | SUBSCRIBE /0.celery.pidbox
"""


def test_a_submitter_can_neither_raise_a_quota_nor_reach_what_others_have(server: RedisServer, fleet: Fleet) -> None:
    client = redis_connection.connect(url_of(server, "submitter"))
    before = fleet.everything()
    for command in FORBIDDEN.strip().replace("\n", " | ").split(" | "):
        words = [word.replace("KEY", "mistudio:quotas").replace("{}", '{"alice":{}}') for word in command.split()]
        for call in (words, ["EVAL", "return redis.call(unpack(ARGV))", 0, *words]):
            with pytest.raises(redis_connection.Refused):
                pytest.fail(f"{command}: {client.call(*call)}")
    client.close()
    assert fleet.everything() == before
    assert read_quotas(fleet.ledger.client) == {"alice": Quota(running=1, queued=500)}


@pytest.mark.parametrize("role", ["worker", "admin"])
def test_no_role_may_do_what_concerns_all_of_redis(server: RedisServer, fleet: Fleet, role: str) -> None:
    client = redis_connection.connect(url_of(server, role))
    for command in ("FLUSHALL", "KEYS *", "SCAN 0", "CONFIG SET maxmemory 1", "GET another-application", "ACL LIST"):
        with pytest.raises(redis_connection.NotPermitted):
            client.call(*command.split())
    client.close()


def test_real_workers_of_the_worker_role_do_what_submitters_submit(server: RedisServer, tmp_path: Path) -> None:
    client = redis_connection.connect(server.url)
    client.call("FLUSHDB")
    client.call("ACL", "LOG", "RESET")
    ledger = Ledger(client)
    extra = str(Path(__file__).parent.parent / "extra")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "CELERY_"))}
    environment |= {"MISTUDIO_HOME": str(tmp_path), "PYTHONPATH": extra, "MISTUDIO_CONFIG_DIR": str(tmp_path)}
    environment |= PATIENT

    def command(role: str, *words: str) -> subprocess.CompletedProcess[str]:
        own = {**environment, "CELERY_BROKER_URL": url_of(server, role)}
        return subprocess.run([MISTUDIO, *words], env=own, capture_output=True, text=True, timeout=400)

    with tempfile.TemporaryDirectory(prefix="ms-") as home:
        environment["MISTUDIO_HOME"] = home
        started = command("worker", "workers", "start", "--queues", "training,low_priority", "--concurrency", "2")
        assert started.returncode == 0, started.stderr
        try:
            done = command("submitter", "submit", "nap", "--ticks", "2", "--json")
            assert done.returncode == 0, done.stderr
            job_id = json.loads(done.stdout)["id"]
            assert command("reader", "jobs", "wait", job_id).returncode == 0
            assert ledger.need(job_id).owner == "mistudio-submitter"
            runs = json.loads(command("submitter", "submit", "nap", "--ticks", "100000", "--json").stdout)["id"]
            until(lambda: ledger.need(runs).progress)
            assert command("reader", "jobs", "cancel", runs).returncode == Code.UNREACHABLE
            assert command("submitter", "jobs", "cancel", runs).returncode == 0
            assert command("reader", "jobs", "logs", job_id).returncode == 0
            assert command("submitter", "submit", "cleanup", "--wait").returncode == 0
            requested = command("submitter", "--owner", "bob", "submit", "cleanup")
            assert requested.returncode == Code.USAGE
            assert "The Redis user mistudio-submitter cannot submit jobs of another owner, bob." in requested.stderr
            assert command("admin", "workers", "status").returncode == 0
        finally:
            assert command("worker", "workers", "stop", "--all").returncode == 0
    denied = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in client.call("ACL", "LOG", 100)]
    client.close()
    #: redis-py asks for these by itself, and another app's queue is looked into where that is allowed.
    tolerated = {"celery", "client", "client|setinfo"}
    others = {e["object"] for e in denied if e["username"] == "mistudio-worker"} - tolerated
    assert {name for name in others if not name.startswith("celery\x06")} == set()


def test_an_unknown_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fleet", "acl", "boss") == Code.USAGE
    assert capsys.readouterr().err.splitlines() == [
        "There is no role 'boss'.",
        "  Roles: admin, worker, submitter, reader",
    ]
    assert run("fleet", "acl", "submitter", "--name", "alice") == 0
    assert capsys.readouterr().out.startswith("ACL SETUSER alice reset on >PASSWORD resetchannels ~mistudio:* ")
    assert run("fleet", "acl", "--name", "alice") == Code.USAGE
    with suppress(KeyError):
        del os.environ["MISTUDIO_OWNER"]
