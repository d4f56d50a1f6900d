"""A TCP proxy before a test's Redis, which can misbehave, and can speak TLS towards its clients."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HTTP = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy(threading.Thread):
    """Listens on the loopback and passes all on to a unix socket while `answer` is None.

    Otherwise connections are cut, and each new one gets `answer` instead, whatever it sends. What the server says
    arrives `delay_s` later.
    """

    def __init__(self, target: Path, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self._target, self._tls, self._answer = target, tls, None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._links: set[socket.socket] = set()
        self.refused = 0
        self.delay_s = 0.0

    def misbehave(self, answer: bytes) -> None:
        """Cut what is connected; whoever comes gets this."""
        self._answer = answer
        self.cut()

    def behave(self) -> None:
        """Pass all on again."""
        self._answer = None

    def cut(self) -> None:
        """End all connections."""
        for link in list(self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            if self._tls is not None:
                link = self._tls.wrap_socket(link, server_side=True)
        except OSError:
            self.refused += 1
            link.close()
            return
        with suppress(OSError), link:
            if self._answer is not None:
                link.recv(1 << 16)
                link.sendall(self._answer)
                return
            self._pass_on(link)

    def _pass_on(self, link: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._target))
            self._links.add(link)
            try:
                while True:
                    ready = _readable(link, server)
                    for source, sink in ((link, server), (server, link)):
                        if source in ready:
                            if not (chunk := source.recv(1 << 16)):
                                return
                            if source is server:
                                time.sleep(self.delay_s)
                            sink.sendall(chunk)
            finally:
                self._links.discard(link)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def _readable(link: socket.socket, server: socket.socket) -> list[socket.socket]:
    if isinstance(link, ssl.SSLSocket) and link.pending():
        return [link]
    return select.select([link, server], [], [])[0]


@contextmanager
def proxied(target: Path, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy while the block runs."""
    proxy = Proxy(target, tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
