"""The live view: reads everything twice a second beside the terminal, paints what fits, and hears `q`."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mistudio_cli.monitor.device_holders import holders_of, other_processes_of
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.terminal import humanize, output
from mistudio_cli.terminal.layout import fitting, lay_out
from mistudio_cli.views import host_tables, tables

READ_EVERY_S = 0.5

_END_OF_FILE = b"\x04"
_QUIT_KEYS = frozenset(b"qQ\x03" + _END_OF_FILE)
_STALE_S = 3.0
_FIRST_READ_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Watcher(threading.Thread):
    """Reads snapshots beside the terminal, so that a slow Redis does not make the keys slow."""

    def __init__(self, read: Callable[[], Snapshot]) -> None:
        super().__init__(name="watcher", daemon=True)
        self.latest = Snapshot()
        self.read_at = time.monotonic()
        self.first = threading.Event()
        self.failure: Exception | None = None
        self._read = read
        self._done = threading.Event()

    def run(self) -> None:
        """Read until told to stop."""
        while not self._done.is_set():
            began = time.monotonic()
            try:
                self.latest = self._read()
            except Exception as error:  # noqa: BLE001 - handed to the thread that owns the terminal
                self.failure = error
                return
            finally:
                self.first.set()
            self.read_at = time.monotonic()
            self._done.wait(max(0.0, READ_EVERY_S - (self.read_at - began)))

    def stop(self) -> None:
        """Read no more."""
        self._done.set()


def show(read: Callable[[], Snapshot]) -> None:
    """Paint what `read` tells until `q` or Ctrl-C. Needs a terminal, and gives it back as it was.

    Raises SystemExit when a signal ended it, and what `read` raised.
    """
    watcher = Watcher(read)
    watcher.start()
    watcher.first.wait(_FIRST_READ_S)
    with _signals() as received:
        try:
            _show(watcher, received)
        except KeyboardInterrupt:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise  # that one: the terminal went away with its window, and there is nothing to give back
        finally:
            watcher.stop()
        if received:
            raise SystemExit(128 + received[0])


def _show(watcher: Watcher, received: list[int]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while not received and not _QUIT_KEYS.intersection(pressed):
            if watcher.failure:
                raise watcher.failure
            width, height = console.size
            age = time.monotonic() - watcher.read_at
            lines = paint(watcher.latest, age, width, height, colour=output.in_colour(sys.stdout))
            live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            pressed = _next_keys()


def paint(seen: Snapshot, age_s: float, width: int, height: int, *, colour: bool) -> list[str]:
    """The lines of the view, at most `height`; only rows that are seen are laid out."""
    now = seen.read_at or time.time()
    lines = [_first_line(seen, age_s)]
    lines += [f"! {trouble.part}: {humanize.one_line(trouble.message)}" for trouble in seen.errors]
    blocks = [tables.queues(seen.queues) if seen.queues is not None else None]
    blocks += [tables.workers(seen.workers, now) if seen.workers else None]
    blocks += [devices_table(seen) if seen.devices is not None and seen.devices.devices else None]
    for block in filter(None, blocks):
        lines += ["", *_lay_out(block, width, colour)]
    if seen.devices is not None and (limit := seen.devices.limit or seen.devices.reason):
        lines += ["", f"GPU: {limit}"]
    for block in _other_hosts(seen):
        lines += ["", *_lay_out(block, width, colour)]
    if seen.jobs:
        room = max(1, height - len(lines) - 3)
        shown = tables.live_jobs(tables.most_alive_first(seen.jobs)[:room], now)
        lines += ["", *_lay_out(shown, width, colour)]
        # Not how many: the view has only read the newest.
        lines += ["… more: mistudio jobs ls"] if len(seen.jobs) > room or seen.next else []
    return lines[:height]


def _other_hosts(seen: Snapshot) -> list[tables.Table]:
    """The hosts and the GPUs of the others, where there are others."""
    here = socket.gethostname()
    if all(row.name == here for row in seen.hosts or ()):
        return []
    blocks = [host_tables.hosts(seen.hosts or ()), host_tables.remote_gpus(seen.hosts or (), seen.leases, here)]
    return [block for block in blocks if block[1]]


def _lay_out(table: tables.Table, width: int, colour: bool) -> list[str]:
    """The lines of a table, without as many of its dispensable columns as it takes to fit."""
    return lay_out(*fitting(*table, width), width, colour).splitlines()


def devices_table(seen: Snapshot) -> tables.Table:
    """The accelerators with the jobs and the other processes on them."""
    cards = seen.devices.devices if seen.devices else ()
    holders = {card.key: holders_of(card, seen.leases) for card in cards}
    return tables.devices(cards, holders, {card.key: other_processes_of(card) for card in cards})


def _first_line(seen: Snapshot, age_s: float) -> str:
    stale = f"  (read {age_s:.0f} s ago)" if age_s > _STALE_S else ""
    return f"q: quit{stale}  " + (tables.host(seen.host) if seen.host else "reading …")


@contextmanager
def _keys() -> Iterator[bytes]:
    """Hear single keys without their being shown; gives back the terminal as it was."""
    if not sys.stdin.isatty():
        yield b""
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield b""
    finally:
        with suppress(termios.error):  # its window is closed
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that want the command to end, as they come: the terminal must be given back before it does."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in _ENDING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next_keys() -> bytes:
    """Keys pressed until it is time to paint again."""
    if not sys.stdin.isatty():
        time.sleep(READ_EVERY_S)
        return b""
    ready, _, _ = select.select([sys.stdin], [], [], READ_EVERY_S)
    return (os.read(sys.stdin.fileno(), 64) or _END_OF_FILE) if ready else b""
