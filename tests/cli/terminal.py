"""A terminal with a command in it: what it writes, what is on its screen, and its signals."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pexpect
import pyte
import pytest

from tests.cli.conftest import MISTUDIO, Cli
from tests.conftest import PATIENCE_S


class Terminal:
    """A terminal with a command in it, and what can be read on its screen."""

    def __init__(self, cli: Cli, command: str, words: list[str], rows: int, columns: int, more: dict[str, str]) -> None:
        environment = cli.environment | {"TERM": "xterm-256color"} | more
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.bytes = b""
        self.child = pexpect.spawn(command, words, env=environment, dimensions=(rows, columns), timeout=PATIENCE_S)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def until(self, what: str | Callable[[], object]) -> None:
        """Read the screen until it shows that, or until that is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not (what in self.text if isinstance(what, str) else what()):
            assert time.monotonic() < deadline, f"waited in vain for {what!r}:\n{self.text}"
            self.read()

    def gone(self, what: str) -> None:
        """Read the screen until it does not show that any more."""
        self.until(lambda: what not in self.text)

    def read(self) -> None:
        try:
            chunk = self.child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            pytest.fail(f"it ended:\n{self.text}")
        self.bytes += chunk
        self.stream.feed(chunk)

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def resize(self, rows: int, columns: int) -> None:
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def end(self) -> int | None:
        """What comes until the command has ended; its exit code."""
        self.bytes += self.child.read()
        self.child.close()
        return self.child.exitstatus


@contextmanager
def terminal(
    cli: Cli, *words: str, command: str = MISTUDIO, rows: int = 40, columns: int = 120, **environment: str
) -> Iterator[Terminal]:
    shown = Terminal(cli, command, list(words), rows, columns, environment)
    try:
        yield shown
    finally:
        if not shown.child.closed and shown.child.isalive():
            shown.child.kill(signal.SIGKILL)  # pexpect itself gives up after tenths of a second
            shown.child.wait()
        shown.child.close(force=True)
