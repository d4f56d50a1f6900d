"""The live screen from its first frame to the last. What reads and paints is imported once the first frame is shown."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from mistudio_cli.top.frame.first_frame import first_frame
from mistudio_cli.top.tty.screen import Screen
from mistudio_cli.top.tty.signals import ENDING, Ended, Signals
from mistudio_cli.top.tty.terminal import Abilities, Terminal, look_of
from mistudio_cli.top.view import View

if TYPE_CHECKING:
    from mistudio_cli.monitor.snapshot import Snapshot
    from mistudio_cli.top.actions import Actions
    from mistudio_cli.top.details.reader import OpenDetails

#: Errors of writing to a terminal whose window is closed.
_GONE = (errno.EIO, errno.EPIPE, errno.ENXIO, errno.EBADF)


def show(
    read: Callable[[], Snapshot],
    open_details: OpenDetails,
    open_actions: Callable[[], Actions],
    able: Abilities,
    interval_s: float,
) -> None:
    """Show what `read` returns until `q` or Ctrl-C. Needs a terminal, and gives it back as it was.

    Raises SystemExit when a signal ended it, and what `read` raised.
    """
    signals = Signals()
    terminal = Terminal(able, signals.check)
    signals.is_writing = lambda: terminal.is_writing
    screen, view = Screen(look_of(able)), View(has_keys=terminal.keys is not None)

    def run() -> int | None:
        from mistudio_cli.top.loop import Loop
        from mistudio_cli.top.reading import Reader

        loop = Loop(terminal, signals, screen, view, open_actions(), interval_s)
        loop.reader = Reader(read, interval_s, signals.wake)
        loop.open_details = open_details
        try:
            loop.run()
        finally:
            loop.stop()
        return loop.ended_by

    ended_by: int | None = None
    with signals.installed():
        try:
            terminal.enter()
            terminal.write(screen.changes(first_frame(*terminal.size(), view)))
            ended_by = run()
        except Ended:
            ended_by = next((number for number in signals.take() if number in ENDING), signal.SIGTERM)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        finally:
            terminal.leave()
    if ended_by is not None:
        raise SystemExit(128 + ended_by)
