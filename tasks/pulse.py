"""What a worker does once a second beside consuming: says that it lives, mends what others lost, watches its parent."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready
from celery.worker import state as celery_state

from tasks.app import open_ledger
from tasks.ledger import WorkerBeat
from tasks.lifeline import wake_when_parent_dies
from tasks.reconciler import Reconciler
from tasks.seat import Seat
from tasks.stuck import StoppedSlots
from tasks.wire import Unreachable

log = logging.getLogger("mistudio.worker")

BEAT_EVERY_S, LOOK_AT_SLOTS_EVERY_S = 1.0, 5.0


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
        self._stopped_slots, self._look_at_slots_at = StoppedSlots(), 0.0
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin; the first beat waits until the worker consumes."""
        self._ledger = open_ledger(parent.app)
        self._reconciler = Reconciler(open_ledger(parent.app, rings=True))
        worker_ready.connect(self._on_ready)
        self._timer = parent.timer.call_repeatedly(BEAT_EVERY_S, self._tick)

    def _give_up_stopped_slots(self) -> None:
        if time.monotonic() >= self._look_at_slots_at:
            self._look_at_slots_at = time.monotonic() + LOOK_AT_SLOTS_EVERY_S
            for told in self._stopped_slots.kill():
                log.warning(told)

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
        if not self._ready or celery_state.should_stop is not None:
            return
        try:
            self._ledger.beat(self._beat)
            self._reconciler.round()
            self._give_up_stopped_slots()
        except Unreachable:
            log.warning("Redis is away; trying again")
