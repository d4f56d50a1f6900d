"""The command lines of the containers and units, taken out of the files and run for real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tasks.kinds
from mistudio_cli.redis import redis_server
from tasks.jobs import kind as jobs
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.paths import Places
from tasks.queues import QUEUES
from tasks.redis_client import redis_connection
from tasks.storage.store import Store
from tasks.submission.plan import submit
from tests.conftest import PATIENCE_S, RedisServer, find_redis_server, until
from tests.deploy.conftest import compose, of_kind, pod, text
from tests.fixtures.ports import reserved_port

EXTRA = Path(__file__).parent.parent / "extra"
BIN = Path(sys.executable).parent

WORKER_CHECK = pod(of_kind("Deployment")["worker-training"])["containers"][0]["livenessProbe"]["exec"]["command"]


@pytest.fixture(autouse=True)
def _kinds_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tasks.kinds, "__path__", [*tasks.kinds.__path__, str(EXTRA / "kinds")])
    jobs.kinds.cache_clear()
    yield
    jobs.kinds.cache_clear()


class Container:
    """A process where a container would be: a home of its own, nothing of the developer's environment."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir()
        self.home = folder / "home"
        self._log = folder / "log"
        self._environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "MISTUDIO_HOME": str(self.home),
            "PYTHONPATH": str(EXTRA),
            **environment,
        }
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str]) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def run(self, command: list[str]) -> tuple[int, str]:
        """A command beside it, as a health check or `exec` runs one: its exit code and what it printed."""
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    def well(self, check: list[str]) -> None:
        """Wait until the health check passes."""
        until(lambda: self.run(check)[0] == 0 or self.has_ended, "the health check to pass")
        assert not self.has_ended, self.log()

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self) -> int:
        """As the container's engine does: TERM to the main process, and wait."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if not self.has_ended:
            self.stop()

    def log(self) -> str:
        return self._log.read_text()[-3000:]


@contextmanager
def containers(made: dict[str, Container]) -> Iterator[dict[str, Container]]:
    try:
        yield made
    finally:
        for container in made.values():
            container.end()


@pytest.fixture
def ledger(own_redis: RedisServer) -> Iterator[Ledger]:
    """The ledger as the containers see it."""
    client = redis_connection.connect(own_redis.url)
    yield Ledger(client)
    client.close()


def test_compose_and_kubernetes_run_the_same_commands() -> None:
    for queue in QUEUES:
        (container,) = pod(of_kind("Deployment")[queue.worker])["containers"]
        assert container["args"] == compose("workers")["services"][queue.worker]["command"]


def test_a_worker_s_container_answers_works_and_ends_well(
    own_redis: RedisServer, ledger: Ledger, short_tmp: Path
) -> None:
    store = short_tmp / "store"
    command = compose("workers")["services"]["worker-high-priority"]["command"]
    worker = Container(short_tmp / "c", CELERY_BROKER_URL=own_redis.url, MISTUDIO_STORE=str(store))
    assert worker.run(WORKER_CHECK) == (1, "No supervisor answers.\n")
    with containers({"worker": worker}):
        worker.start(command)
        worker.well(WORKER_CHECK)
        (heartbeat,) = ledger.workers()
        name = f"worker-high-priority@{socket.gethostname()}"
        assert (heartbeat.name, heartbeat.queues, heartbeat.slots) == (name, ("high_priority",), 8)
        job = submit(ledger, Store(store), "blink", {"note": "hello"})[-1]
        until(lambda: ledger.need(job.id).state.ended, worker.log())
        assert (ledger.need(job.id).state, ledger.need(job.id).result) == (State.SUCCEEDED, {"note": "hello"})
        assert worker.stop() == 0, worker.log()
    assert ledger.workers() == []


def test_all_six_come_up_side_by_side_and_end_well(own_redis: RedisServer, ledger: Ledger, short_tmp: Path) -> None:
    environment = {"CELERY_BROKER_URL": own_redis.url, "MISTUDIO_STORE": str(short_tmp / "store")}
    services = compose("workers")["services"]
    with containers({name: Container(short_tmp / name, **environment) for name in services}) as made:
        for name, container in made.items():
            container.start(services[name]["command"])
        for container in made.values():
            container.well(WORKER_CHECK)
        host = socket.gethostname()
        wanted = {(f"{queue.worker}@{host}", (queue.name,), queue.concurrency) for queue in QUEUES}
        assert {(heartbeat.name, heartbeat.queues, heartbeat.slots) for heartbeat in ledger.workers()} == wanted
        for container in made.values():
            container.process.send_signal(signal.SIGTERM)
        assert {name: container.process.wait(PATIENCE_S) for name, container in made.items()} == dict.fromkeys(
            services, 0
        )


def test_a_unit_s_fleet_comes_back_and_does_what_was_submitted_meanwhile(short_tmp: Path) -> None:
    """ExecStart, a stop, a submit that brings up a Redis and its keeper, and ExecStart again: its job runs."""
    unit = text("systemd/system/mistudio@.service")
    before, start = (
        re.findall(rf"(?m)^{name}=-?([^+\n]*)$", unit)[0].split() for name in ("ExecStartPre", "ExecStart")
    )
    service = Container(short_tmp / "c")
    places, submitted = Places(service.home, service.home / "store"), ""
    with containers({"unit": service}):
        for _ in range(2):
            assert service.run(before)[0] == 0
            service.start(start)
            service.well(WORKER_CHECK)
            if submitted:
                assert service.run(["mistudio", "jobs", "wait", submitted, "--timeout", "100"])[0] == 0
            assert service.stop() == 0, service.log()
            assert redis_server.running(places) is None
            code, result = service.run(["mistudio", "submit", "blink"])
            assert code == 0, result
            submitted = result.split()[0]
        assert service.run(before)[0] == 0
        assert redis_server.running(places) is None


def test_a_training_in_a_container_that_is_asked_to_stop_is_put_back_with_its_checkpoint(
    own_redis: RedisServer, ledger: Ledger, short_tmp: Path
) -> None:
    store = short_tmp / "store"
    command = compose("workers")["services"]["worker-training"]["command"]
    assert command[-2] == "--grace"
    worker = Container(short_tmp / "c", CELERY_BROKER_URL=own_redis.url, MISTUDIO_STORE=str(store))
    with containers({"worker": worker}):
        worker.start([*command[:-1], "1"])  # seconds of grace: no test has thirty
        worker.well(WORKER_CHECK)
        job = submit(ledger, Store(store), "nap", {"ticks": 100_000})[-1]
        until(lambda: (result := ledger.need(job.id).progress) and result.done > 3, worker.log())
        assert worker.stop() == 0, worker.log()
    assert ledger.need(job.id).state == State.QUEUED
    assert ledger.client.call("HGET", f"mistudio:job:{job.id}", "losses") in (None, "0"), "a stop is no loss"
    assert any((store / ".tmp" / job.id).rglob("*")), "its work folder, with the checkpoint, is kept"


@pytest.fixture
def port() -> Iterator[str]:
    with reserved_port() as port:
        yield str(port)


@contextmanager
def api(short_tmp: Path, broker: str, command: list[str], port: str, **environment: str) -> Iterator[Container]:
    """The REST interface's container, listening on that port instead of 8000."""
    container = Container(short_tmp / "c", CELERY_BROKER_URL=broker, **environment)
    with containers({"api": container}):
        container.start([port if word == "8000" else word for word in command])
        until(lambda: "Listening on" in container.log() or container.has_ended, container.log())
        yield container
        assert container.stop() == 0, container.log()


def get(port: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://localhost:{port}/api/v1/workers/queues", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def health_check(port: str) -> list[str]:
    kind, *command = compose("dev")["services"]["api"]["healthcheck"]["test"]
    assert kind == "CMD"
    return [port if word == "8000" else word for word in command]


def await_health(container: Container, port: str, *wanted: object) -> None:
    """Wait until the check of the REST interface, which itself is patient for seconds, exits and says so."""
    until(lambda: container.run(health_check(port)) == wanted, f"the health check to say {wanted}")


def test_the_api_s_container_answers_this_machine_without_a_token(
    own_redis: RedisServer, short_tmp: Path, port: str
) -> None:
    with api(short_tmp, own_redis.url, compose("dev")["services"]["api"]["command"], port) as container:
        status, body = get(port)
        assert (status, '"datasets":0' in body) == (200, True)
        assert get(port, Host="evil.example")[0] == 400
        await_health(container, port, 0, "")
        own_redis.kill()
        await_health(container, port, 1, "The REST interface answers 503 Service Unavailable.\n")
    assert container.run(health_check(port))[0] == 1


def test_with_a_token_set_it_is_demanded(own_redis: RedisServer, short_tmp: Path, port: str) -> None:
    token = {"MISTUDIO_API_TOKEN": "let-me-in"}
    with api(short_tmp, own_redis.url, compose("dev")["services"]["api"]["command"], port, **token) as container:
        assert get(port)[0] == 401
        assert get(port, Authorization="Bearer let-me-in")[0] == 200
        await_health(container, port, 0, "")


def test_in_kubernetes_the_api_demands_a_token(own_redis: RedisServer, short_tmp: Path, port: str) -> None:
    (container,) = pod(of_kind("Deployment")["mistudio-api"])["containers"]
    code, result = Container(short_tmp / "without", CELERY_BROKER_URL=own_redis.url).run(container["args"])
    assert (code, "must carry a token" in result) == (2, True)
    with api(short_tmp, own_redis.url, container["args"], port, MISTUDIO_API_TOKEN="let-me-in"):
        assert get(port)[0] == 401
        assert get(port, Authorization="Bearer let-me-in")[0] == 200


@contextmanager
def redis_container(folder: Path, command: list[str], **environment: str) -> Iterator[str]:
    """Redis as a container runs it, on a unix socket instead of its port; gives the socket."""
    (folder / "bin").mkdir()
    (folder / "bin" / "redis-server").symlink_to(find_redis_server())
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = [*command, "--port", "0", "--unixsocket", str(folder / "r.sock")]
    server = subprocess.Popen(
        words, cwd=folder, env={"PATH": path, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: listens(folder / "r.sock"), "redis-server to listen")
        yield str(folder / "r.sock")
    finally:
        server.terminate()
        assert server.wait(PATIENCE_S) == 0


def listens(path: Path) -> bool:
    """Whether somebody takes connections there: the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(path)) == 0


def settings_of(client: redis_connection.Client) -> dict[str, str]:
    wanted = ("appendonly", "appendfsync", "maxmemory-policy", "save")
    return {name: client.call("CONFIG", "GET", name)[1] for name in wanted}


SAFE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def test_redis_of_compose_keeps_every_write(short_tmp: Path) -> None:
    with redis_container(short_tmp, compose("dev")["services"]["redis"]["command"]) as path:
        client = redis_connection.connect(f"redis+socket://{path}?virtual_host=0")
        assert settings_of(client) == SAFE
        client.close()


def test_redis_of_kubernetes_does_so_too_and_asks_for_the_password(short_tmp: Path) -> None:
    (container,) = pod(of_kind("StatefulSet")["mistudio-redis"])["containers"]
    command = [*container["command"], *container["args"]]
    with redis_container(short_tmp, command, REDIS_PASSWORD="0123abcd") as path:
        other_user = redis_connection.connect(f"redis+socket://{path}?virtual_host=0")
        with pytest.raises(redis_connection.Refused, match="NOAUTH"):
            other_user.call("PING")
        other_user.close()
        client = redis_connection.connect(f"redis+socket://{path}?virtual_host=0&password=0123abcd")
        assert settings_of(client) == SAFE
        client.close()
        assert (
            shutil.which("ps") is None
            or "0123abcd" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        )
