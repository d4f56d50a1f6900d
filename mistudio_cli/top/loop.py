"""The loop of the live screen: keys, signals, readings and the time each lead to the next frame."""

from __future__ import annotations

import queue
import select
import signal
import threading
import time
from contextlib import suppress

from mistudio_cli.top.actions import Actions
from mistudio_cli.top.controller import Controller
from mistudio_cli.top.details.lines import Details
from mistudio_cli.top.details.reader import DetailsReader, OpenDetails
from mistudio_cli.top.frame.paint import Frame, paint
from mistudio_cli.top.reading import Parts, Reader
from mistudio_cli.top.tty.keys import Keys
from mistudio_cli.top.tty.screen import Screen
from mistudio_cli.top.tty.signals import ENDING, Signals
from mistudio_cli.top.tty.terminal import Terminal
from mistudio_cli.top.view import Question, View

#: An Esc that nothing follows for so long is the key of that name.
_ESC_S = 0.05


class Loop:
    """Owns the terminal; what is slow runs in threads that wake it."""

    reader: Reader
    open_details: OpenDetails

    def __init__(
        self, terminal: Terminal, signals: Signals, screen: Screen, view: View, actions: Actions, interval_s: float
    ) -> None:
        self._terminal, self._signals, self._screen, self._view = terminal, signals, screen, view
        self._interval_s = interval_s
        self._controller = Controller(self._view, self, actions)
        self._keys = Keys()
        self._outcomes: queue.SimpleQueue[str | Details] = queue.SimpleQueue()
        self._details: DetailsReader | None = None
        self._frozen: tuple[Parts, float] | None = None
        self._is_over = False
        self.ended_by: int | None = None

    def run(self) -> None:
        """Show frames until something ends it; the terminal is set up, and shows the first."""
        self.reader.start()
        while not self._is_over:
            self._wait()
            if self.reader.failure is not None:
                raise self.reader.failure
            if not self._is_over:
                self._paint()

    def stop(self) -> None:
        """Read no more."""
        self.reader.stop()
        self.close()

    # -- what keys ask for ------------------------------------------------------------------------------------

    def quit(self) -> None:
        """See `controller.Host`."""
        self._is_over = True

    def redraw(self) -> None:
        """See `controller.Host`."""
        self._screen.forget()

    def freeze(self) -> None:
        """See `controller.Host`."""
        clock = time.monotonic()
        self._frozen = None if self._frozen else (self.reader.parts.at(clock, self._interval_s), clock)

    def open(self, pane: str, row: str) -> None:
        """See `controller.Host`."""
        self._view.details = Details(pane, row, row)
        read = self.open_details()
        self._details = DetailsReader(lambda: read(pane, row, self._parts()), self._post, self._interval_s)
        self._details.start()

    def close(self) -> None:
        """See `controller.Host`."""
        if self._details is not None:
            self._details.stop()
        self._details = None

    def perform(self, question: Question) -> None:
        """See `controller.Host`."""
        threading.Thread(target=lambda: self._post(question.act()), daemon=True).start()

    def _post(self, outcome: str | Details) -> None:
        self._outcomes.put(outcome)
        self._signals.wake()

    # -- one round ------------------------------------------------------------------------------------------------

    def _parts(self) -> Parts:
        return self._frozen[0] if self._frozen else self.reader.parts.at(time.monotonic(), self._interval_s)

    def _paint(self) -> None:
        view = self._view
        view.frozen_s = time.monotonic() - self._frozen[1] if self._frozen else None
        parts = self._parts()
        frame = paint(parts, *self._terminal.size(), view)
        self._terminal.write(self._screen.changes(frame.lines))
        self._take_over(frame)
        self._controller.parts, self._controller.frame = parts, frame

    def _take_over(self, frame: Frame) -> None:
        """Keep what the frame has measured: widths and offsets do not jump, and rows keep their selection."""
        self._view.widths = frame.widths
        self._view.offset, self._view.selected = dict(frame.offset), dict(frame.selected)

    def _wait(self) -> None:
        """Until there is something to do, but at most an interval and a half: ages grow even if nothing is read."""
        sources = [self._signals.wake_read, *([] if self._terminal.keys is None else [self._terminal.keys])]
        patience = _ESC_S if self._keys.is_waiting else max(0.5, 1.5 * self._interval_s)
        ready, _, _ = select.select(sources, [], [], patience)
        if self._signals.wake_read in ready:
            self._signals.drain()
        self._take_signals()
        self._take_outcomes()
        if self._terminal.keys in ready and not self._is_over and self._terminal.has_keys():
            self._take_keys()
        elif not ready and self._keys.is_waiting:
            self._press(self._keys.flush())

    def _take_keys(self) -> None:
        chunk = self._terminal.read()
        if not chunk:
            self._is_over = True  # the terminal is gone
        self._press(self._keys.feed(chunk))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self._controller.press(key)
            if not self._is_over and len(keys) > 1 and self._view.typing is None:
                self._paint()  # the next key starts from what this one has changed

    def _take_outcomes(self) -> None:
        with suppress(queue.Empty):
            while True:
                outcome = self._outcomes.get_nowait()
                if isinstance(outcome, str):
                    self._view.message = outcome
                    self.reader.read_now()
                elif (shown := self._view.details) is not None and (shown.pane, shown.id) == (outcome.pane, outcome.id):
                    self._view.details = outcome

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if number in ENDING:
                self.ended_by, self._is_over = number, True
            elif number == signal.SIGINT:
                self._screen.forget()  # Ctrl-C has thrown away what the terminal had not shown yet
                self._press(["ctrl-c"])
            elif number == signal.SIGTSTP:
                self._terminal.leave()
                self._signals.suspend()
                self._resume()
            elif number == signal.SIGCONT:
                self._resume()
            elif number == signal.SIGWINCH:
                self._view.widths = {}
                self._screen.forget()

    def _resume(self) -> None:
        """Set up again what the shell has changed meanwhile."""
        self._terminal.enter()
        self._screen.forget()
        self._view.widths = {}
