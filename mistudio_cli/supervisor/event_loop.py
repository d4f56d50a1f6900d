"""The loop of the supervisor's daemon: one thread that handles requests, deaths, signals and the clock.

It listens on the home's socket; what to do it leaves to the desk it was given.
"""

from __future__ import annotations

import json
import logging
import selectors
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from mistudio_cli.supervisor.lock_and_socket import Door
from tasks.errors import UserError
from tasks.system.resilient_loop import Rounds

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
        """Stop in good order, after a signal."""


def serve(door: Door, desk: Desk) -> None:
    """Run the loop until the desk has ended."""
    assert door.listener is not None
    rounds = Rounds("a look at the supervisor's files", log)
    with selectors.DefaultSelector() as selector, _signals_received(desk) as wake:
        selector.register(door.listener, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        desk.tick()
        while not desk.ended:
            for key, _ in selector.select(desk.patience_s):
                if key.fileobj is door.listener:
                    _accept(door.listener, selector)
                elif key.fileobj is wake:
                    wake.recv(_CHUNK)
                else:
                    _receive(key, selector, desk)
            desk.tick()
            with rounds.guarded():
                _repair(door, selector)


def _repair(door: Door, selector: selectors.BaseSelector) -> None:
    before = door.listener
    if door.repair() and door.listener is not None:
        if before is not None:
            selector.unregister(before)
        selector.register(door.listener, selectors.EVENT_READ)


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    try:
        link, _ = listener.accept()
    except OSError:
        return
    link.setblocking(False)
    selector.register(link, selectors.EVENT_READ, bytearray())


def _receive(key: selectors.SelectorKey, selector: selectors.BaseSelector, desk: Desk) -> None:
    """Take what a client sent; once that is a whole line, answer it and hang up."""
    link, received = key.fileobj, key.data
    assert isinstance(link, socket.socket)
    try:
        chunk = link.recv(_CHUNK)
    except OSError:
        chunk = b""
    received += chunk
    if chunk and b"\n" not in chunk and len(received) <= REQUEST_BYTES:
        return
    selector.unregister(link)
    with link:
        if chunk and len(received) <= REQUEST_BYTES:
            _reply(link, bytes(received), desk)


def _reply(link: socket.socket, line: bytes, desk: Desk) -> None:
    try:
        reply = desk.answer(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
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
def _signals_received(desk: Desk) -> Iterator[socket.socket]:
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
