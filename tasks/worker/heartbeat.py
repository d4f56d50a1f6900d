"""A worker's heartbeat: once a second, in a thread of its own, whatever Celery's message loop waits for.

It carries when the message loop last ran, so that a worker that receives no messages differs from one that is gone.
The same thread maintains the ledger. What looks at the store's disk, which may hang, has a thread beside it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready

from tasks.fleet.clock_offset import ClockWatch
from tasks.ledger.client import Ledger
from tasks.ledger.maintenance import maintenance_from_environment
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.messaging.app import open_ledger
from tasks.messaging.held_messages import held
from tasks.messaging.remote_control import consumed
from tasks.messaging.reroute import bring_home
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage.store import Store
from tasks.system.call_deadline import within
from tasks.system.resilient_loop import Rounds
from tasks.worker.fleet_membership import StoreWatch, why_store_changed
from tasks.worker.orphans import clear_away_one
from tasks.worker.slot_locks import WorkerLock
from tasks.worker.watchdog import is_shutting_down
from tasks.worker.worker_name import WorkerName

log = logging.getLogger("mistudio.worker")

HEARTBEAT_EVERY_S = 1.0

#: One leftover is removed at every this many heartbeats.
_HEARTBEATS_PER_CLEARING = 10

#: How long the heartbeats wait for the store's disk, every tenth time.
_STORE_PATIENCE_S = 3.0

#: How long a worker that ends waits for its last call to Redis.
_LAST_CALL_S = 6.0


class Heartbeat(bootsteps.StartStopStep):
    """Begins with the worker's first message loop and ends with the worker."""

    #: What is required is stopped afterwards: the lock is given up before the pool waits for its last jobs.
    requires = frozenset({"celery.worker.components:Timer", "celery.worker.components:Pool"})

    def __init__(
        self, parent: Any, heartbeat_of: WorkerHeartbeat, name_of: WorkerName, worker_lock: WorkerLock, **options: Any
    ) -> None:
        super().__init__(parent, **options)
        self._heartbeat, self._name, self._worker_lock = heartbeat_of, name_of, worker_lock
        self._upkeep = maintenance_from_environment()
        self._store = Store(Places.from_environment().store)
        self._store_id: str | None = None
        self._ledger_beside: Ledger | None = None
        self._store_watch, self._clock_watch = StoreWatch(self._store.root), ClockWatch()
        self._heartbeats = 0
        self._rounds = Rounds("what is done each second", log)
        self._ready, self._is_over, self._loop_ran = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin; the first heartbeat waits until the worker consumes."""
        self._worker = parent
        self._ledger = open_ledger(parent.app)
        worker_ready.connect(self._on_ready)
        self._timer = parent.timer.call_repeatedly(HEARTBEAT_EVERY_S, self._loop_ran.set)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        """End; the worker is no consumer any more, though jobs may still run."""
        self._worker_lock.release()
        if self._timer is not None:
            self._timer.cancel()
        self._is_over.set()
        self._ready.set()
        self._thread.join(_LAST_CALL_S)

    def terminate(self, parent: Any) -> None:
        """End in a cold shutdown: the same."""
        self.stop(parent)

    def _on_ready(self, **_: Any) -> None:
        self._loop_ran.set()
        self._ready.set()

    def _run(self) -> None:
        self._ready.wait()
        while not self._is_over.is_set():
            if not is_shutting_down():
                with self._rounds.guarded():
                    self._send_and_maintain()
            self._is_over.wait(HEARTBEAT_EVERY_S)
        try:
            self._pass_on(held.all())
            self._name.forget(self._ledger, self._heartbeat.name)
        except (Unreachable, Refused):
            log.warning("Redis is away; this worker's last heartbeat expires by itself")

    def _send_and_maintain(self) -> None:
        try:
            self._send()
            self._pass_on(held.due())
            if self._heartbeats % _HEARTBEATS_PER_CLEARING == 0:
                bring_home(self._ledger)
                self._check_membership()
            self._heartbeats += 1
        except Unreachable:
            log.warning("Redis is away; trying again")
        except Refused as error:
            log.warning("Redis refused what is done each second; trying again: %s", error)

    def _send(self) -> None:
        """Send the heartbeat and have the ledger maintained, in one round trip."""
        heartbeat = replace(self._heartbeat, queues=consumed(self._worker.consumer, self._heartbeat.queues))
        loop_ran = self._loop_ran.is_set()
        self._loop_ran.clear()
        now, why = self._name.send(self._ledger, heartbeat, loop_ran=loop_ran, maintenance=self._upkeep)
        if loop_ran:
            self._heartbeat = replace(self._heartbeat, loop_at=now)
        if why:
            self._drain(why)

    def _pass_on(self, jobs: Sequence[str]) -> None:
        """Put the messages of these jobs, which this worker cannot run, back for others."""
        if jobs:
            self._ledger.pass_on(jobs)
            held.forget(jobs)

    def _check_membership(self) -> None:
        """Drain when store or clock are wrong, as after an unmount; the next worker waits for the right ones."""
        if self._store_id is None:
            self._store_id = (self._ledger.fleet() or {}).get("store")
        try:
            why = within(_STORE_PATIENCE_S, f"the store {self._store.root}", self._look_at_store)
        except TimeoutError:  # it is the jobs' affair, and no reason to seem gone
            log.warning("looking at the store %s takes longer than %g s", self._store.root, _STORE_PATIENCE_S)
            why = ""
        if why := why or self._clock_watch.why_wrong(self._ledger.client):
            self._drain(why)

    def _look_at_store(self) -> str:
        """Clear one leftover away; why this is not the fleet's store any more, or "".

        For a thread of its own, which may hang and continue later: it has a connection of its own.
        """
        if self._ledger_beside is None:
            self._ledger_beside = open_ledger(self._worker.app)
        self._clear_up(self._ledger_beside)
        why = self._store_id and why_store_changed(self._store.root, self._store_id)
        return why or self._store_watch.why_unproven(self._ledger_beside)

    def _drain(self, why: str) -> None:
        if is_shutting_down():  # its name may be the next worker's already
            return
        log.error("this worker may not consume any more, and drains: %s", why)
        os.kill(os.getpid(), signal.SIGTERM)

    def _clear_up(self, ledger: Ledger) -> None:
        try:
            if cleared := clear_away_one(ledger, self._store):
                log.info("cleared away the work folder of job %s, which has ended", cleared)
        except OSError as error:
            log.warning("the work folders in %s cannot be looked at: %s", self._store.root, error)
