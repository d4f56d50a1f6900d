"""The master is found through Sentinels, and a replica is never read: by the ledger, by Celery, by commands."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from mistudio_cli.error_messages import explain
from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger import client as ledgers
from tasks.ledger.client import Ledger
from tasks.messaging.app import make_app
from tasks.redis_client import redis_connection, sentinel
from tasks.redis_client.redis_url import Address
from tasks.redis_client.sentinel_url import Sentinels
from tests.cli.conftest import EXTRA, MISTUDIO
from tests.conftest import PATIENCE_S, patient_client, until
from tests.fixtures.ports import reserved_port
from tests.fixtures.sentinel import NAME, Replicated, Server, replicated

PASSWORD = "s3cret/word"


@pytest.fixture(scope="module")
def servers() -> Iterator[Replicated]:
    with replicated(PASSWORD, down_after_ms=60_000) as servers:  # nothing here is to be found down
        yield servers


def client_of(url: str, timeout_s: float = 5.0) -> Any:
    return closing(redis_connection.connect(url, timeout_s))


def typed(words: str, url: str, home: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "CELERY_"))}
    environment = {**kept, "MISTUDIO_HOME": str(home), "CELERY_BROKER_URL": url, "PYTHONPATH": str(EXTRA)}
    done = subprocess.run(
        [MISTUDIO, *words.split()], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert PASSWORD not in done.stdout + done.stderr
    return done


def blink() -> Job:
    return Job(new_job_id(), "blink", "b", "high_priority", {"note": ""})


# -- a replica ----------------------------------------------------------------------------------------------------


def test_a_replica_is_refused_by_the_ledger_and_by_celery(servers: Replicated) -> None:
    (replica, _), master = servers.replicas, servers.master
    url = servers.url_of(replica)
    sentence = f"127.0.0.1:{replica.port}/0 is a replica of 127.0.0.1:{master.port}: it takes no writes"
    with client_of(url) as client, pytest.raises(redis_connection.Replica, match=sentence):
        client.call("GET", "anything")
    app = make_app(url)
    with app.connection_for_read() as connection, pytest.raises(OperationalError, match=sentence):
        connection.ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=True)
    with pytest.raises(redis.ConnectionError, match=sentence):
        app.backend.client.get("anything")
    app.close()


def test_a_command_on_a_replica_says_so_and_prints_nothing(servers: Replicated, tmp_path: Path) -> None:
    done = typed("queue ls", servers.url_of(servers.replicas[0]), tmp_path)
    assert (done.returncode, done.stdout) == (Code.UNREACHABLE, "")
    first, second = done.stderr.splitlines()
    assert " is a replica of " in first
    assert second.strip().startswith("Name the master in the Redis URL")


def test_a_sentinel_is_no_redis(servers: Replicated) -> None:
    with (
        client_of(servers.url_of(servers.sentinels[0])) as client,
        pytest.raises(redis_connection.Unreachable, match="is a Sentinel"),
    ):
        client.call("GET", "anything")


def test_a_user_who_may_not_ask_for_the_role_is_let_through(servers: Replicated) -> None:
    servers.master.says("ACL", "SETUSER", "clerk", "on", ">pw", "~*", "&*", "+@all", "-role")
    url = f"redis://clerk:pw@127.0.0.1:{servers.master.port}/0"
    with client_of(url) as client:
        assert client.call("ECHO", "x") == "x"
    app = make_app(url)
    with app.connection_for_read() as connection:
        assert connection.ensure_connection(max_retries=1).connected
    assert app.backend.client.ping()
    app.close()


@contextmanager
def made_a_replica(server: Server, of: Server) -> Iterator[None]:
    """By hand, which leaves its clients connected."""
    server.says("REPLICAOF", "127.0.0.1", of.port)
    try:
        yield
    finally:
        server.says("REPLICAOF", "NO", "ONE")


@pytest.fixture(scope="module")
def alone(servers: Replicated) -> Iterator[Server]:
    """A master that no Sentinel watches."""
    with reserved_port() as port:
        server = Server(servers.servers[0].folder.parent / "alone", port, PASSWORD)
        server.write(f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", 'save ""')
        server.start()
        yield server
        server.kill()


def test_a_master_that_becomes_a_replica_under_an_open_connection_is_not_read_on(
    servers: Replicated, alone: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(servers.url_of(alone)) as reader, client_of(servers.url_of(alone)) as writer:
        monkeypatch.setattr(redis_connection, "_ROLE_EVERY_S", 3600.0)
        reader.call("SET", "kept", "1")
        writer.call("SET", "kept", "1")
        with made_a_replica(alone, servers.master):
            assert reader.call("PING") == "PONG", "asked for its role a moment ago"
            monkeypatch.setattr(redis_connection, "_ROLE_EVERY_S", 0.0)
            with pytest.raises(redis_connection.Replica):
                reader.call("GET", "kept")
            monkeypatch.setattr(redis_connection, "_ROLE_EVERY_S", 3600.0)
            with pytest.raises(redis_connection.Unable, match="READONLY"):
                writer.call("SET", "kept", "2")
            with pytest.raises(redis_connection.Replica):  # it has connected again, and asked
                writer.call("GET", "kept")


def test_silent_sentinels_hold_up_no_command_while_the_master_serves(
    servers: Replicated, alone: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = list[float]()

    def ask(address: Address, command: tuple[Any, ...], timeout_s: float) -> Any:
        requested.append(timeout_s)
        raise redis_connection.Silent("no answer")

    monkeypatch.setattr(redis_connection, "_ROLE_EVERY_S_WITH_SENTINELS", 0.0)
    with client_of(servers.url) as client:
        with monkeypatch.context() as at_first:
            at_first.setattr(
                redis_connection, "find_master", lambda address, _: address.server("127.0.0.1", alone.port)
            )
            client.call("PING")
        monkeypatch.setattr(redis_connection, "ask_once", ask)
        assert client.call("PING") == "PONG"
        once = len(requested)
        assert once > 0
        assert max(requested) <= 0.5, "seconds that a command waits"
        role_asked_at = client._role_asked_at
        for _ in range(3):
            assert client.call("PING") == "PONG"
        assert client._role_asked_at > role_asked_at
        assert len(requested) == once, "not again within some seconds"
        monkeypatch.setattr(redis_connection, "ask_once", lambda *_: ["127.0.0.1", "1"])
        client._ask_sentinels_from = 0.0
        with pytest.raises(redis_connection.Unable, match="no longer the master"):
            client.call("PING")


def test_results_are_not_written_to_a_master_that_became_a_replica(servers: Replicated, alone: Server) -> None:
    app = make_app(servers.url_of(alone))
    client = app.backend.client
    assert client.set("kept", "1")
    with (
        made_a_replica(alone, servers.master),
        pytest.raises(redis.ConnectionError, match=r"become a replica|is a replica"),
    ):
        client.set("kept", "2")
    app.close()


# -- Sentinels ----------------------------------------------------------------------------------------------------


def test_ledger_broker_and_results_find_the_master(servers: Replicated) -> None:
    port = servers.master.port
    with client_of(servers.url) as client:
        client.call("SET", "found", "1")
        assert client._server.port == port
    app = make_app(servers.url)
    with app.connection_for_read() as connection, connection.channel() as channel:
        for each in (channel.client, app.backend.client):
            assert each.get("found") == b"1"
            assert each.execute_command("ROLE")[0] == b"master"
        channel.subclient.subscribe("anything")
        assert channel.subclient.connection.port == port
        shown = json.dumps([connection.info(), connection.as_uri(), app.backend.as_uri(), app.conf.broker_url])
    assert PASSWORD not in shown
    assert "s3cret" not in shown
    app.close()


def test_celery_means_the_same_by_the_url_in_its_own_variable(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, servers.url)
    app = make_app(servers.url, servers.url)
    with app.connection_for_write() as connection:
        assert connection.ensure_connection(max_retries=1).connected
    assert app.backend.client.ping()
    app.close()


def test_a_sentinel_that_is_gone_or_silent_is_passed_over_and_the_one_that_answered_is_asked_first(
    servers: Replicated,
) -> None:
    address = redis_connection.parse_url(servers.url)
    gone = ("127.0.0.1", 1)
    first, silent, *_ = address.sentinels.hosts
    few = Sentinels((gone, silent, first), NAME, None, PASSWORD)
    stopped = servers.sentinels[1]
    stopped.signal(signal.SIGSTOP)
    try:
        with closing(redis_connection.Client(dataclasses.replace(address, sentinels=few))) as client:
            assert client.call("PING") == "PONG"
    finally:
        stopped.signal(signal.SIGCONT)
    assert sentinel._first[few] == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url, _: url.replace(NAME, "other"), "know no master named other."),
        (lambda url, hosts: url.replace(hosts, "127.0.0.1:1,127.0.0.1:2"), "127.0.0.1:1 (Connection refused)"),
        (lambda url, _: url.replace("sentinel_password=", "sentinel_password=x"), "refused the login: WRONGPASS"),
        (lambda url, _: url.partition("?")[0], "(NOAUTH Authentication required)"),
    ],
)
def test_without_an_answer_there_is_one_sentence_and_the_exit_code_of_an_unreachable_redis(
    servers: Replicated, change: Any, sentence: str
) -> None:
    with client_of(change(servers.url, servers.hosts)) as client, pytest.raises(redis_connection.NoMaster) as failed:
        client.call("PING")
    explained = explain(failed.value)
    assert explained.code == Code.UNREACHABLE
    assert explained.sentence.startswith("Redis cannot be reached: ")
    assert sentence in explained.sentence
    assert "the master's name in the Redis URL" in explained.hint
    assert "s3cret" not in explained.sentence


def test_a_replica_that_sentinels_name_is_refused_too(servers: Replicated) -> None:
    """As one that has just been restarted may do."""
    replica = servers.replicas[0]
    for each in servers.sentinels:
        each.says("SENTINEL", "MONITOR", "wrong", "127.0.0.1", replica.port, 9)
        each.says("SENTINEL", "SET", "wrong", "auth-pass", PASSWORD)
    try:
        with (
            client_of(servers.url.replace(NAME, "wrong")) as client,
            pytest.raises(redis_connection.Replica, match=str(replica.port)),
        ):
            client.call("GET", "anything")
    finally:
        for each in servers.sentinels:
            each.says("SENTINEL", "REMOVE", "wrong")


# -- an accepted job is one that a replica has ----------------------------------------------------------------------


@pytest.fixture
def ledger(servers: Replicated) -> Iterator[Ledger]:
    with closing(Ledger(patient_client(servers.url))) as ledger:
        yield ledger


@pytest.fixture
def no_replicas(servers: Replicated, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both replicas hang."""
    monkeypatch.setattr(ledgers, "REPLICATED_WITHIN_S", 0.05)
    stopped = servers.replicas
    for replica in stopped:
        replica.signal(signal.SIGSTOP)
    yield
    for replica in stopped:
        replica.signal(signal.SIGCONT)


def test_a_submit_knows_whether_a_replica_has_acknowledged_it(
    ledger: Ledger, servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "REPLICATED_WITHIN_S", PATIENCE_S / 2)
    assert ledger.replicated is None
    job = ledger.submit(blink())
    assert ledger.replicated is True
    found = [replica.says("EXISTS", f"mistudio:job:{job.id}") for replica in servers.replicas]
    assert 1 in found, "without waiting"


def test_what_no_replica_has_acknowledged_is_accepted_by_the_master_alone(ledger: Ledger, no_replicas: None) -> None:
    (one, other) = blink(), blink()
    assert ledger.try_submit_many([[one], [other]]) == [None, None]
    assert ledger.replicated is False
    assert ledger.which_exist([one.id, other.id]) == {one.id, other.id}


def test_replicas_are_asked_by_the_url(servers: Replicated, no_replicas: None) -> None:
    with closing(Ledger(redis_connection.connect(f"{servers.url}&replicas=0"))) as ledger:
        ledger.submit(blink())
        assert ledger.replicated is None


def test_each_command_that_submits_says_what_no_replica_has(
    ledger: Ledger, servers: Replicated, no_replicas: None, tmp_path: Path
) -> None:
    done = typed("submit blink --json", servers.url, tmp_path)
    receipt = json.loads(done.stdout)
    assert (done.returncode, receipt["replicated"]) == (Code.OK, False)
    assert done.stderr.startswith(f"Warning: job {receipt['id']} was accepted by the master alone: ")
    ledger.request_cancel(receipt["id"])
    done = typed(f"jobs retry {receipt['id']} --json", servers.url, tmp_path)
    assert (done.returncode, json.loads(done.stdout)["replicated"]) == (Code.OK, False)
    assert " was accepted by the master alone: " in done.stderr
    (tmp_path / "many").write_text('{"kind": "blink"}\n{"kind": "blink", "note": "2"}\n')
    done = typed(f"submit many {tmp_path / 'many'} --json", servers.url, tmp_path)
    receipts = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [each["replicated"] for each in receipts]) == (Code.OK, [False, False])
    assert f"Warning: 2 jobs, {receipts[0]['id']} to {receipts[1]['id']}, were accepted" in done.stderr


# -- last, since it changes the master --------------------------------------------------------------------------------


def test_an_open_connection_leaves_a_master_that_was_replaced_and_still_serves(servers: Replicated) -> None:
    """A failover by hand: the old master serves until the Sentinels have it follow the new one, which they may not."""
    servers.await_whole()
    old = servers.master
    old.says("ACL", "SETUSER", "default", "-slaveof", "-replicaof")
    with client_of(servers.url) as client:
        client.call("SET", "kept", "1")
        servers.sentinels[0].says("SENTINEL", "FAILOVER", NAME)
        seen = set()

        def leads_to_another() -> bool:
            try:
                client.call("GET", "kept")
            except redis_connection.Unreachable as error:
                seen.add(str(error))
                return False
            return client._server.port not in (old.port, client.address.port)

        until(leads_to_another, "the connection to follow")
        assert client.call("GET", "kept") == "1"
    assert [error for error in seen if error.endswith("is no longer the master")]
