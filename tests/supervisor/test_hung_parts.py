"""Each part that hangs or fails costs itself alone, whatever is asked: it is named, and nothing is 0 that was not read.

A fault is made for real, and every command that reads is run under it. The clock is generous, because the machine of
the tests is busy; what is held to is that each command gave up after its patience, and says so.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mistudio_cli.errors import Code, has_fix
from tests.conftest import PATIENT, compile_library, until
from tests.fixtures.proxy import HTTP, Proxy, proxied
from tests.supervisor.conftest import EXTRA, MISTUDIO, Home, ending
from tests.supervisor.stopped_redis import StoppedRedis
from tests.supervisor.test_workers import Cli

HUNG_DISK = Path(__file__).parent / "hung_disk.c"

#: What is promised is 1.5 s from the start of its work; a busy test machine, and Python, need much more, but nothing
#: that waits for what hangs here ever ends.
SOON_S = 30.0
#: How long a part is waited for where nothing else is set.
DEFAULT_PATIENCE_S = 1.0
#: `doctor` writes, locks and syncs too; tests/cli/test_doctor_tries.py holds it to what that takes where all is well.
PATIENCE_S = {"doctor --json": 2 * SOON_S}

SERVED = ("/metrics", "/", "/api/v1/livez", "/api/v1/readyz")
COMMANDS = ("top --once --json", "queue ls --json", "jobs ls --json", "workers status --json", "doctor --json")


@dataclass
class Seen:
    """What every command printed and how it ended, and what the REST interface said of health."""

    codes: dict[str, int] = field(default_factory=dict)
    printed: dict[str, Any] = field(default_factory=dict)
    health: httpx.Response | None = None
    served: dict[str, httpx.Response] = field(default_factory=dict)

    @property
    def top(self) -> dict[str, Any]:
        return self.printed["top --once --json"]

    @property
    def workers(self) -> dict[str, Any]:
        return self.printed["workers status --json"]

    def errors(self, command: str) -> dict[str, str]:
        return {error["part"]: error["message"] for error in self.printed[command]["errors"]}

    def late(self, command: str) -> dict[str, str]:
        """Its errors, but for what processes hold: that takes longer than a second on a busy machine."""
        return {part: message for part, message in self.errors(command).items() if part != "processes"}

    def source_up(self, part: str) -> float | None:
        """What Prometheus scrapes of whether a part could be read; None where it was not read yet."""
        text = self.served["/metrics"].text
        found = re.search(rf'^mistudio_source_up{{part="{part}"}} (\S+)$', text, re.MULTILINE)
        return None if found is None else float(found[1])

    def check(self, name: str) -> dict[str, str]:
        (found,) = (check for check in self.printed["doctor --json"]["checks"] if check["name"] == name)
        return found


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    """The command line of a home with its own Redis, a supervisor, one worker, and a job that runs."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(EXTRA))
        patch.setenv("MISTUDIO_CPU_JOBS", "8")
        for home in ending(folder / "home"):
            cli = Cli(home)
            assert cli("workers start").returncode == 0
            cli.under_way(cli.nap(100_000))
            yield cli
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def proxy(cli: Cli) -> Iterator[Proxy]:
    with proxied(cli.home.places.redis_socket) as proxy:
        yield proxy


def through(proxy: Proxy) -> dict[str, str]:
    return {"CELERY_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0"}


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    until(lambda: process.status() == psutil.STATUS_STOPPED)
    try:
        yield
    finally:
        if process.is_running():
            process.send_signal(signal.SIGCONT)


@contextmanager
def serving(cli: Cli, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """The REST interface, which was well when it began."""
    server = subprocess.Popen(
        [MISTUDIO, "serve", "--port", "0"],
        env={**cli.environment, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        where = re.search(r"http://[\d.]+:\d+", line)
        assert where, line
        with httpx.Client(base_url=f"{where[0]}/api/v1/workers", trust_env=False, timeout=60) as client:
            assert client.get("/health").status_code == 200
            yield client
    finally:
        server.terminate()
        server.communicate(timeout=120)


def ask(
    cli: Cli,
    environment: dict[str, str],
    fault: Callable[[], Any],
    cause: str | None = None,
    before_each: Callable[[], None] = lambda: None,
) -> Seen:
    """Everything there is to ask, while the fault lasts; health until it names the cause, each time at once."""
    seen = Seen()
    with serving(cli, environment) as client, ExitStack() as lasting:
        lasting.enter_context(fault())
        for words in COMMANDS:
            before_each()
            began = time.monotonic()
            done = cli(words, **environment)
            assert time.monotonic() - began < PATIENCE_S.get(words, SOON_S), words
            assert "Traceback" not in done.stderr, done.stderr
            seen.codes[words], seen.printed[words] = done.returncode, json.loads(done.stdout)
        seen.health = until(lambda: answer_with(client, cause), f"the health report to name {cause}")
        for path in SERVED:
            began = time.monotonic()
            seen.served[path] = client.get(str(client.base_url.copy_with(path=path)))
            assert time.monotonic() - began < SOON_S, path
    return seen


def answer_with(client: httpx.Client, cause: str | None) -> httpx.Response | None:
    """The health report, if it has a cause of that code or none is wanted."""
    began = time.monotonic()
    answer = client.get("/health")
    assert time.monotonic() - began < SOON_S
    has_it = cause is None or any(found["code"] == cause for found in answer.json()["causes"])
    return answer if has_it else None


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def nothing() -> Iterator[None]:
    yield


def holds_where_the_ledger_is_unread(seen: Seen, sentence: str) -> None:
    """What is promised of every command when Redis cannot be read, for whatever reason."""
    for words in COMMANDS[:-1]:
        assert seen.codes[words] == Code.UNREACHABLE, words
        assert sentence in seen.errors(words)["ledger"], words
        assert seen.printed[words]["errors"][0]["age_s"] is None
    assert (seen.top["queues"], seen.top["jobs"], seen.top["hosts"], seen.top["read_at"]) == (None,) * 4
    assert seen.printed["queue ls --json"]["queues"] is None
    assert seen.printed["jobs ls --json"]["jobs"] is None
    for result in (seen.top, seen.workers):  # the supervisor knows them all the same
        parts = {error["part"] for error in result["errors"]}
        if result["workers"] is None:  # its own questions to a Redis that hangs block it now and then: it is named too
            assert parts == {"ledger", "supervisor"}
            continue
        assert [(worker["state"], worker["busy"]) for worker in result["workers"]] == [("running", None)]
        assert result["workers"][0]["pss_bytes"] != 0
        assert parts - {"processes"} == {"ledger"}, "what processes hold takes longer than a second on a busy machine"
    assert seen.top["host"]["disk_free_bytes"] > 0
    assert seen.codes["doctor --json"] == Code.FAILED
    assert seen.check("redis")["verdict"] == "failed"
    assert sentence in seen.check("redis")["detail"]
    assert seen.health is not None
    result = seen.health.json()
    assert (seen.health.status_code, result["status"]) == (503, "critical")
    assert (result["total_queued"], result["total_active"], result["workers_connected"], result["queues"]) == (
        None,
    ) * 4
    assert [error["part"] for error in result["errors"]] == ["ledger"]
    assert sentence in result["warnings"][0]
    assert [answer.status_code for answer in seen.served.values()] == [200, 200, 200, 503]
    assert seen.source_up("ledger") in (0, None)
    assert 'mistudio_queue_running{queue="processing"} 0' not in seen.served["/metrics"].text  # 1 when it was read


def holds_where_the_ledger_is_read(seen: Seen, cause: str | None = None) -> None:
    """The same when it can be: all that is in it is there; `cause` is the code of what else is wrong."""
    for words in ("queue ls --json", "jobs ls --json"):
        assert (seen.codes[words], seen.printed[words]["errors"]) == (0, []), words
    for result in (seen.top, seen.printed["queue ls --json"]):
        assert sum(queue["running"] for queue in result["queues"]) == 1
        assert [queue["consumers"] for queue in result["queues"]] == [1] * len(result["queues"])
    assert [job["state"] for job in seen.printed["jobs ls --json"]["jobs"]] == ["running"]
    assert [job["state"] for job in seen.top["jobs"]] == ["running"]
    for result in (seen.top, seen.workers):
        assert [(worker["state"], worker["busy"]) for worker in result["workers"]] == [("running", 1)]
    assert seen.health is not None
    result = seen.health.json()
    assert (seen.health.status_code, result["total_active"]) == (200, 1)
    assert [answer.status_code for answer in seen.served.values()] == [200, 200, 200, 200]
    assert seen.source_up("ledger") == 1
    assert result["status"] == ("warning" if cause else "healthy"), result
    codes = {found["code"] for found in result["causes"]}
    assert cause in codes if cause else not codes  # a supervisor that is stopped is a silent host after a while


def says_so(seen: Seen, sentence: str) -> None:
    """The health report has the cause, which is of this machine alone, with the command that shows more."""
    assert seen.health is not None
    (cause,) = (found for found in seen.health.json()["causes"] if sentence in found["sentence"])
    assert cause["command"] or has_fix(cause["sentence"])


def test_when_all_is_well_nothing_is_an_error(cli: Cli) -> None:
    seen = ask(cli, PATIENT, nothing)
    holds_where_the_ledger_is_read(seen)
    assert (seen.top["errors"], seen.workers["errors"]) == ([], [])


def test_a_redis_that_was_stopped_is_named_with_its_pid_and_the_fix(cli: Cli) -> None:
    redis = StoppedRedis(cli.home)
    server = redis.server
    seen = ask(cli, {}, lambda: redis, before_each=redis.keep_stopped)
    holds_where_the_ledger_is_unread(seen, f"(pid {server.pid}, stopped) does not answer")
    for words in COMMANDS[:-1]:
        assert seen.errors(words)["ledger"].endswith(f"(waited 1 s); kill -CONT {server.pid}"), words
    assert seen.check("redis")["mend"] == f"kill -CONT {server.pid}"


def test_a_redis_that_ended_cannot_be_read(cli: Cli, proxy: Proxy) -> None:
    @contextmanager
    def gone() -> Iterator[None]:
        proxy.close()
        until(lambda: not connects(proxy.port))
        yield

    holds_where_the_ledger_is_unread(ask(cli, through(proxy), gone), "Connection refused")


def test_what_answers_and_is_no_redis_cannot_be_read(cli: Cli, proxy: Proxy) -> None:
    @contextmanager
    def garbage() -> Iterator[None]:
        proxy.misbehave(HTTP)
        yield
        proxy.behave()

    holds_where_the_ledger_is_unread(ask(cli, through(proxy), garbage), "answers, but not as Redis does")


def test_a_redis_that_takes_connections_and_says_nothing_does_not_answer(cli: Cli, proxy: Proxy) -> None:
    @contextmanager
    def silence() -> Iterator[None]:
        proxy.delay_s = 600.0
        yield
        proxy.delay_s = 0.0
        proxy.cut()

    holds_where_the_ledger_is_unread(ask(cli, through(proxy), silence), "does not answer (waited 1 s)")


def test_a_link_of_two_hundred_milliseconds_is_slow_and_not_hung(cli: Cli, proxy: Proxy) -> None:
    @contextmanager
    def slow() -> Iterator[None]:
        proxy.delay_s = delay_s
        yield
        proxy.delay_s = 0.0

    delay_s = 0.2
    seen = ask(cli, {**through(proxy), **PATIENT}, slow)
    holds_where_the_ledger_is_read(seen)
    assert (seen.top["errors"], seen.workers["errors"]) == ([], [])
    for words in COMMANDS[:-1]:
        proxy.most_replies = 0
        assert cli(words, **through(proxy), **PATIENT).returncode == 0
        assert 0 < proxy.most_replies * delay_s < DEFAULT_PATIENCE_S, words


def test_a_supervisor_that_was_stopped_hides_neither_queues_nor_workers(cli: Cli) -> None:
    supervisor = cli.home.supervisor
    seen = ask(cli, {}, lambda: stopped(supervisor), "part_unread")
    holds_where_the_ledger_is_read(seen, "part_unread")
    says_so(seen, f"supervisor: the supervisor of {cli.home.places.home} (pid {supervisor.pid}, stopped)")
    for words, code in (("top --once --json", 0), ("workers status --json", Code.UNREACHABLE)):
        assert seen.codes[words] == code
        message = f"(pid {supervisor.pid}, stopped) does not answer; kill -CONT {supervisor.pid}"
        assert {part: message in result for part, result in seen.late(words).items()} == {"supervisor": True}
    assert seen.workers["supervisor"] is None
    assert f"(pid {supervisor.pid}, stopped)" in seen.check("supervisor")["detail"]
    assert seen.check("supervisor")["mend"] == f"kill -CONT {supervisor.pid}"


def test_a_supervisor_that_was_stopped_is_named_however_many_commands_wait_for_it(cli: Cli) -> None:
    supervisor = cli.home.supervisor
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(70)]
    with stopped(supervisor), ExitStack() as closing:
        for link in waiting:
            closing.enter_context(link)
            link.setblocking(False)
            with suppress(BlockingIOError):
                link.connect(str(cli.home.places.supervisor_socket))
        for words in ("workers stop", "workers stop --all", "workers restart"):
            done = cli(words)
            assert done.returncode == Code.TIMED_OUT
            assert f"(pid {supervisor.pid}, stopped) does not answer.\n  kill -CONT {supervisor.pid}" in done.stderr


@pytest.mark.parametrize(("fault", "sentence"), [("999", "Unknown Error"), ("666", "does not answer")])
def test_a_gpu_driver_that_fails_or_hangs_costs_the_devices_alone(
    cli: Cli, driver: Path, fault: str, sentence: str
) -> None:
    patience = {} if sentence == "does not answer" else PATIENT
    seen = ask(cli, {"LD_LIBRARY_PATH": str(driver), "FAKE_Init": fault, **patience}, nothing)
    holds_where_the_ledger_is_read(seen, "gpu")
    says_so(seen, sentence)
    assert {part: sentence in result for part, result in seen.late("top --once --json").items()} == {"devices": True}
    assert (seen.codes["top --once --json"], seen.top["devices"]) == (0, None)
    assert (seen.check("gpu")["verdict"], sentence in seen.check("gpu")["detail"]) == ("failed", True)


def test_a_disk_that_hangs_costs_its_own_numbers_alone(cli: Cli, tmp_path: Path) -> None:
    library = compile_library(HUNG_DISK, tmp_path / "hung_disk.so", "-ldl")
    store = cli.home.places.store
    seen = ask(cli, {"LD_PRELOAD": str(library), "HUNG_DISK": str(cli.home.places.home)}, nothing)
    holds_where_the_ledger_is_read(seen, "part_unread")
    says_so(seen, f"the disk of {store} does not answer")
    late = seen.late("top --once --json")
    assert {part: f"the disk of {store} does not answer" in result for part, result in late.items()} == {"disk": True}
    host = seen.top["host"]
    assert (host["disk_free_bytes"], host["disk_total_bytes"], host["cpus"] > 0) == (None, None, True)
    assert seen.check("disk")["verdict"] == "failed"


def test_a_worker_that_was_stopped_is_silent_with_its_age_and_hides_nothing(cli: Cli) -> None:
    """Last: its supervisor replaces one that stays like this."""
    home: Home = cli.home
    worker = psutil.Process(home.worker()["pid"])

    @contextmanager
    def silent() -> Iterator[None]:
        with stopped(worker):
            until(lambda: cli_state(cli) in ("silent", "hung"), "the heartbeat to be too old")
            yield

    seen = ask(cli, {}, silent)
    for result in (seen.top, seen.workers):
        (row,) = [row for row in result["workers"] if row["pid"] == worker.pid]
        assert row["state"] in ("silent", "hung")
        assert (row["busy"], row["seen_age_s"] > 10) == (1, True)
    assert (seen.codes["top --once --json"], seen.codes["workers status --json"]) == (0, 0)
    queues = seen.printed["queue ls --json"]["queues"]
    assert {queue["consumers"] for queue in queues} == {0}
    assert sum(queue["running"] for queue in queues) == 1
    assert seen.health is not None
    assert (seen.health.status_code, seen.health.json()["total_active"]) == (200, 1)


def cli_state(cli: Cli) -> str:
    return cli.read_json("workers status --json")["workers"][0]["state"]
