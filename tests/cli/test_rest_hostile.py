"""Hostile clients: raw bytes that are no requests, connections that send nothing, bodies without end."""

from __future__ import annotations

import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from mistudio_cli.rest.routes import API, ROUTES
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import BEARER, TOKEN, server_of
from tests.conftest import PATIENCE_S

ROUNDS = 10_000 if os.environ.get("MISTUDIO_TEST_DEEPER") else 400
SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "5"))


def ask_raw(port: int, data: bytes, timeout_s: float = PATIENCE_S) -> bytes:
    """What a server answers to these bytes, after which nothing is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as link:
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := link.recv(65536):
                answer += chunk
        except ConnectionError:  # the server has seen enough
            return b""
        return answer


def a_request(dice: random.Random) -> bytes:
    """A request that is odd in several places, or no request at all."""
    methods = [b"GET", b"POST", b"PUT", b"get", b"ODD", b"", b"G\x00T", b"A" * 300]
    paths = [*(route.path.encode() for route in ROUTES if "events" not in route.path)]
    paths += [b"/", b"//", b"*", b"http://evil/", b"/%00", b"/%ff", b"/" + b"a" * 9000, b"/..%2f..", b"\xff", b""]
    query = dice.choice([b"", b"", b"?", b"?a", b"?limit=9" + b"9" * 400, b"?%", b"?state=%ff", b"?a=" + b"b" * 3000])
    versions = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/1.1 x", b""]
    headers = [b"Host: localhost", b"Host: localhost", b"Host: x\r\nHost: y", b"Host:", b"Content-Length: -1"]
    headers += [b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: odd"]
    headers += [b"Authorization: Bearer " + TOKEN.encode(), b"Authorization: \xff", b": x", b"A" * 9000, b"A: \x00"]
    headers += [
        b"Content-Type: application/json",
        b"Expect: 100-continue",
        b"Upgrade: websocket\r\nConnection: Upgrade",
    ]
    headers += [b"Idempotency-Key: \xff", b"If-None-Match: *", b"Last-Event-ID: x-" + b"9" * 50, b"Origin: null"]
    bodies = [
        b"",
        b"{}",
        b"[" * 2000,
        b'{"kind":"nap","params":{}}',
        b"\x00\xff",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\n",
    ]
    chosen = b"\r\n".join(dice.choices(headers, k=dice.randint(0, 5)))
    ending = dice.choice([b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b""])
    line = b" ".join((dice.choice(methods), dice.choice(paths) + query, dice.choice(versions)))
    request = line + b"\r\n" + chosen + ending + dice.choice(bodies)
    for _ in range(dice.choice([0, 0, 0, 1, 8])):
        place = dice.randrange(len(request) + 1)
        request = request[:place] + bytes([dice.randrange(256)]) + request[place + 1 :]
    return request


def test_random_bytes_are_answered_and_never_with_a_server_error(cli: Cli) -> None:
    dice = random.Random(SEED)
    with server_of(cli) as client:
        for _ in range(ROUNDS):
            request = a_request(dice)
            answer = ask_raw(client.base_url.port, request)
            status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/1.1 ") else b""
            assert not status.startswith(b"5"), (request, answer[:500])
            if status.startswith(b"4") and not request.startswith(b"HEAD"):
                assert b"application/problem+json" in answer, (request, answer[:500])
        assert client.get(f"{API}/workers/health").status_code == 200


def test_what_the_parser_refuses_is_a_problem_too(cli: Cli) -> None:
    with server_of(cli) as client:
        answer = ask_raw(client.base_url.port, b"this is no request\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"application/problem+json" in answer
        assert b"no-store" in answer


def test_a_body_over_a_mebibyte_is_refused(cli: Cli) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    with server_of(cli) as client:
        for content in (b" " * (1 << 20) + b"{}", chunks()):
            try:
                answer = client.post(f"{API}/queues/training/pause", content=content, headers=BEARER)
            except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
                continue  # the server has ended the connection while the rest was still on its way
            assert answer.status_code == 413
        assert client.get(f"{API}/livez").status_code == 200


#: It waits for headers for ever, so that what gets an answer has not waited for the end of that.
SERVES_PATIENTLY = """
import sys
from mistudio_cli.main import main
from mistudio_cli.rest import http_server
http_server.HEADERS_WITHIN_S = 3600.0
sys.exit(main(["serve", "--port", "0"]))
"""


@contextmanager
def server_with_few_files(cli: Cli, files: int) -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVES_PATIENTLY],
        env=cli.environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    try:
        line = server.stderr.readline()
        yield int(line.split()[2].rpartition(":")[2])
    finally:
        server.terminate()
        _, err = server.communicate(timeout=PATIENCE_S)
        assert (server.returncode, err) == (0, "")


def test_five_hundred_half_open_connections_keep_nobody_else_waiting(cli: Cli) -> None:
    with server_with_few_files(cli, 256) as port:
        links = []
        try:
            for number in range(500):
                link = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
                link.sendall(b"GET /api/v1/workers/queues HTTP/1.1\r\nHost: loc" if number % 2 else b"")
                links.append(link)
            for path in ("workers/queues", "jobs", "queues", "workers/health", "livez") * 4:
                answer = httpx.get(f"http://127.0.0.1:{port}{API}/{path}", trust_env=False, timeout=PATIENCE_S)
                assert answer.status_code == 200
        finally:
            for link in links:
                link.close()


def test_headers_that_do_not_come_end_the_connection(cli: Cli) -> None:
    with server_of(cli) as client:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", client.base_url.port), PATIENCE_S) as link:
            link.settimeout(0.5)
            link.sendall(b"GET /api/v1/livez HTTP/1.1\r\n")
            is_open = True
            while is_open:  # one more header from time to time keeps it open no longer
                try:
                    is_open = link.recv(100) != b""
                except TimeoutError:
                    link.sendall(b"X: y\r\n")
                except ConnectionError:
                    is_open = False
        assert 8 < time.monotonic() - began < PATIENCE_S


def test_a_body_that_does_not_come_is_a_problem(cli: Cli) -> None:
    with server_of(cli) as client, socket.create_connection(("127.0.0.1", client.base_url.port), PATIENCE_S) as link:
        path, bearer = (
            f"{API}/queues/training/pause",
            f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json",
        )
        link.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert link.recv(20).startswith(b"HTTP/1.1 408")
