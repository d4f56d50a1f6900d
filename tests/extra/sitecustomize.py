"""Adds the tests' own job kinds to a worker's: put this folder on PYTHONPATH.

KINDS_OF_TESTS is another folder with kinds, for a worker of another version. TRANSPORT_OPTIONS, a JSON object, changes
a worker's options for kombu's transport. CARD_LOOK_EVERY_S is how often a job's card is looked at. CLOCK_OFFSET_FILE is
a file with the seconds by which a worker's clock is wrong, and CLOCK_PATIENCE_S how long one at work bears that.
TRAIN_STOP_GRACE_S is the default grace of trainings in seconds.
"""

import dataclasses
import json
import os
from pathlib import Path

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

if value := os.environ.get("TRAIN_STOP_GRACE_S"):
    import tasks.kinds.train

    tasks.kinds.train.KIND = dataclasses.replace(tasks.kinds.train.KIND, stop_grace_s=float(value))

if value := os.environ.get("TRANSPORT_OPTIONS"):
    import tasks.messaging.app

    make_app = tasks.messaging.app.make_app

    def make_changed_app(*words: str | None) -> object:
        app = make_app(*words)
        app.conf.broker_transport_options.update(json.loads(value))
        return app

    tasks.messaging.app.make_app = make_changed_app
