"""What a worker does once a second beside consuming: says that it lives, mends what others lost, watches its parent."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready

from tasks.app import open_ledger
from tasks.ledger import WorkerBeat
from tasks.lifeline import wake_when_parent_dies
from tasks.reconciler import Reconciler
from tasks.seat import Seat
from tasks.stuck import told_to_end
from tasks.wire import Unreachable

log = logging.getLogger("mistudio.worker")

BEAT_EVERY_S = 1.0


class ParentWatch:
    """Whoever started this process; if it is stopped it wakes when they die, to see that they did.

    A supervisor says who it is: it may have died before this process could look.
    """

    def __init__(self) -> None:
        self._pid = int(os.environ.get("MISTUDIO_SUPERVISOR") or os.getppid())
        wake_when_parent_dies()

    def lives(self) -> bool:
        """Whether they are still there."""
        return os.getppid() == self._pid


class Pulse(bootsteps.StartStopStep):
    """Once a second, in the worker's own loop: say that it lives, mend what was lost, watch the parent."""

    #: What is required is stopped afterwards: the seat is given up before the pool waits for its last jobs.
    requires = frozenset({"celery.worker.components:Timer", "celery.worker.components:Pool"})

    def __init__(self, parent: Any, beat_of: WorkerBeat, seat: Seat, parent_watch: ParentWatch, **options: Any) -> None:
        super().__init__(parent, **options)
        self._beat, self._seat, self._parent_watch = beat_of, seat, parent_watch
        self._ready = self._draining = False
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin; the first beat waits until the worker consumes."""
        self._ledger = open_ledger(parent.app)
        self._reconciler = Reconciler(open_ledger(parent.app, rings=True))
        worker_ready.connect(self._on_ready)
        self._timer = parent.timer.call_repeatedly(BEAT_EVERY_S, self._tick)

    def stop(self, parent: Any) -> None:
        """End; the worker is no consumer any more, though jobs may still run."""
        self._seat.rise()
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._ledger.forget_worker(self._beat.name)
        except Unreachable:
            log.warning("Redis is away; this worker's last beat will fade by itself")

    def terminate(self, parent: Any) -> None:
        """End in a cold shutdown: the same."""
        self.stop(parent)

    def _on_ready(self, **_: Any) -> None:
        self._ready = True
        self._tick()

    def _tick(self) -> None:
        if not self._draining and not self._parent_watch.lives():
            log.warning("whoever started this worker is gone: draining")
            self._draining = True
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._ready or told_to_end():
            return
        try:
            self._ledger.beat(self._beat)
            self._reconciler.round()
        except Unreachable:
            log.warning("Redis is away; trying again")
