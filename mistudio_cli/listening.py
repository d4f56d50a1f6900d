"""The loop of the supervisor's daemon: one thread that hears requests, deaths, signals and the clock.

It holds the home's lock and the unix socket; what to do it leaves to the desk it was given.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import selectors
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

from tasks.places import Places
from tasks.problem import Problem

log = logging.getLogger("mistudio.supervisor")

#: The exit code when another supervisor keeps this home already.
HOME_IS_TAKEN = 75

REQUEST_BYTES = 1 << 20

#: A reply of a few kilobytes fits into the socket's buffer; a client that does not read must not hold up the rest.
_REPLY_TIMEOUT_S = 1.0
_CHUNK = 1 << 16


class Desk(Protocol):
    """What the loop serves."""

    @property
    def patience_s(self) -> float:
        """How long it may sleep until the next tick."""

    @property
    def ended(self) -> bool:
        """Whether the loop may end."""

    def tick(self) -> None:
        """Take every step that is due."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request."""

    def end(self) -> None:
        """A signal told it to end in good order."""


def lock_home(places: Places) -> IO[bytes] | None:
    """The lock of this home, held until it is closed; None when another supervisor holds it."""
    lock = (places.run / "supervisor.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def listen(places: Places) -> socket.socket:
    """The socket at which this home's supervisor hears, for its owner alone. Needs the home's lock."""
    places.supervisor_socket.unlink(missing_ok=True)  # of a supervisor that was killed
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(places.supervisor_socket))
    finally:
        os.umask(mask)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def serve(listener: socket.socket, desk: Desk) -> None:
    """Run the loop until the desk has ended."""
    with selectors.DefaultSelector() as selector, _signals_heard(desk) as wake:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        desk.tick()
        while not desk.ended:
            for key, _ in selector.select(desk.patience_s):
                if key.fileobj is listener:
                    _accept(listener, selector)
                elif key.fileobj is wake:
                    wake.recv(_CHUNK)
                else:
                    _hear(key, selector, desk)
            desk.tick()


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    try:
        link, _ = listener.accept()
    except OSError:
        return
    link.setblocking(False)
    selector.register(link, selectors.EVENT_READ, bytearray())


def _hear(key: selectors.SelectorKey, selector: selectors.BaseSelector, desk: Desk) -> None:
    """Take what a client sent; once that is a whole line, answer it and hang up."""
    link, heard = key.fileobj, key.data
    assert isinstance(link, socket.socket)
    try:
        chunk = link.recv(_CHUNK)
    except OSError:
        chunk = b""
    heard += chunk
    if chunk and b"\n" not in chunk and len(heard) <= REQUEST_BYTES:
        return
    selector.unregister(link)
    with link:
        if chunk and len(heard) <= REQUEST_BYTES:
            _reply(link, bytes(heard), desk)


def _reply(link: socket.socket, line: bytes, desk: Desk) -> None:
    try:
        reply = desk.answer(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, Problem) as error:
        reply = {"error": f"the request cannot be answered: {error!r}"}
    except Exception as error:  # no request may end the daemon that keeps a home
        log.exception("a request could not be answered")
        reply = {"error": f"the request cannot be answered: {error!r}"}
    try:
        link.settimeout(_REPLY_TIMEOUT_S)
        link.sendall(json.dumps(reply).encode() + b"\n")
    except OSError as error:
        log.info("a client did not wait for its answer: %s", error)


@contextmanager
def _signals_heard(desk: Desk) -> Iterator[socket.socket]:
    """A socket that becomes readable with each signal: handlers only set flags.

    Each has a handler rather than being ignored, so that workers start with the system's own defaults.
    """
    ear, mouth = socket.socketpair()
    with ear, mouth:
        ear.setblocking(False)
        mouth.setblocking(False)
        signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, lambda *_: desk.end())
        yield ear
        signal.set_wakeup_fd(-1)
