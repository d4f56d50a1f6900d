"""The loop of the supervisor's daemon: one thread that handles requests, deaths, signals and the clock.

It listens on the home's socket; what to do it leaves to the desk it was given. While the desk waits for Redis, requests
that only read are answered.
"""

from __future__ import annotations

import json
import logging
import selectors
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from mistudio_cli.supervisor.lock_and_socket import Door
from tasks.errors import UserError
from tasks.system.resilient_loop import Rounds

log = logging.getLogger("mistudio.supervisor")

T = TypeVar("T")

#: The exit code when another supervisor keeps this home already.
HOME_IS_TAKEN = 75

REQUEST_BYTES = 1 << 20

#: A reply of a few kilobytes fits into the socket's buffer; a client that does not read must not hold up the rest.
_REPLY_TIMEOUT_S = 1.0
_CHUNK = 1 << 16

#: What takes no longer, as nearly everything does, is waited for without listening.
_AT_ONCE_S = 0.02


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

    def only_reads(self, request: dict[str, Any]) -> bool:
        """Whether that request changes nothing and is answered at once."""

    def end(self) -> None:
        """Stop in good order, after a signal."""


class EventLoop:
    """The loop of one supervisor, which is `desk`."""

    def __init__(self, door: Door, desk: Desk) -> None:
        self._door, self._desk = door, desk
        self._selector: selectors.BaseSelector | None = None  # while it serves
        self._wake: socket.socket | None = None
        self._thread = ThreadPoolExecutor(1, "asks Redis")
        self._is_waiting = False
        self._held: list[tuple[socket.socket, bytes]] = []  # requests that wait until nothing is waited for

    def serve(self) -> None:
        """Run until the desk has ended."""
        rounds = Rounds("a look at the supervisor's files", log)
        with selectors.DefaultSelector() as self._selector, _signals_received(self._desk) as self._wake:
            assert self._door.listener is not None
            self._selector.register(self._door.listener, selectors.EVENT_READ)
            self._selector.register(self._wake, selectors.EVENT_READ)
            self._desk.tick()
            while not self._desk.ended:
                events = self._selector.select(0 if self._held else self._desk.patience_s)
                self._answer_held()
                self._handle(events)
                self._desk.tick()
                with rounds.guarded():
                    self._repair(self._selector)
            self._answer_held()
        self._selector = self._wake = None

    def run_apart(self, question: Callable[[], T]) -> T:
        """What that returns or raises, on a thread: meanwhile requests that only read are answered."""
        if self._selector is None:
            return question()
        future = self._thread.submit(question)
        wait([future], _AT_ONCE_S)
        if not future.done():
            self._answer_readers_until(future)
        return future.result()

    def _answer_readers_until(self, future: Future[Any]) -> None:
        """Answer what only reads until that is done; signals and other requests are left for the loop."""
        assert self._selector is not None
        assert self._wake is not None
        done, finish = socket.socketpair()
        with done, finish:
            self._selector.unregister(self._wake)
            self._selector.register(done, selectors.EVENT_READ)
            future.add_done_callback(lambda _: finish.sendall(b"."))
            self._is_waiting, is_done = True, False
            while not is_done:
                events = self._selector.select()
                self._handle(events)
                is_done = any(key.fileobj is done for key, _ in events)
            self._is_waiting = False
            self._selector.unregister(done)
            self._selector.register(self._wake, selectors.EVENT_READ)

    def _handle(self, events: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        """Handle each event, but for those that were handled while an earlier one waited for Redis."""
        assert self._selector is not None
        for key, _ in events:
            if self._selector.get_map().get(key.fd) is not key:
                continue
            if key.fileobj is self._door.listener:
                self._accept()
            elif key.fileobj is self._wake and self._wake is not None:
                self._wake.recv(_CHUNK)
            elif key.data is not None:
                self._receive(key)

    def _repair(self, selector: selectors.BaseSelector) -> None:
        before = self._door.listener
        if self._door.repair() and self._door.listener is not None:
            if before is not None:
                selector.unregister(before)
            selector.register(self._door.listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        assert self._door.listener is not None
        assert self._selector is not None
        try:
            link, _ = self._door.listener.accept()
        except OSError:
            return
        link.setblocking(False)
        self._selector.register(link, selectors.EVENT_READ, bytearray())

    def _receive(self, key: selectors.SelectorKey) -> None:
        """Take what a client sent; once that is a whole line, answer it and hang up."""
        link, received = key.fileobj, key.data
        assert isinstance(link, socket.socket)
        assert self._selector is not None
        try:
            chunk = link.recv(_CHUNK)
        except OSError:
            chunk = b""
        received += chunk
        if chunk and b"\n" not in chunk and len(received) <= REQUEST_BYTES:
            return
        self._selector.unregister(link)
        if not chunk or len(received) > REQUEST_BYTES:
            link.close()
        elif self._is_waiting and not _only_reads(bytes(received), self._desk):
            self._held.append((link, bytes(received)))
        else:
            _reply(link, bytes(received), self._desk)

    def _answer_held(self) -> None:
        held, self._held = self._held, []
        for link, line in held:
            _reply(link, line, self._desk)


def _only_reads(line: bytes, desk: Desk) -> bool:
    try:
        request = json.loads(line)
    except ValueError:
        return False
    return isinstance(request, dict) and desk.only_reads(request)


def _reply(link: socket.socket, line: bytes, desk: Desk) -> None:
    """Answer a request, and hang up."""
    try:
        reply = desk.answer(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reply = {"error": f"the request cannot be answered: {error!r}"}
    except Exception as error:  # no request may end the daemon that keeps a home
        log.exception("a request could not be answered")
        reply = {"error": f"the request cannot be answered: {error!r}"}
    with link:
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
