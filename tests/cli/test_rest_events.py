"""The event stream to many and to slow clients: all get the same bytes, and one that is behind the newest state."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.rest import event_client, event_feed
from mistudio_cli.rest.event_client import EventClient
from mistudio_cli.rest.event_feed import EventFeed
from mistudio_cli.rest.routes import API
from tests.cli.conftest import Cli
from tests.cli.recorded import RUNNING, SNAPSHOT
from tests.cli.test_rest_routes import server_of

LONG_S = 30.0
LARGE = "x" * 100_000


class Changing:
    """Snapshots of which each differs from the one before, by its name, up to number `until`."""

    until = 1_000_000

    def __init__(self, name: str = "") -> None:
        self.number, self._name = 0, name

    async def __call__(self) -> Snapshot:
        self.number = min(self.number + 1, self.until)
        return replace(SNAPSHOT, jobs=(replace(RUNNING[0], name=f"{self.number} {self._name}"),))


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[EventClient, asyncio.Transport, asyncio.StreamReader]]:
    """A client of a feed, its transport, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 24)
    yield EventClient(transport, is_chunked=False), transport, reader
    transport.abort()
    writer.close()


async def next_event(reader: asyncio.StreamReader) -> tuple[int, str, str, str]:
    """Number, kind, data and id of the next event; a comment is 0 and the comment."""
    async with asyncio.timeout(LONG_S):
        text = (await reader.readuntil(b"\n\n")).decode()
    if text.startswith(":"):
        return 0, text, "", ""
    lines = dict(line.split(": ", 1) for line in text.strip().splitlines())
    return int(lines["id"].rpartition("-")[2]), lines["event"], lines["data"], lines["id"]


def test_two_who_watch_get_the_same_events_each_once_and_in_order() -> None:
    async def watch() -> None:
        feed = EventFeed(Changing(), every_s=0.001)
        async with connected() as (first, _, of_first), connected() as (second, _, of_second):
            feed.add(first)
            seen = [await next_event(of_first) for _ in range(5)]
            feed.add(second)
            number, kind, *_ = await next_event(of_second)
            assert (seen[0][1], kind) == ("state", "state")
            seen += [await next_event(of_first) for _ in range(number + 20 - len(seen))]
            assert [event[0] for event in seen] == list(range(1, number + 21))
            assert [await next_event(of_second) for _ in range(20)] == seen[number : number + 20]
            feed.remove(first)
            feed.remove(second)

    asyncio.run(watch())


@pytest.mark.parametrize(("missed", "kinds"), [(0, []), (1, ["patch"]), (8, ["patch"] * 8), (9, ["state"])])
def test_a_client_that_returns_gets_what_it_missed_and_of_much_the_state(missed: int, kinds: list[str]) -> None:
    async def watch() -> None:
        snapshots = Changing()
        feed = EventFeed(snapshots, every_s=0.001)
        async with connected() as (first, _, of_first), connected() as (returning, _, of_returning):
            snapshots.until = 12
            feed.add(first)
            ids = [(await next_event(of_first))[3] for _ in range(snapshots.until)]
            feed.add(returning, ids[-1 - missed])
            snapshots.until += 1
            seen = [await next_event(of_returning) for _ in range(len(kinds) + 1)]
            assert [event[1] for event in seen] == [*kinds, "patch"]
            assert seen[-1][0] == snapshots.until
            feed.remove(first)
            feed.remove(returning)

    asyncio.run(watch())


def test_of_two_workers_of_a_name_none_hides_the_other() -> None:
    async def watch() -> None:
        assert SNAPSHOT.workers is not None
        running = SNAPSHOT.workers[0]
        refused = replace(running, state="refused", busy=0, pid=4711)

        async def snapshot() -> Snapshot:
            return replace(SNAPSHOT, workers=(running, refused))

        feed = EventFeed(snapshot, every_s=0.001)
        async with connected() as (client, _, reader):
            feed.add(client)
            workers = json.loads((await next_event(reader))[2])["workers"]
            feed.remove(client)
        assert workers.keys() == {running.name, f"{running.name} 4711"}
        assert (workers[running.name]["pid"], workers[f"{running.name} 4711"]["state"]) == (running.pid, "refused")

    asyncio.run(watch())


def test_a_client_that_reads_nothing_is_not_queued_for_and_then_gets_the_newest_state() -> None:
    async def watch() -> None:
        changing = Changing(LARGE)
        feed = EventFeed(changing, every_s=0.001)
        async with connected() as (slow, transport, of_slow), connected() as (quick, _, of_quick):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            of_slow._transport.pause_reading()  # type: ignore[attr-defined]
            feed.add(slow)
            feed.add(quick)
            for _ in range(60):
                await next_event(of_quick)
                assert transport.get_write_buffer_size() < 4 * len(LARGE), "what it missed is kept for it"
            of_slow._transport.resume_reading()  # type: ignore[attr-defined]
            numbers = [1]
            while numbers[-1] - numbers[-2:][0] <= 8:
                number, kind, data, _ = await next_event(of_slow)
                numbers.append(number)
            assert kind == "state"
            (job,) = json.loads(data)["jobs"].values()
            assert int(job["name"].split()[0]) >= 50
            feed.remove(slow)
            feed.remove(quick)

    asyncio.run(watch())


def test_a_client_that_takes_nothing_for_a_minute_is_given_up() -> None:
    """The time is the test's."""

    async def watch() -> None:
        async with connected() as (client, transport, reader):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            transport.write(b"x" * (1 << 24))
            assert not client.takes_more(1000.0)
            assert not client.takes_more(1000.0 + event_client._GIVEN_UP_AFTER_S)
            assert not transport.is_closing()
            assert not client.takes_more(1001.0 + event_client._GIVEN_UP_AFTER_S)
            assert transport.is_closing()

    asyncio.run(watch())


def test_while_nothing_changes_a_comment_says_that_the_connection_stands() -> None:
    async def watch() -> None:
        feed = EventFeed(Changing(), every_s=0.001)
        still = await Changing()()

        async def same() -> Snapshot:
            return still

        feed._snapshot = same
        async with connected() as (client, _, reader):
            feed.add(client)
            assert (await next_event(reader))[1] == "state"
            feed._sent_at -= event_feed._KEEPALIVE_S
            assert (await next_event(reader))[1] == ": alive\n\n"
            feed.remove(client)

    asyncio.run(watch())


def test_a_client_of_http_1_0_gets_events_without_chunks(cli: Cli) -> None:
    with server_of(cli) as client, socket.create_connection(("127.0.0.1", client.base_url.port), LONG_S) as link:
        link.sendall(f"GET {API}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while b"\n\n" not in answer.partition(b"\r\n\r\n")[2]:
            answer += link.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body.startswith(b"id: ")
