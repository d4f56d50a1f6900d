"""`python -P -m tasks.worker`: the only way a worker starts.

The worker is thin: Celery, the ledger and the declarations of kinds; what is heavy runs in runners. Beside consuming it
says that it lives, mends what others lost, and drains when whoever started it is gone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

from celery import bootsteps
from celery.signals import worker_ready
from celery.worker import state as celery_state

from tasks.app import app_from_environment, open_ledger
from tasks.ledger import WorkerBeat
from tasks.problem import Problem
from tasks.queues import QUEUE_NAMES
from tasks.reconciler import Reconciler
from tasks.slot import register_tasks
from tasks.wire import Unreachable

log = logging.getLogger("mistudio.worker")

BEAT_EVERY_S = 1.0


def main(argv: list[str]) -> int:
    """Run one worker until it is told to end. Returns its exit code."""
    options = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        app = app_from_environment()
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    register_tasks(app)
    app.steps["worker"].add(Pulse)
    hostname = f"{options.name}@{socket.gethostname()}"
    worker = app.Worker(
        hostname=hostname,
        queues=options.queues,
        concurrency=options.slots,
        autoscale=(options.slots, 1) if options.slots > 1 else None,
        pool="prefork",
        loglevel=logging.INFO,
        without_gossip=True,
        without_mingle=True,
        beat_of=WorkerBeat(
            hostname, socket.gethostname(), os.getpid(), tuple(options.queues.split(",")), options.slots, time.time()
        ),
    )
    worker.start()
    return worker.exitcode or 0


class Pulse(bootsteps.StartStopStep):
    """Once a second, in the worker's own loop: say that it lives, mend what was lost, watch the parent."""

    requires = frozenset({"celery.worker.components:Timer"})

    def __init__(self, parent: Any, beat_of: WorkerBeat, **options: Any) -> None:
        super().__init__(parent, **options)
        self._beat = beat_of
        self._ready = False
        self._parent_pid = os.getppid()
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin; the first beat waits until the worker consumes."""
        self._ledger = open_ledger(parent.app)
        self._reconciler = Reconciler(open_ledger(parent.app, rings=True))
        worker_ready.connect(self._on_ready)
        self._timer = parent.timer.call_repeatedly(BEAT_EVERY_S, self._tick)

    def stop(self, parent: Any) -> None:
        """End; the worker is no consumer any more."""
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
        if os.getppid() != self._parent_pid:
            log.warning("whoever started this worker is gone: draining")
            self._parent_pid = os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._ready or celery_state.should_stop is not None:
            return
        try:
            self._ledger.beat(self._beat)
            self._reconciler.round()
        except Unreachable:
            log.warning("Redis is away; trying again")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tasks.worker", description="One mistudio worker.")
    parser.add_argument("--name", required=True, help="its name, without @host")
    parser.add_argument("--queues", default=",".join(QUEUE_NAMES), help="queues it serves, most urgent first")
    parser.add_argument("--slots", type=int, default=1, help="how many jobs it runs at once")
    options = parser.parse_args(argv)
    if unknown := set(options.queues.split(",")) - set(QUEUE_NAMES):
        parser.error(f"there is no queue {sorted(unknown)[0]!r}; queues: {', '.join(QUEUE_NAMES)}")
    if options.slots < 1:
        parser.error("a worker needs at least one slot")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
