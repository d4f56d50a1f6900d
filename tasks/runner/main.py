"""`python -P -m tasks.runner JOB`: one heavy job = one process group, started by a worker's slot.

The slot sends it through `tasks.runner.liveness_pipe` which claim and which device are its own, and holds its life in
that line.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from tasks.runner import liveness_pipe
from tasks.system.log_output import about, log_to_stderr, name_worker


def main(argv: list[str]) -> int:
    """Run the job named in `argv`, as the slot that holds its claim asked."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    order = liveness_pipe.take_order()
    log_to_stderr()
    return _work(argv[0], order, stop)


def _work(job_id: str, order: dict[str, Any], stop: threading.Event) -> int:
    # Imported only now: until the line is held, a runner that is stopped would outlive its slot.
    from dataclasses import replace

    from tasks.jobs.kind import Stopped
    from tasks.ledger.client import Claim, Ledger
    from tasks.redis_client.redis_connection import connect
    from tasks.redis_client.redis_retry import patient
    from tasks.runner.execute import OUTCOME_RECORDED, STOPPED_ON_REQUEST, work_on

    ledger = Ledger(connect(os.environ["CELERY_BROKER_URL"]))
    job = patient(ledger).need(job_id)
    attempt = order.get("attempt", job.attempt)  # which a slot of an older version does not say
    claim = Claim(replace(job, attempt=attempt), order["token"])  # a later one may have begun
    name_worker(claim.job.worker)
    with about(claim.job.id, claim.job.attempt, queue=claim.job.queue):
        try:
            work_on(claim, ledger, order["device"], stop.is_set, liveness_pipe.kill_own_group)
        except Stopped:
            return STOPPED_ON_REQUEST
    return OUTCOME_RECORDED
