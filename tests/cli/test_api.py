"""The REST interface, asked over HTTP by a client, from a real server process."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from mistudio_cli.errors import Code
from mistudio_cli.views import json_shapes
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES
from tests.cli.conftest import Cli
from tests.cli.test_health import report_of
from tests.conftest import PATIENCE_S

HEARTBEAT = WorkerHeartbeat("all-queues@h", "h", 7, QUEUE_NAMES, 8, 1000.0)
SECRET = "hf_secret_value"


def submit(ledger: Ledger, queue: str = "datasets") -> Job:
    return ledger.submit(Job(new_job_id(), "download", "a", queue, {"source": SECRET}))


@contextmanager
def serving(cli: Cli, *words: str) -> Iterator[httpx.Client]:
    """A server of that home on a free port."""
    server = cli.start("serve", "--port", "0", *words)
    try:
        line = server.stderr.readline()
        where = re.search(r"http://[\d.]+:\d+", line)
        assert where, line + server.stderr.read()
        with httpx.Client(base_url=f"{where[0]}/api/v1/workers", trust_env=False, timeout=PATIENCE_S) as client:
            yield client
    finally:
        server.terminate()
        out, err = server.communicate(timeout=PATIENCE_S)
        assert (server.returncode, out, err) == (0, "", "")


@pytest.fixture
def client(cli: Cli) -> Iterator[httpx.Client]:
    with serving(cli) as client:
        yield client


def test_queues_are_pending_jobs_by_name(cli: Cli, client: httpx.Client) -> None:
    submit(cli.ledger)
    submit(cli.ledger)
    assert client.get("/queues").json() == {**dict.fromkeys(QUEUE_NAMES, 0), "datasets": 2}


def test_active_shows_each_worker_s_jobs_and_never_their_arguments(cli: Cli, client: httpx.Client) -> None:
    cli.ledger.heartbeat(HEARTBEAT)
    assert client.get("/active").json() == {"all-queues@h": []}
    job = submit(cli.ledger)
    cli.ledger.claim(job.id, HEARTBEAT.name, HEARTBEAT.host)
    response = client.get("/active")
    (task,) = response.json()["all-queues@h"]
    assert (task["id"], task["name"]) == (job.id, "mistudio.download")
    assert (task["kind"], task["queue"], task["args"]) == ("download", "datasets", "[redacted]")
    assert (task["started_at"][-1], task["progress"]) == ("Z", None)
    assert SECRET not in response.text


def test_stats_are_shown_for_each_worker(cli: Cli, client: httpx.Client) -> None:
    cli.ledger.heartbeat(HEARTBEAT)
    job = submit(cli.ledger)
    cli.ledger.claim(job.id, HEARTBEAT.name, HEARTBEAT.host, HEARTBEAT.pid)
    other = submit(cli.ledger)
    cli.ledger.claim(other.id, HEARTBEAT.name, HEARTBEAT.host, 8)  # an older process of that worker finishes it
    (heartbeat,) = cli.ledger.workers()
    assert client.get("/stats").json()["all-queues@h"] == {
        "queues": list(QUEUE_NAMES),
        "slots": 8,
        "busy": 2,
        "host": "h",
        "pid": 7,
        "started_at": "1970-01-01T00:16:40.000Z",
        "seen_at": json_shapes.time(heartbeat.seen_at),
    }


def test_health_has_the_seed_s_shape(cli: Cli, client: httpx.Client) -> None:
    cli.ledger.heartbeat(HEARTBEAT)
    submit(cli.ledger)
    response = client.get("/health")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "status": "healthy",
        "workers_connected": 1,
        "total_queued": 1,
        "total_active": 0,
        "queues": {name: {"pending": int(name == "datasets"), "status": "ok"} for name in QUEUE_NAMES},
        "warnings": [],
        "causes": [],
    }


def test_pending_on_a_queue_without_consumers_warns(ledger: Ledger) -> None:
    ledger.heartbeat(WorkerHeartbeat("w@h", "h", 7, ("training",), 1, 1000.0))
    submit(ledger)
    result = report_of(ledger.client)
    assert (result["status"], result["queues"]["datasets"]["status"]) == ("warning", "warning")
    assert result["warnings"] == ["Queue 'datasets' has 1 pending and no worker"]


def test_a_backlog_over_a_hundred_warns(ledger: Ledger) -> None:
    ledger.heartbeat(HEARTBEAT)
    for _ in range(100):
        submit(ledger)
    assert report_of(ledger.client)["status"] == "healthy"
    submit(ledger)
    assert report_of(ledger.client)["warnings"] == ["Queue 'datasets' has a backlog of 101"]


def test_jobs_and_no_worker_at_all_is_critical(ledger: Ledger) -> None:
    assert report_of(ledger.client)["status"] == "healthy"
    submit(ledger)
    assert (report_of(ledger.client)["status"], report_of(ledger.client)["workers_connected"]) == ("critical", 0)


def test_a_broker_that_is_away_is_503_and_no_zeros(cli: Cli) -> None:
    away = Cli(cli.home, "redis://someone:secret@127.0.0.1:1/0", cli.ledger)
    with serving(away) as client:
        for name in ("queues", "active", "stats"):
            response = client.get(f"/{name}")
            problem = response.json()
            assert (response.status_code, problem["status"], problem["error"]) == (503, 503, problem["detail"])
            assert response.headers["content-type"] == "application/problem+json"
            assert "secret" not in response.text
        response = client.get("/health")
        assert (response.status_code, response.json()["status"], response.json()["queues"]) == (503, "critical", None)


def test_what_is_not_there_is_said_in_json(client: httpx.Client) -> None:
    response = client.get("/nothing")
    assert (response.status_code, response.json()["title"]) == (404, "Not Found")
    response = client.post("/queues")
    assert (response.status_code, response.json()["title"]) == (405, "Method Not Allowed")
    assert response.headers["allow"] == "GET, HEAD"


def test_another_site_s_page_cannot_ask_through_a_name_of_its_own(client: httpx.Client) -> None:
    assert client.get("/queues", headers={"Host": "evil.example"}).status_code == 400


def test_listening_beyond_the_loopback_demands_a_token(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert result.code == Code.USAGE
    assert result.err.startswith("Listening on 0.0.0.0 opens the API to other hosts, so requests must carry a token.")


def test_a_variable_that_was_named_and_is_not_set_is_no_missing_token(cli: Cli) -> None:
    result = cli("serve", "--port", "0", "--token-env", "TYPO")
    assert (result.code, result.out) == (Code.USAGE, "")
    assert result.err.startswith("There is no token in the variable TYPO.")


def test_a_token_is_asked_of_every_request(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "let-me-in")
    with serving(cli, "--host", "0.0.0.0", "--token-env", "A_TOKEN") as client:
        port = client.base_url.port
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "let-me-in"}):
            response = httpx.get(
                f"http://127.0.0.1:{port}/api/v1/workers/queues", headers=header, trust_env=False, timeout=PATIENCE_S
            )
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        header = {"Authorization": "Bearer let-me-in"}
        response = httpx.get(
            f"http://127.0.0.1:{port}/api/v1/workers/queues", headers=header, trust_env=False, timeout=PATIENCE_S
        )
        assert response.status_code == 200


def test_a_unix_socket_is_its_owner_s_alone_and_gone_afterwards(cli: Cli, short_tmp: object) -> None:
    path = short_tmp / "api.sock"
    server = cli.start("serve", "--uds", str(path))
    try:
        assert f"unix socket {path}" in server.stderr.readline()
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE_S) as client:
            assert client.get("http://any/api/v1/workers/queues").status_code == 200
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)
    assert not path.exists()


def test_a_port_that_is_taken_is_one_sentence(cli: Cli, client: httpx.Client) -> None:
    port = client.base_url.port
    result = cli("serve", "--port", str(port))
    assert result.code == Code.USAGE
    assert result.err.startswith(f"127.0.0.1:{port} cannot be listened on: Address already in use.")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300, "a..b", "256.0.0.1", "\x1b"])
def test_a_host_that_there_is_not_is_one_sentence(cli: Cli, host: str) -> None:
    result = cli("serve", "--host", host, "--port", "0", MISTUDIO_API_TOKEN="secret")
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "cannot be listened on: " in result.err
    assert len(result.err.splitlines()) == 2


def test_whatever_is_requested_is_answered_in_json(client: httpx.Client) -> None:
    dice = random.Random(5)
    paths = [
        "/queues",
        "/health",
        "/active",
        "/nothing",
        "/../../etc/passwd",
        "/%00",
        "/%ff%fe",
        "/queues/",
        "//",
        "/" + "a" * 5000,
    ]
    bodies = [b"", b"[" * 100_000, b'{"a":' * 1000, b"\xff\x00", b"null", b"9" * 5000]
    headers = [{}, {"Authorization": "Bearer \xff"}, {"Content-Type": "application/json"}, {"X-Odd": "a" * 5000}]
    for _ in range(80):
        method = dice.choice(["GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "ODD"])
        query = dice.choice(["", "?a=1", "?" + "&".join("a[]=%00" for _ in range(50)), "?%"])
        odd = {name: value.encode("latin-1") for name, value in dice.choice(headers).items()}
        answer = client.request(method, dice.choice(paths) + query, content=dice.choice(bodies), headers=odd)
        assert answer.status_code < 500, (method, answer.request.url, answer.text[:200])
        if method != "HEAD" and answer.status_code >= 400 and answer.text:
            assert "error" in answer.json(), answer.text[:200]
    assert client.get("/health").status_code == 200


def test_hosts_are_those_of_hosts_ls(cli: Cli, client: httpx.Client) -> None:
    cli.ledger.heartbeat(HEARTBEAT)
    (host,) = client.get(str(client.base_url.join("/api/v1/hosts"))).json()["hosts"]
    assert (host["name"], host["state"], host["workers"]) == ("h", "workers only", 1)
    assert host["gpus"] is None
