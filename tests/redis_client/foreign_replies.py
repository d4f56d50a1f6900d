"""Answers that no Redis gives: what the wire client must survive, by hand and at random."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import PATIENCE_S

BY_HAND: dict[str, bytes] = {
    "a web server": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "mail": b"220 mail.example.org ESMTP\r\n",
    "memcached": b"ERROR\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x0a",
    "mysql": b"\x4a\x00\x00\x00\x0a8.0.36\x00",
    "nothing": b"",
    "cut in a length": b"$1",
    "cut in a text": b"$100\r\nabc",
    "cut in a list": b"*3\r\n:1\r\n",
    "zeros": b"\0" * 1000,
    "a line without end": b"+" + b"x" * 100_000,
    "deep": b"*1\r\n" * 100_000 + b":1\r\n",
    "a huge list": b"*2147483647\r\n:1\r\n",
    "a huge list in a list": b"*1\r\n*4294967295\r\n:1\r\n",
    "a huge list after a number": b"*2\r\n:1\r\n*999999999\r\n",
    "a huge text": b"$9223372036854775807\r\n",
    "a negative length": b"$-5\r\n",
    "a number too large": b":99999999999999999999\r\n",
    "RESP3: false": b"#f\r\n",
    "RESP3: true": b"#t\r\n",
    "RESP3: a map": b"%1\r\n+a\r\n+b\r\n",
    "RESP3: a map with a list as a key": b"%1\r\n*1\r\n+a\r\n+b\r\n",
    "RESP3: a double": b",nan\r\n",
    "RESP3: an attribute": b"|1\r\n+a\r\n+b\r\n+OK\r\n",
    "RESP3: pushes without end": b">2\r\n+a\r\n+b\r\n" * 5000,
    "two replies": b"+OK\r\n+OK\r\n",
    "an error in a list": b"*2\r\n:1\r\n*1\r\n-ERR inner\r\n",
    "text that is not UTF-8": b"$3\r\n\xff\xfe\xfd\r\n",
}

_PIECES = (
    *(b"+OK\r\n", b"-ERR no\r\n", b"-READONLY no\r\n", b":1\r\n", b"$3\r\nabc\r\n", b"$-1\r\n", b"*2\r\n", b"*-1\r\n"),
    *(b"%1\r\n", b"~2\r\n", b">2\r\n", b"|1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(123\r\n", b"=7\r\ntxt:abc\r\n"),
    *(b"\r\n", b"*", b"$", b"\0", b"HTTP/1.1 503\r\n", b"*99999999\r\n", b"$99999999\r\n", b"*1\r\n" * 20),
)


def at_random(seed: int, count: int) -> Iterator[bytes]:
    """Byte strings: random ones, pieces of the protocol in a random order, and both cut somewhere."""
    rng = random.Random(seed)
    for number in range(count):
        pieces = b"".join(rng.choice(_PIECES) for _ in range(rng.randint(1, 8)))
        noise = rng.randbytes(rng.randint(0, 60))
        whole = (noise, pieces, pieces + noise, rng.choice(tuple(BY_HAND.values()))[:2000])[number % 4]
        yield whole[: rng.randint(0, len(whole))] if rng.random() < 0.4 else whole


class ForeignServer(threading.Thread):
    """Listens at a unix socket, greets as Redis does and answers what comes next with `answer`.

    Then it hangs up or, if it `stays`, says no more. With `greeting` None the answer comes at once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.answer, self.stays = b"", False
        self.greeting: bytes | None = b"+PONG\r\n"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._held: list[socket.socket] = []

    def run(self) -> None:
        with suppress(OSError):
            while True:
                self._serve(self._listener.accept()[0])

    def _serve(self, link: socket.socket) -> None:
        with suppress(OSError):
            link.recv(1 << 16)
            if self.greeting is not None:
                link.sendall(self.greeting)
                link.recv(1 << 16)
            link.sendall(self.answer)
        if self.stays:
            self._held.append(link)
        else:
            link.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.join(PATIENCE_S)
        for link in (self._listener, *self._held):
            link.close()


@contextmanager
def foreign_server_at(path: Path) -> Iterator[ForeignServer]:
    """One that answers there while the block runs."""
    answering = ForeignServer(path)
    answering.start()
    try:
        yield answering
    finally:
        answering.close()
