"""Every route of the table, asked of a real server: shapes, problems, changes, paging, events."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from mistudio_cli.rest.documents.openapi import document, schema_of
from mistudio_cli.rest.documents.reference import reference
from mistudio_cli.rest.event_feed import patch_between
from mistudio_cli.rest.route import EVENT_STREAM, JSON, Access, Route
from mistudio_cli.rest.routes import API, ROUTES
from tasks.logs.log_tails import TailWriter, attempt_key
from tests.cli.conftest import Cli
from tests.cli.test_api import HEARTBEAT, submit
from tests.conftest import PATIENCE_S, RedisServer

TOKEN = "a-token-that-no-log-has"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
OUR_ROUTES = [route for route in ROUTES if route.media_type == JSON]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@contextmanager
def server_of(cli: Cli, *words: str, token: str = TOKEN, **environment: str) -> Iterator[httpx.Client]:
    """A server of that home that has a token, and a client without one."""
    environment = cli.environment | {"MISTUDIO_API_TOKEN": token} | environment
    command = [str(Path(sys.executable).parent / "mistudio"), "serve", "--port", "0", *words]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stderr.readline()
        assert "Listening on" in line, line + server.stderr.read()
        where = line.split()[2]
        with httpx.Client(base_url=where, trust_env=False, timeout=PATIENCE_S) as client:
            yield client
    finally:
        server.terminate()
        out, err = server.communicate(timeout=PATIENCE_S)
        assert (server.returncode, err) == (0, "")
        assert TOKEN not in out + err


@pytest.fixture(scope="module")
def served(world: Cli) -> Iterator[httpx.Client]:
    """A server of the home with a worker, where one job has ended."""
    world("submit", "nap", "--name", "rest-nap", "--ticks", "1", "--wait")
    with server_of(world) as client:
        yield client


def job_id(client: httpx.Client) -> str:
    return client.get(f"{API}/jobs?limit=1").json()["jobs"][0]["id"]


def path_of(route: Route, client: httpx.Client) -> str:
    path = route.path.replace("{family}/{name}", "saes/none").replace("{name}", "low_priority")
    return path.replace("{id}", job_id(client)) if "{id}" in path else path


def check(route: Route, body: Any) -> None:
    """The body is what the route's result says."""
    schemas: dict[str, Any] = {}
    schema = schema_of(route.result, schemas)
    jsonschema.validate(body, {**schema, "components": {"schemas": schemas}})


@pytest.mark.parametrize("route", OUR_ROUTES, ids=name_of)
def test_the_example_of_a_route_has_its_result_s_shape(route: Route) -> None:
    check(route, route.example) if route.path not in ("/openapi.json",) else None


@pytest.mark.parametrize("route", [route for route in OUR_ROUTES if route.method == "GET"], ids=name_of)
def test_a_read_answers_what_the_table_says_and_never_a_redirect(served: httpx.Client, route: Route) -> None:
    path = path_of(route, served)
    answer = served.get(path)
    if "{family}" not in route.path and "/saes/{" not in route.path:  # those of an empty store
        assert answer.status_code == 200, answer.text
        check(route, answer.json())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert served.get(f"{path}/").status_code == 404
    assert served.head(path).content == b""


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_a_query_word_that_there_is_not_is_a_400(served: httpx.Client, route: Route) -> None:
    answer = served.request(route.method, path_of(route, served), params={"odd": "1"}, headers=BEARER, content="{}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["detail"].startswith("Unknown query word 'odd'")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.access is Access.CHANGE], ids=name_of)
def test_a_change_without_the_token_is_refused(served: httpx.Client, route: Route) -> None:
    path = path_of(route, served)
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = served.post(path, json={}, headers=header)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert served.post(path, content="{}", headers={"Authorization": f"bEaReR {TOKEN}"}).status_code == 415


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_other_methods_are_405_with_allow(served: httpx.Client, path: str) -> None:
    known = [route.method for route in ROUTES if route.path == path]
    some = path.replace("{id}", "x").replace("{name}", "x").replace("{family}", "x")
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "ODD"} - set(known):
        answer = served.request(method, some)
        assert answer.status_code == 405
        assert set(known) <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.lists], ids=name_of)
def test_a_list_that_has_not_changed_is_304(cli: Cli, route: Route) -> None:
    with server_of(cli) as client:
        path = route.path.replace("{name}", "training")
        client.get(path)
        tag = client.get(path).headers["etag"]
        answer = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


def test_the_reference_and_the_openapi_document_name_every_route(served: httpx.Client) -> None:
    page, found = reference(), served.get("/openapi.json").json()
    assert found["paths"].keys() == document()["paths"].keys()
    for route in ROUTES:
        assert f"## `{route.method} {route.path}`" in page
        operation = found["paths"][route.path][route.method.lower()]
        assert (operation.get("security") is None) == route.needs_token
    assert Path("docs/rest.md").read_text(encoding="utf-8") == page, "stale: run python -m docs.generate"


def test_a_job_is_submitted_shown_reprioritized_cancelled_and_retried(cli: Cli) -> None:
    with server_of(cli) as client:
        client.headers = httpx.Headers({**dict(client.headers), **BEARER})
        made = client.post(f"{API}/jobs", json={"kind": "nap", "params": {"ticks": 3}, "name": "n", "tags": ["a"]})
        assert (made.status_code, made.json()["state"]) == (201, "queued"), made.text
        where = made.headers["location"]
        assert client.get(where).json()["params"]["ticks"] == 3
        assert client.post(f"{where}/priority", json={"priority": 9}).json()["priority"] == 9
        assert cli.ledger.need(made.json()["id"]).priority == 9
        assert [job["name"] for job in client.get(f"{API}/queues/low_priority/jobs").json()["jobs"]] in (["n"], [])
        assert client.post(f"{where}/retry", json={}).status_code == 409
        cancelled = client.post(f"{where}/cancel", json={})
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        again = client.post(f"{where}/retry", json={}, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["jobs"][0]["retry_of"]) == (201, made.json()["id"])
        repeated = client.post(f"{where}/retry", json={}, headers={"Idempotency-Key": "k"})
        assert (repeated.status_code, repeated.json()["jobs"][0]["id"]) == (200, again.json()["jobs"][0]["id"])
        assert len(client.get(f"{API}/jobs", params={"kind": "nap"}).json()["jobs"]) == 2


def test_the_same_idempotency_key_submits_once_however_many_ask(cli: Cli) -> None:
    request = {"kind": "nap", "params": {"ticks": 2}}
    with server_of(cli) as client, ThreadPoolExecutor(8) as threads:
        headers = {**BEARER, "Idempotency-Key": "one"}
        answers = list(threads.map(lambda _: client.post(f"{API}/jobs", json=request, headers=headers), range(16)))
        assert {answer.status_code for answer in answers} == {200, 201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(client.get(f"{API}/jobs").json()["jobs"]) == 1
        other = client.post(f"{API}/jobs", json={"kind": "nap", "params": {"ticks": 5}}, headers=headers)
        assert other.status_code == 409
        assert "was used for another request" in other.json()["detail"]
        for changed in ({"priority": 7}, {"tags": ["a"]}, {"name": "other"}):
            assert client.post(f"{API}/jobs", json={**request, **changed}, headers=headers).status_code == 409, changed


def test_the_same_idempotency_key_retries_once_however_many_ask(cli: Cli) -> None:
    with server_of(cli) as client, ThreadPoolExecutor(8) as threads:
        headers = {**BEARER, "Idempotency-Key": "one"}
        job = client.post(f"{API}/jobs", json={"kind": "nap", "params": {"ticks": 2}}, headers=BEARER).json()["id"]
        cli.ledger.request_cancel(job)
        answers = list(
            threads.map(lambda _: client.post(f"{API}/jobs/{job}/retry", json={}, headers=headers), range(16))
        )
        assert {answer.status_code for answer in answers} == {200, 201}
        assert len({answer.json()["jobs"][0]["id"] for answer in answers}) == 1


def test_a_repeated_request_is_the_same_whatever_its_kind_makes_of_its_parameters(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    requests = [
        {"kind": "download", "params": {"source": str(tmp_path / ".." / tmp_path.name / "a.txt")}},
        {"kind": "toy-model", "params": {"dataset": str(tmp_path / "a.txt")}},
        {"kind": "tokenize", "params": {"model": "EleutherAI/pythia-70m", "dataset": str(tmp_path / "a.txt")}},
    ]
    with server_of(cli) as client:
        for number, request in enumerate(requests):
            headers = {**BEARER, "Idempotency-Key": f"key-{number}"}
            made, again = (client.post(f"{API}/jobs", json=request, headers=headers) for _ in range(2))
            assert (made.status_code, again.status_code) == (201, 200), (made.text, again.text)
            assert made.json()["id"] == again.json()["id"]


def test_a_key_of_a_request_that_was_refused_is_free(cli: Cli) -> None:
    with server_of(cli) as client:
        headers = {**BEARER, "Idempotency-Key": "k"}
        wrong = {"kind": "nap", "params": {"ticks": 2}, "after": ["1kgone"]}
        assert client.post(f"{API}/jobs", json=wrong, headers=headers).status_code == 422
        made = client.post(f"{API}/jobs", json={**wrong, "after": None}, headers=headers)
        assert made.status_code == 201
        assert client.post(f"{API}/jobs", json=wrong, headers=headers).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 422),
        ("[]", 422),
        ("{", 400),
        ("NaN", 400),
        ("[" * 100_000, 400),
        ('{"kind": "nap"}', 422),
        ('{"kind": "nosuch", "params": {}}', 422),
        ('{"kind": "nap", "params": {"ticks": "x"}}', 422),
        ('{"kind": "nap", "params": {"odd": 1}}', 422),
        ('{"kind": "nap", "params": {}, "odd": 1}', 422),
        ('{"kind": "nap", "params": {}, "priority": 11}', 422),
        ('{"kind": "nap", "params": {}, "priority": true}', 422),
        ('{"kind": "nap", "params": {}, "name": "../x"}', 422),
        ('{"kind": "nap", "params": {}, "after": ["nosuch"]}', 422),
        ('{"kind": "nap", "params": {}, "gpu": "x"}', 422),
        ("9" * 5000, 400),
    ],
)
def test_a_submission_that_cannot_be_is_a_problem(served: httpx.Client, body: str, status: int) -> None:
    answer = served.post(f"{API}/jobs", content=body, headers=BEARER)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text


def test_a_queue_is_paused_and_resumed(cli: Cli) -> None:
    with server_of(cli) as client:
        for verb, state in (("pause", "paused"), ("resume", "no worker")):
            answer = client.post(f"{API}/queues/training/{verb}", json={}, headers=BEARER)
            assert (answer.status_code, answer.json()["paused"]) == (200, verb == "pause")
            submit(cli.ledger, "training")
            rows = {row["name"]: row["state"] for row in client.get(f"{API}/queues").json()["queues"]}
            assert rows["training"] == state
        assert client.post(f"{API}/queues/none/pause", json={}, headers=BEARER).status_code == 404


def test_a_list_is_paged_and_filtered_as_the_command_does(cli: Cli) -> None:
    for _ in range(5):
        submit(cli.ledger)
    with server_of(cli) as client:
        first = client.get(f"{API}/jobs", params={"limit": 3, "state": "queued,running", "queue": "datasets"}).json()
        rest = client.get(f"{API}/jobs", params={"limit": 3, "next": first["next"]}).json()
        assert [len(first["jobs"]), len(rest["jobs"]), rest["next"]] == [3, 2, None]
        listed = cli("jobs", "ls", "--json").json["jobs"]
        assert [job["id"] for job in first["jobs"] + rest["jobs"]] == [job["id"] for job in listed]
        for odd in ("state=odd", "limit=0", "limit=x", "limit=1&limit=2", "next=x", "since=x", "queue=x", "kind=x"):
            assert client.get(f"{API}/jobs?{odd}").status_code == 400, odd
        for day in ("2026-01-31", "2026-11-30T23:59", "2028-02-29"):
            assert client.get(f"{API}/jobs?since={day}").status_code == 200, day
        for day in ("2026-02-30", "2026-11-31"):
            assert client.get(f"{API}/jobs?until={day}").status_code == 400, day
        assert "--" not in client.get(f"{API}/jobs?kind=nope").json()["detail"]


def test_the_log_of_a_job_is_read_from_where_the_last_answer_ended(served: httpx.Client) -> None:
    found = served.get(f"{API}/jobs", params={"name": "rest-nap"}).json()["jobs"][0]["id"]
    whole = served.get(f"{API}/jobs/{found}/logs").json()
    assert whole["is_over"]
    assert len(whole["lines"]) == whole["next"]
    rest = served.get(f"{API}/jobs/{found}/logs", params={"after": 1}).json()
    assert rest["lines"] == whole["lines"][1:]
    last = served.get(f"{API}/jobs/{found}/logs", params={"last": 2}).json()
    assert (last["lines"], last["next"], last["is_over"]) == (whole["lines"][-2:], whole["next"], True)


def test_a_log_of_another_host_is_followed_beyond_what_redis_keeps_of_it(cli: Cli, tmp_path: Path) -> None:
    job, path, known = submit(cli.ledger), tmp_path / "elsewhere", 0
    cli.ledger.claim(job.id, HEARTBEAT.name, "elsewhere")
    tail = TailWriter(cli.ledger.client, attempt_key(cli.ledger.client, job.id, 1))
    with server_of(cli) as client:
        for start in range(0, 5000, 500):
            with path.open("a") as log:
                log.writelines(f"{number:99d}\n" for number in range(start, start + 500))
            tail.send(path)
            found = client.get(f"{API}/jobs/{job.id}/logs", params={"after": known}).json()
            assert [int(line["message"]) for line in found["lines"]] == [*range(start, start + 500)]
            known = found["next"]


def test_a_job_that_runs_says_how_far_it_is(cli: Cli) -> None:
    job = submit(cli.ledger)
    with server_of(cli) as client:
        cli.ledger.heartbeat(HEARTBEAT)
        cli.ledger.claim(job.id, HEARTBEAT.name, HEARTBEAT.host)
        (task,) = client.get(f"{API}/workers/active").json()["all-queues@h"]
        assert (task["job_name"], task["metrics"], task["rate"], task["left_s"]) == ("a", None, None, None)


def events_in(answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    lines: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            lines[name] = value
        elif "data" in lines:
            yield lines["id"], lines["event"], json.loads(lines["data"])
            lines = {}


def test_events_send_the_state_then_patches_and_resume_after_the_last_one(cli: Cli) -> None:
    with server_of(cli) as client, client.stream("GET", f"{API}/events") as answer:
        assert answer.headers["content-type"].startswith(EVENT_STREAM)
        events = events_in(answer)
        first_id, name, state = next(events)
        assert (name, state["jobs"]) == ("state", {})
        job, before_id = submit(cli.ledger), first_id
        for patch in events:
            if any(step["path"] == f"/jobs/{job.id}" for step in patch[2]):
                break
            before_id = patch[0]
        assert patch[1] == "patch"
        with client.stream("GET", f"{API}/events", headers={"Last-Event-ID": before_id}) as returned:
            assert next(events_in(returned)) == patch
        with client.stream("GET", f"{API}/events", headers={"Last-Event-ID": "other-1"}) as returned:
            _, name, state = next(events_in(returned))
            assert (name, list(state["jobs"])) == ("state", [job.id])
        assert patch[0] != first_id


def test_a_patch_makes_the_new_state_of_the_old_one() -> None:
    before = {"a": {"x": 1, "y": [1]}, "b/c": None, "gone": 1, "same": 2}
    after = {"a": {"x": 2, "y": [1, 2]}, "b/c": 3, "same": 2, "new~": {}}
    steps = {(step["op"], step["path"]) for step in patch_between(before, after)}
    changed = {("replace", "/a/x"), ("replace", "/a/y"), ("replace", "/b~1c")}
    assert steps == {*changed, ("remove", "/gone"), ("add", "/new~0")}


def test_a_hung_redis_is_503_within_its_patience_to_a_hundred_at_once(own_redis: RedisServer, tmp_path: Path) -> None:
    from tasks.ledger.client import Ledger
    from tasks.redis_client.redis_connection import connect

    cli = Cli(tmp_path, own_redis.url, Ledger(connect(own_redis.url)))
    patience_s = 5.0  # one after the other they would wait minutes
    with server_of(cli, MISTUDIO_READ_PATIENCE_S=str(patience_s)) as client:
        assert client.get(f"{API}/jobs").status_code == 200
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            paths = [f"{API}/jobs", f"{API}/workers/queues", f"{API}/readyz", f"{API}/workers/health", f"{API}/queues"]
            with (
                ThreadPoolExecutor(100) as threads,
                httpx.Client(
                    base_url=client.base_url,
                    trust_env=False,
                    timeout=PATIENCE_S,
                    limits=httpx.Limits(max_connections=100),
                ) as many,
            ):
                answers = list(threads.map(lambda number: many.get(paths[number % len(paths)]), range(100)))
            assert {answer.status_code for answer in answers} == {503}
            took = sorted(answer.elapsed.total_seconds() for answer in answers)
            assert took[-1] < 4 * patience_s, took[-5:]
            assert client.get(f"{API}/livez").status_code == 200
        finally:
            own_redis.process.send_signal(signal.SIGCONT)


def test_the_seed_s_curl_lines_work_as_printed(cli: Cli) -> None:
    """On its port where that is free, as it is typed; else on another one."""
    with socket.socket() as found:
        port = "8000" if found.connect_ex(("127.0.0.1", 8000)) else "0"
    with server_of(cli, "--port", port) as client:
        for name in ("queues", "active", "stats", "health"):
            line = f"curl http://localhost:{client.base_url.port}/api/v1/workers/{name}"
            done = subprocess.run(line.split(), capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            assert isinstance(json.loads(done.stdout), dict)


def test_many_watch_at_once(cli: Cli) -> None:
    with server_of(cli) as client:
        gate, seen = threading.Barrier(21, timeout=PATIENCE_S), []

        def watch(_: int) -> None:
            with client.stream("GET", f"{API}/events") as answer:
                events = events_in(answer)
                next(events)
                gate.wait()
                seen.append(next(event[0] for event in events if "/jobs/" in json.dumps(event[2])))

        with ThreadPoolExecutor(20) as threads, httpx.Client():
            done = [threads.submit(watch, number) for number in range(20)]
            gate.wait()
            submit(cli.ledger)
            for each in done:
                each.result(PATIENCE_S)
        assert len(set(seen)) == 1
