"""Sends a job's progress, metrics and notes to the ledger in a separate thread: the work never waits for the network.

Of progress and metrics only the newest counts, so one that was not sent yet is replaced. Sentences for the history are
kept in order until they are sent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from tasks.jobs.record import MetricPoint, Progress
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.system.resilient_loop import Rounds

log = logging.getLogger("mistudio.job")

#: How long it pauses after Redis could not be reached.
_PAUSE_S = 0.5

Message = Callable[[Ledger], str]


class Reporter(threading.Thread):
    """Sends for one claim, on a ledger of its own; `on_lost` is called, there, once the lease is another's."""

    def __init__(self, ledger: Ledger, claim: Claim, on_lost: Callable[[], None]) -> None:
        super().__init__(name=f"reports-{claim.job.id}", daemon=True)
        self._ledger, self._claim, self._on_lost = ledger, claim, on_lost
        self._changed = threading.Condition()
        self._progress: Progress | None = None
        self._point: MetricPoint | None = None
        self._notes: dict[int, str] = {}  # by the order in which they came
        self._came = 0
        self._rounds = Rounds("the reports of a job", log)
        self._is_over = self._is_lost = False

    def report(self, progress: Progress, point: MetricPoint | None) -> None:
        """Send this, in place of what was not sent yet; `point` is what was measured since the last report."""
        with self._changed:
            self._progress, self._point = progress, point or self._point
            self._changed.notify()

    def note(self, sentence: str) -> None:
        """Send this sentence after all that came before it."""
        with self._changed:
            self._came += 1
            self._notes[self._came] = sentence
            self._changed.notify()

    def close(self) -> list[Message]:
        """End the thread; what it has not sent, in order, to be sent before the job's end is recorded."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self.is_alive():
            self.join()
        self._ledger.close()
        return [] if self._is_lost else self._unsent()

    def run(self) -> None:
        """Send what there is to send, until it is closed."""
        while self._wait_for_something() and not self._is_lost:
            with self._rounds.guarded():
                self._send_all()
            if self._rounds.in_a_row:
                self._pause()

    def _send_all(self) -> None:
        try:
            for message in self._unsent():
                if message(self._ledger) == "lost":
                    self._is_lost = True
                    self._on_lost()
                    return
        except Unreachable as error:
            log.warning("how far the work is could not be reported, it continues: %s", error)
            self._pause()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, _PAUSE_S)

    def _wait_for_something(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._notes or self._progress)
            return not self._is_over

    def _unsent(self) -> list[Message]:
        with self._changed:
            notes: list[Message] = [partial(self._send_note, number) for number in self._notes]
            return [*notes, self._send_progress] if self._progress else notes

    def _send_note(self, number: int, ledger: Ledger) -> str:
        status = self._unless_refused(ledger.note, self._claim, self._notes[number])
        with self._changed:
            del self._notes[number]
        return status

    def _send_progress(self, ledger: Ledger) -> str:
        """Send the newest, which may have come after the one that this was to send."""
        with self._changed:
            progress, point = self._progress, self._point
        if progress is None:
            return "ok"
        status = self._unless_refused(ledger.report, self._claim, progress, point)
        with self._changed:
            if self._progress is progress:
                self._progress = None
            if self._point is point:
                self._point = None
        return status

    @staticmethod
    def _unless_refused(send: Callable[..., str], *what: object) -> str:
        """The ledger's answer; what Redis refuses for good is only in this log, and holds up nothing behind it."""
        try:
            return send(*what)
        except Refused as error:
            log.warning("only this log has %s: %s", what[1], error)
            return "ok"
