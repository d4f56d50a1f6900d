"""While the supervisor waits for Redis it answers what only reads; what changes something is answered afterwards."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.supervisor import event_loop
from mistudio_cli.supervisor.event_loop import EventLoop
from mistudio_cli.supervisor.heartbeats import HeartbeatMonitor
from mistudio_cli.supervisor.lock_and_socket import Door
from tasks.paths import Places
from tests.conftest import PATIENCE_S, RedisServer, deadline, until
from tests.fixtures.stack import Clock

LONG_S = PATIENCE_S


class WaitingDesk:
    """Asks something at its second tick, which is answered when `answered` is set; ends once it is asked to."""

    def __init__(self) -> None:
        self.loop: EventLoop
        self.asks, self.answered = threading.Event(), threading.Event()
        self.found: list[str] = []
        self.ended, self.patience_s = False, 0.01
        self._ticks = 0

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks == 2:
            self.found.append(self.loop.run_apart(self._ask))

    def _ask(self) -> str:
        self.asks.set()
        assert self.answered.wait(LONG_S)
        return threading.current_thread().name

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.ended = request["op"] == "end"
        return {"op": request["op"], "found": list(self.found)}

    def only_reads(self, request: dict[str, Any]) -> bool:
        return request["op"] == "status"

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def door(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    @contextmanager
    def no_signals(_: object) -> Iterator[socket.socket]:
        ear, mouth = socket.socketpair()
        with ear, mouth:
            yield ear

    monkeypatch.setattr(event_loop, "_signals_received", no_signals)
    places = Places(short_tmp, short_tmp / "store")
    places.run.mkdir(parents=True)
    with closing(Door(places)) as door:
        assert door.lock()
        door.listen()
        yield door


def ask(path: Path, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(LONG_S)
        link.connect(str(path))
        link.sendall(line + b"\n")
        return json.loads(link.makefile().readline())


def test_what_only_reads_is_answered_while_redis_is_waited_for(door: Door, short_tmp: Path) -> None:
    path, desk = Places(short_tmp, short_tmp / "store").supervisor_socket, WaitingDesk()
    desk.loop = EventLoop(door, desk)
    later: list[Future[dict[str, Any]]] = []

    def client() -> list[dict[str, Any]]:
        assert desk.asks.wait(LONG_S)
        later.extend(pool.submit(ask, path, line) for line in (b'{"op": "change"}', b"no JSON"))
        until(lambda: len(desk.loop._held) == 2)
        seen = [ask(path, b'{"op": "status"}') for _ in range(3)]
        desk.answered.set()
        return [*seen, *(future.result() for future in later), ask(path, b'{"op": "end"}')]

    with ThreadPoolExecutor(3) as pool, deadline(LONG_S, "the loop"):
        client_done = pool.submit(client)
        desk.loop.serve()
        *seen, changed, odd, _ = client_done.result()
    assert seen == [{"op": "status", "found": []}] * 3
    assert changed == {"op": "change", "found": desk.found}
    assert "cannot be answered" in odd["error"]
    assert desk.found == ["asks Redis_0"]


class AskingDesk(WaitingDesk):
    """Asks something for each change, and takes its first step when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_begin = threading.Event()

    def tick(self) -> None:
        if len(self.loop._selector.get_map()) == 4:  # what it listens on, and two clients
            self.asks.set()
            assert self.may_begin.wait(LONG_S)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "change":
            self.loop.run_apart(lambda: self.answered.wait(LONG_S))
        return super().answer(request)


def test_requests_that_come_at_once_are_each_answered_once(door: Door, short_tmp: Path) -> None:
    path, desk = Places(short_tmp, short_tmp / "store").supervisor_socket, AskingDesk()
    desk.loop = EventLoop(door, desk)

    def client() -> list[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX) as changes, socket.socket(socket.AF_UNIX) as reads:
            for link in (changes, reads):
                link.settimeout(LONG_S)
                link.connect(str(path))
            assert desk.asks.wait(LONG_S)
            for link, op in ((changes, "change"), (reads, "status")):
                link.sendall(json.dumps({"op": op}).encode() + b"\n")
            desk.may_begin.set()
            read = json.loads(reads.makefile().readline())
            desk.answered.set()
            return [read, json.loads(changes.makefile().readline()), ask(path, b'{"op": "end"}')]

    with ThreadPoolExecutor(1) as pool, deadline(LONG_S, "the loop"):
        client_done = pool.submit(client)
        desk.loop.serve()
        assert [reply["op"] for reply in client_done.result()] == ["status", "change", "end"]


def test_an_error_of_what_runs_apart_is_raised(door: Door) -> None:
    desk = WaitingDesk()
    desk.loop = EventLoop(door, desk)
    with pytest.raises(ZeroDivisionError):
        desk.loop.run_apart(lambda: 1 // 0)


def test_questions_to_redis_run_apart(own_redis: RedisServer) -> None:
    apart, monitor = list[object](), HeartbeatMonitor(Clock())
    monitor.run_apart = lambda question: apart.append(question) or question()
    monitor.connect_to(own_redis.url)
    assert monitor.ask(lambda ledger: ledger.heartbeats()) == []
    assert monitor.busy() == frozenset()
    assert len(apart) == 2
    monitor.close()
