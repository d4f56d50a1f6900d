"""`jobs logs` answers on every host: two with a worker each and a third with none, on one Redis and one store."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.logs.log_tails import TAIL_BYTES
from tasks.storage.log_archive import archive, archived_attempts
from tests.cli.conftest import Cli, Ended
from tests.conftest import PATIENCE_S, RedisServer, deadline, until
from tests.fixtures.stack import (
    Stack,
    kinds_of_the_tests,  # noqa: F401 - a fixture
)


@dataclass(frozen=True)
class Desk(Cli):
    """The command line of a host that runs no worker."""

    store: Path

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"MISTUDIO_STORE": str(self.store)}


class Host(Stack):
    """A host with a worker of its own name, and the shared store."""

    def __init__(self, redis: RedisServer, folder: Path, store: Path) -> None:
        folder.mkdir()
        super().__init__(redis, folder)
        self.shared = store

    def start(self) -> None:
        name = self.folder.name
        log = self.folder / "home" / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.start_worker("--name", name, MISTUDIO_STORE=str(self.shared), MISTUDIO_LOG=str(log))

    def desk(self) -> Desk:
        return Desk(self.folder / "home", self.redis.url, self.ledger, self.shared)

    def file(self, job: Job) -> Path:
        return self.folder / "home" / "logs" / "jobs" / f"{job.id}.log"


@dataclass(frozen=True)
class Machines:
    """Two hosts with workers, and a desk elsewhere."""

    a: Host
    b: Host
    desk: Desk

    def hike(self) -> Job:
        """A job that runs until `arrive`."""
        return self.a.submit("hike", ticks=100_000, until=str(self.desk.home / "arrived"))

    def arrive(self, job: Job) -> None:
        """The second attempt at a hike ends it."""
        until(lambda: self.a.ledger.need(job.id).attempt == 2, self.b.log())
        (self.desk.home / "arrived").touch()

    def on_both(self) -> Job:
        """A job whose first attempt ran on one host, and whose second on the other."""
        self.a.start()
        job = self.hike()
        self.a.under_way(job)
        self.a.stop_worker(signal.SIGQUIT)
        assert self.a.ledger.need(job.id).state is State.QUEUED
        self.b.start()
        self.arrive(job)
        return self.b.ended(job)

    def archived(self, job: Job, *attempts: int) -> None:
        until(lambda: archived_attempts(self.desk.store, job.id) == list(attempts), self.b.log())


@pytest.fixture
def machines(own_redis: RedisServer, short_tmp: Path, kinds_of_the_tests: None) -> Iterator[Machines]:  # noqa: F811
    store = short_tmp / "store"
    a, b = Host(own_redis, short_tmp / "a", store), Host(own_redis, short_tmp / "b", store)
    (short_tmp / "desk").mkdir()
    yield Machines(a, b, Desk(short_tmp / "desk", own_redis.url, a.ledger, store))
    for host in (a, b):
        host.stop_worker(signal.SIGQUIT)
        host.ledger.close()
        host.app.close()


def logs(desk: Desk, job: Job, *words: str) -> Ended:
    return desk("jobs", "logs", job.id, *words)


def test_a_running_job_elsewhere(machines: Machines, short_tmp: Path) -> None:
    machines.a.start()
    go = short_tmp / "go"
    job = machines.a.submit("chatter", hostile=True, until=str(go))
    until(lambda: "has printed" in logs(machines.desk, job).out, machines.a.log())
    shown = logs(machines.desk, job)
    assert (shown.code, shown.err) == (Code.OK, "")
    assert "chatter chatter: attempt 1 of at most" in shown.out
    assert logs(machines.desk, job, "--json", "-n", "1").json["message"] == "has printed"
    assert logs(machines.a.desk(), job).out.splitlines()[-1].endswith("has printed"), "where it runs"
    go.touch()


def test_of_a_long_log_of_a_running_job_the_end_is_shown_and_the_rest_is_said_to_be_missing(
    machines: Machines, short_tmp: Path
) -> None:
    machines.a.start()
    go = short_tmp / "go"
    job = machines.a.submit("chatter", megabytes=10, until=str(go))
    until(lambda: "has printed" in logs(machines.desk, job, "-n", "1").out, machines.a.log())
    shown = logs(machines.desk, job, "-n", "100000")
    (said,) = shown.err.splitlines()
    assert said == f"Of the log of attempt 1 only the last 64 KB are here; the whole is on {socket.gethostname()}."
    assert len(shown.out) <= 2 * TAIL_BYTES
    assert machines.a.file(job).read_text().endswith(shown.out)
    go.touch()
    machines.a.ended(job)
    machines.archived(job, 1)
    whole = logs(machines.desk, job, "-n", "1000000")
    assert (whole.out, whole.err) == (machines.a.file(job).read_text(), "")


def test_an_ended_job_elsewhere(machines: Machines) -> None:
    machines.a.start()
    job = machines.a.ended(machines.a.submit("nap", ticks=1, end="raise"))
    machines.archived(job, 1)
    shown = logs(machines.desk, job)
    assert (shown.code, shown.out, shown.err) == (Code.OK, machines.a.file(job).read_text(), "")
    last = logs(machines.desk, job, "-n", "1")
    assert last.out == shown.out.splitlines(keepends=True)[-1]
    assert last.err == f"The last 1 lines of {machines.desk.store}/.logs/{job.id}/1.log.gz\n"
    followed = logs(machines.desk, job, "-f")
    assert (followed.out, followed.err) == (shown.out, f"{job.id} failed: ValueError: asked to raise\n")


def test_two_attempts_on_two_hosts_are_one_log_wherever_it_is_typed(machines: Machines) -> None:
    job = machines.on_both()
    machines.archived(job, 1, 2)
    first, second = (host.file(job).read_text() for host in (machines.a, machines.b))
    for desk in (machines.desk, machines.a.desk(), machines.b.desk()):
        assert [logs(desk, job, *words).out for words in ((), ("--attempt", "1"), ("--attempt", "2"))] == [
            first + second,
            first,
            second,
        ]
        never = logs(desk, job, "--attempt", "3")
        assert never.code == Code.NOT_FOUND
        assert never.err.startswith(f"Job {job.id} has had no attempt 3; attempts: 2.")
        attempts = [json.loads(line)["attempt"] for line in logs(desk, job, "--json").out.splitlines()]
        assert attempts == sorted(attempts)


@pytest.mark.parametrize("where", ["desk", "a", "b"])
def test_following_crosses_attempts_and_hosts_and_ends_with_the_job(machines: Machines, where: str) -> None:
    machines.a.start()
    desk = {"desk": machines.desk, "a": machines.a.desk(), "b": machines.b.desk()}[where]
    job = machines.hike()
    following = desk.start("jobs", "logs", "-f", job.id)
    machines.a.under_way(job)
    machines.a.stop_worker(signal.SIGQUIT)
    machines.b.start()
    machines.arrive(job)
    machines.b.ended(job)
    with deadline(PATIENCE_S, "jobs logs -f"):
        out, err = following.communicate()
    assert following.returncode == Code.OK
    assert out == machines.a.file(job).read_text() + machines.b.file(job).read_text()
    assert err.splitlines()[-1] == f"{job.id} succeeded"


def test_of_a_host_that_died_the_tail_is_left_and_following_passes_to_the_next(machines: Machines) -> None:
    machines.a.start()
    job = machines.hike()
    machines.a.under_way(job)
    following = machines.desk.start("jobs", "logs", "-f", job.id)
    begun = until(lambda: "starts from scratch" in (out := logs(machines.desk, job).out) and out)
    machines.a.stop_worker(signal.SIGKILL)
    machines.b.start()
    machines.arrive(job)
    machines.b.ended(job)
    machines.archived(job, 2)
    with deadline(PATIENCE_S, "jobs logs -f"):
        out, _ = following.communicate()
    assert out == f"{begun}{machines.b.file(job).read_text()}"
    assert logs(machines.desk, job).out == out


def test_following_one_attempt_ends_with_it(machines: Machines) -> None:
    machines.a.start()
    job = machines.hike()
    machines.a.under_way(job)
    following = machines.desk.start("jobs", "logs", "-f", "--attempt", "1", job.id)
    machines.a.stop_worker(signal.SIGQUIT)
    with deadline(PATIENCE_S, "jobs logs -f"):
        out, _ = following.communicate()
    assert out == machines.a.file(job).read_text()


def test_following_outlives_redis(machines: Machines, own_redis: RedisServer, short_tmp: Path) -> None:
    machines.a.start()
    go = short_tmp / "go"
    job = machines.a.submit("chatter", until=str(go))
    until(lambda: "has printed" in logs(machines.desk, job).out, machines.a.log())
    following = machines.desk.start("jobs", "logs", "-f", job.id)
    assert following.stdout is not None
    assert following.stderr is not None
    first = following.stdout.readline()
    own_redis.kill()
    own_redis.start()
    go.touch()
    machines.a.ended(job)
    with deadline(PATIENCE_S, "jobs logs -f"):
        out, err = following.stdout.read(), following.stderr.read()
        assert following.wait() == Code.OK
    following.stdout.close()
    following.stderr.close()
    assert first + out == machines.a.file(job).read_text()
    assert err.splitlines()[-1] == f"{job.id} succeeded"


def test_an_attempt_whose_log_is_nowhere_is_said_to_be_missing(machines: Machines) -> None:
    job = machines.on_both()
    machines.archived(job, 1, 2)
    (machines.desk.store / ".logs" / job.id / "1.log.gz").unlink()
    machines.a.ledger.client.call("DEL", f"mistudio:log:{job.id}:1")
    shown = logs(machines.desk, job)
    assert shown.out == machines.b.file(job).read_text()
    (said,) = shown.err.splitlines()
    assert said.startswith("Of attempt 1 on ")
    assert said.endswith(" there is no log here, in the store or in Redis.")


def test_the_log_of_a_job_without_a_record_is_shown_until_it_is_removed(cli: Cli) -> None:
    job_id = new_job_id()
    archive(cli.home / "store", job_id, 2, [b"a line\n"])
    shown = cli("jobs", "logs", job_id)
    assert (shown.code, shown.out) == (Code.OK, "a line\n")
    assert shown.err == f"Job {job_id} has no record any more; this is left of its log.\n"
    assert cli("jobs", "logs", job_id, "--attempt", "3").code == Code.NOT_FOUND
    for never in (new_job_id(), "last", "..", "nothing"):
        assert cli("jobs", "logs", never).code == Code.NOT_FOUND


def test_removing_a_job_removes_its_logs_from_the_store_and_from_redis(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    claim = cli.ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    cli.ledger.finish(claim, State.SUCCEEDED, "done")
    archive(cli.home / "store", job.id, 1, [b"a line\n"])
    cli.ledger.client.call("SET", f"mistudio:log:{job.id}:1", "x")
    assert cli("jobs", "rm", job.id, "--yes").code == Code.OK
    assert archived_attempts(cli.home / "store", job.id) == []
    assert cli.ledger.client.call("EXISTS", f"mistudio:log:{job.id}:1") == 0
    assert cli("jobs", "logs", job.id).code == Code.NOT_FOUND


def test_an_attempt_that_never_was_and_a_bad_number_are_refused(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    assert cli("jobs", "logs", job.id, "--attempt", "1").code == Code.NOT_FOUND
    assert cli("jobs", "logs", job.id, "--attempt", "0").code == Code.USAGE
    assert cli("jobs", "logs", job.id, "--attempt", "x").code == Code.USAGE
