"""Adds the tests' own job kinds to a worker's: put this folder on PYTHONPATH.

KINDS_OF_TESTS is another folder with kinds, for a worker of another version. TRANSPORT_OPTIONS, a JSON object, changes
a worker's options for kombu's transport. CARD_LOOK_EVERY_S is how often a job's card is looked at. CLOCK_OFFSET_FILE is
a file with the seconds by which a worker's clock is wrong, and CLOCK_PATIENCE_S how long one at work bears that.
TRAIN_STOP_GRACE_S is the default grace of trainings in seconds. KEEPER_OFFSET_FILE is a file with the seconds by which
the clock of those who judge jobs is ahead, which makes it late for a job when a test says so. TRAIN_LIMIT_FILE is a
file with the number of tokens after which trainings wait while it is there, for tests that must not be late for them.
While the file TRAINING_GATE is there a training waits after its first checkpoint, until a signal comes. Before a
runner records the end of its job it writes the most memory that it ever held into a file of that name in the folder
MOST_HELD.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import tasks.kinds

tasks.kinds.__path__.append(os.environ.get("KINDS_OF_TESTS") or str(Path(__file__).parent / "kinds"))

if value := os.environ.get("CLOCK_OFFSET_FILE"):
    import time

    offset_file, right_time = Path(value), time.time
    time.time = lambda: right_time() + float(offset_file.read_text() or 0)

if value := os.environ.get("CARD_LOOK_EVERY_S"):
    import tasks.accelerators.card_watch

    tasks.accelerators.card_watch.LOOK_EVERY_S = float(value)

if patience_s := os.environ.get("CLOCK_PATIENCE_S"):
    import tasks.fleet.clock_offset

    tasks.fleet.clock_offset.CLOCK_PATIENCE_S = float(patience_s)

if value := os.environ.get("KEEPER_OFFSET_FILE"):
    import time

    from tasks.worker.lease_keeper import LeaseKeeper

    ahead_file, monotonic = Path(value), time.monotonic
    LeaseKeeper.__init__.__defaults__ = (
        lambda: monotonic() + (float(ahead_file.read_text()) if ahead_file.exists() else 0.0),
    )

if value := os.environ.get("TRAIN_STOP_GRACE_S"):
    import tasks.kinds.train

    tasks.kinds.train.KIND = dataclasses.replace(tasks.kinds.train.KIND, stop_grace_s=float(value))

if value := os.environ.get("TRAIN_LIMIT_FILE"):
    import time

    from tasks.runner.run_context import RunContext

    limit_file, report_progress = Path(value), RunContext.progress

    def may_continue(done: int) -> bool:
        try:
            return done <= int(limit_file.read_text())
        except FileNotFoundError:
            return True

    def progress_up_to_the_limit(
        self: RunContext, phase: str, done: int, total: int | None = None, unit: str = ""
    ) -> None:
        if phase != "training" or may_continue(done):
            report_progress(self, phase, done, total, unit)
            return
        self._reported_at = 0.0  # it is to be seen there
        report_progress(self, phase, done, total, unit)
        while not may_continue(done) and not self.stopping():
            time.sleep(0.02)

    RunContext.progress = progress_up_to_the_limit

if (value := os.environ.get("TRAINING_GATE")) and "tasks.runner" in sys.orig_argv:
    import select
    import signal

    import tasks.storage.store

    gate, sync_folder = Path(value), tasks.storage.store.sync_folder
    signals, on_signal = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(on_signal)

    def sync_and_wait(folder: Path) -> None:
        sync_folder(folder)
        if any(folder.glob("checkpoint-*")):
            while gate.exists() and not select.select([signals], [], [], 0.05)[0]:
                pass

    tasks.storage.store.sync_folder = sync_and_wait

if (value := os.environ.get("MOST_HELD")) and "tasks.runner" in sys.orig_argv:
    from tasks.ledger.client import Ledger

    most_held, finish = Path(value), Ledger.finish

    def write_most_held_and_finish(self: Ledger, *words: Any, **named: Any) -> str:
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        (most_held / sys.orig_argv[-1]).write_text(kilobytes)
        return finish(self, *words, **named)

    Ledger.finish = write_most_held_and_finish

if value := os.environ.get("TRANSPORT_OPTIONS"):
    import tasks.messaging.app

    make_app = tasks.messaging.app.make_app

    def make_changed_app(*words: str | None) -> object:
        app = make_app(*words)
        app.conf.broker_transport_options.update(json.loads(value))
        return app

    tasks.messaging.app.make_app = make_changed_app
