"""How many connections `serve` holds, what it says when it cannot hold as many, and when it ends an idle one."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from mistudio_cli.errors import Code
from mistudio_cli.rest import http_server
from mistudio_cli.rest.event_client import TRANSPORT
from mistudio_cli.rest.routes import API
from tests.cli.conftest import Cli
from tests.cli.test_rest_hostile import server_with_few_files
from tests.cli.test_rest_routes import server_of
from tests.conftest import PATIENCE_S, until

LONG_S = PATIENCE_S


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), LONG_S)


def ended(link: socket.socket) -> bool:
    """Whether the server has ended a connection, within a moment."""
    try:
        while link.recv(65536):  # the rest of an answer
            pass
        return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_connection_beyond_the_most_ends_the_one_that_was_idle_longest(cli: Cli) -> None:
    with server_of(cli, "--max-connections", "3") as client, ExitStack() as opened:
        port = client.base_url.port
        links = [opened.enter_context(connect(port)) for _ in range(3)]
        for number, link in enumerate(links):  # each has been taken before the next one comes
            link.sendall(f"GET {API}/livez HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert link.recv(65536).startswith(b"HTTP/1.1 200"), number
        assert httpx.get(f"http://127.0.0.1:{port}{API}/livez", trust_env=False, timeout=LONG_S).status_code == 200
        assert ended(links[0])
        links[2].settimeout(0.1)
        assert not ended(links[2])


def test_more_connections_than_open_files_allow_are_refused_with_the_number_that_they_do(cli: Cli) -> None:
    with server_with_few_files(cli, 256) as port:  # without the option it takes what there is
        assert httpx.get(f"http://127.0.0.1:{port}{API}/livez", trust_env=False, timeout=LONG_S).status_code == 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    result = cli("serve", "--port", "0", "--max-connections", str(hard))
    assert result.code == Code.USAGE
    assert result.err.startswith(f"{hard} connections need ")
    assert f"open files, and this process may have {hard}." in result.err
    assert "or give --max-connections " in result.err


@contextmanager
def served(application: Any, idle_s: float) -> Iterator[int]:
    """The port of a server in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = http_server.server_of(application, 10, idle_s=idle_s)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(LONG_S)


def test_an_idle_connection_is_ended_and_one_that_waits_for_its_answer_is_not() -> None:
    """Both began together; the answer comes when the idle one is gone."""
    answers = threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.to_thread(answers.wait, LONG_S)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with served(application, idle_s=0.2) as port, connect(port) as idle, connect(port) as waiting:
        waiting.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += idle.recv(100)
        until(lambda: ended(idle))
        answers.set()
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")


def test_what_is_written_is_sent_at_once() -> None:
    """Held back until the client acknowledges the headers, a body would take 40 ms."""
    is_held_back = list[bool]()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        connection = scope["extensions"][TRANSPORT].get_extra_info("socket")
        is_held_back.append(not connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with served(application, idle_s=LONG_S) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=LONG_S).status_code == 200
    assert is_held_back == [False]
