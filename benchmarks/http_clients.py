"""Clients of `serve` in a process of their own: `streams PORT CLIENTS SECONDS`, or `requests URL AT_ONCE SECONDS`.

They use plain sockets, so that they cost less than what they measure.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

#: The time at which an event's state was read, in a state and in a patch.
_READ_AT = re.compile(rb'read_at", "value": "([^"]+)"|"read_at": "([^"]+)"')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_CONNECTED_AT_ONCE = 50


@dataclass(frozen=True)
class Lags:
    """How old events were when they arrived, and what they were."""

    events: int
    bytes_per_event: float
    p50_ms: float
    p99_ms: float


class Stream(asyncio.Protocol):
    """One client of the events; what it notes is shared by all."""

    def __init__(self, path: str, lags_s: list[float], sizes: list[int]) -> None:
        self._path, self._lags_s, self._sizes, self._rest = path, lags_s, sizes, b""
        self.has_begun = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the events."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Note each event that is whole."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if found := _READ_AT.search(event):
                self._lags_s.append(time.time() - _seconds((found[1] or found[2]).decode()))
                self._sizes.append(len(event))
                if not self.has_begun.done():
                    self.has_begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client that is disconnected spoils the measurement."""
        if not self.has_begun.done():
            self.has_begun.set_exception(ConnectionError("the server ended the connection"))


@lru_cache(maxsize=64)
def _seconds(read_at: str) -> float:
    return datetime.fromisoformat(read_at).timestamp()


async def streams(port: int, clients: int, seconds: float) -> Lags:
    """Watch with N clients; the time begins when each has the state."""
    lags_s, sizes, began = list[float](), list[int](), list[Stream]()
    loop = asyncio.get_running_loop()
    for number in range(clients):
        _, stream = await loop.create_connection(lambda: Stream("/api/v1/events", lags_s, sizes), "127.0.0.1", port)
        began.append(stream)
        if number % _CONNECTED_AT_ONCE == 0:
            await stream.has_begun
    await asyncio.gather(*(stream.has_begun for stream in began))
    await asyncio.sleep(2.0)  # all have the same event now
    lags_s.clear()
    sizes.clear()
    sys.stdout.write("connected\n")
    sys.stdout.flush()
    await asyncio.sleep(seconds)
    lags_s.sort()
    count = len(lags_s)
    if not count:
        raise SystemExit("no event came")
    return Lags(count, sum(sizes) / count, 1000 * lags_s[count // 2], 1000 * lags_s[int(count * 0.99)])


async def requests(url: str, at_once: int, seconds: float) -> float:
    """Answers per second to that many connections, each of which asks again when it has its answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    question = f"GET {parts.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    until = time.monotonic() + seconds

    async def ask(host: str, port: int) -> int:
        reader, writer = await asyncio.open_connection(host, port)
        count = 0
        while time.monotonic() < until:
            writer.write(question)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise SystemExit(f"{url}: {head[:100]!r}")
            await reader.readexactly(int(length[1]))
            count += 1
        writer.close()
        return count

    began = time.monotonic()
    counts = await asyncio.gather(*(ask(parts.hostname, parts.port) for _ in range(at_once)))
    return sum(counts) / (time.monotonic() - began)


def main(words: Sequence[str]) -> None:
    """Run one of the two, and print what it returns."""
    what, where, number, seconds = words
    if what == "streams":
        print(json.dumps(asdict(asyncio.run(streams(int(where), int(number), float(seconds))))))
    else:
        print(asyncio.run(requests(where, int(number), float(seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])
