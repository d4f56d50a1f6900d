"""`python -P -m tasks.runner JOB`: one heavy job = one process group, started by a worker's slot.

The slot writes the claim's token and the device to this process's standard input and keeps the pipe open. When the pipe
closes the slot is dead, and so must be everything here: the job may be running elsewhere soon.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading

from tasks import app as mistudio_app
from tasks.job import Stopped
from tasks.ledger import Claim
from tasks.work import STOPPED_WHEN_TOLD, TOLD_THE_LEDGER, open_context, perform


def main(argv: list[str]) -> int:
    """Run the job named in `argv`, as the slot that holds its claim asked."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_slot, name="slot-watch", daemon=True).start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    app = mistudio_app.app_from_environment()
    ledger = mistudio_app.open_ledger(app, rings=True)
    claim = Claim(ledger.need(argv[0]), order["token"])
    if claim.job.attempt > 1:
        logging.info("attempt %d", claim.job.attempt)
    try:
        perform(open_context(claim, ledger, order["device"], stop.is_set, _kill_own_group))
    except Stopped:
        return STOPPED_WHEN_TOLD
    return TOLD_THE_LEDGER


def _die_with_the_slot() -> None:
    sys.stdin.read()
    _kill_own_group()


def _kill_own_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
