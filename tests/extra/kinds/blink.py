"""`blink`: a quick job that runs in the slot itself."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tasks.jobs.kind import JobKind, option
from tasks.jobs.stop_grace import STOP_GRACE_S
from tasks.queues import Limits


@dataclass(frozen=True)
class Params:
    note: str = option("", help="comes back as the result; `pid` for the process it ran in")
    marks: str = option("", help="a file to which each run that ends adds a line: the job, the attempt")
    stare_s: float = option(0.0, help="first sleep this long without responding", minimum=0)


def _limits() -> Limits | None:
    result = os.environ.get("BLINK_LIMITS_S")
    return Limits(*(float(word) or None for word in result.split())) if result else None


KIND = JobKind(
    "blink",
    queue="high_priority",
    params=Params,
    summary="Blink",
    module=__name__,
    in_slot=True,
    limits=_limits(),
    stop_grace_s=float(os.environ.get("BLINK_STOP_GRACE_S") or STOP_GRACE_S),
)


def run(params: Params, context: object) -> dict:
    time.sleep(params.stare_s)
    if params.marks:
        with open(params.marks, "a") as marks:
            marks.write(f"{context.claim.job.id} {context.attempt}\n")
    return {"note": str(os.getpid()) if params.note == "pid" else params.note}
