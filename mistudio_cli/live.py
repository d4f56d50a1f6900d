"""The live view: reads everything twice a second beside the terminal, paints what fits, and hears `q`."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mistudio_cli import output, shapes, tables
from mistudio_cli.snapshot import Snapshot

READ_EVERY_S = 0.5

_QUIT_KEYS = frozenset(b"qQ\x03\x04")
_STALE_S = 3.0
_FIRST_READ_S = 1.0


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
    """Paint what `read` tells until `q` or Ctrl-C. Needs a terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    watcher = Watcher(read)
    watcher.start()
    watcher.first.wait(_FIRST_READ_S)
    console = Console()
    try:
        with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while not _QUIT_KEYS.intersection(pressed):
                if watcher.failure:
                    raise watcher.failure
                width, height = console.size
                age = time.monotonic() - watcher.read_at
                colour = output.in_colour(sys.stdout)
                lines = paint(watcher.latest, age, width, height, colour=colour)
                live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
                pressed = _next_keys()
    except KeyboardInterrupt:
        return
    finally:
        watcher.stop()


def paint(seen: Snapshot, age_s: float, width: int, height: int, *, colour: bool) -> list[str]:
    """The lines of the view, at most `height`; only rows that are seen are laid out."""
    now = seen.read_at or time.time()
    lines = [_first_line(seen, age_s)]
    lines += [f"! {trouble.part}: {tables.one_line(trouble.message)}" for trouble in seen.errors]
    blocks = [tables.queues(seen.queues)] if seen.queues is not None else []
    blocks += [tables.workers(seen.workers, now)] if seen.workers else []
    if seen.devices is not None and seen.devices.devices:
        blocks.append(devices_table(seen))
    for headers, rows in blocks:
        lines += ["", *output.lay_out(headers, rows, width, colour).splitlines()]
    if seen.devices is not None and seen.devices.reason:
        lines += ["", f"GPU: {seen.devices.reason}"]
    if seen.jobs:
        room = max(1, height - len(lines) - 3)
        headers, rows = tables.live_jobs(tables.most_alive_first(seen.jobs)[:room], now)
        lines += ["", *output.lay_out(headers, rows, width, colour).splitlines()]
        lines += [f"… {len(seen.jobs) - room} more: mistudio jobs ls"] if len(seen.jobs) > room else []
    return lines[:height]


def devices_table(seen: Snapshot) -> tables.Table:
    """The accelerators with the jobs on them."""
    cards = seen.devices.devices if seen.devices else ()
    return tables.devices(cards, {c.index: ", ".join(job.id for job in shapes.holders(seen, c)) for c in cards})


def _first_line(seen: Snapshot, age_s: float) -> str:
    stale = f"  (read {age_s:.0f} s ago)" if age_s > _STALE_S else ""
    return (tables.host(seen.host) if seen.host else "reading …") + stale + "  q: quit"


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
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _next_keys() -> bytes:
    """Keys pressed until it is time to paint again."""
    if not sys.stdin.isatty():
        time.sleep(READ_EVERY_S)
        return b""
    ready, _, _ = select.select([sys.stdin], [], [], READ_EVERY_S)
    return os.read(sys.stdin.fileno(), 64) if ready else b""
