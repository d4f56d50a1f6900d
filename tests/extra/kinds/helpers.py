"""`helpers`: a job with helpers in its process group, for tests of who dies with whom and who holds how much memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tasks.jobs.kind import JobKind, option

TICK_S = 0.05

#: A helper heeds no TERM, and ends by itself only much later than any test.
HELPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = bytearray(int(sys.argv[1])) if len(sys.argv) > 1 else b""
print("ready", flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Params:
    ticks: int = option(10, help="how many ticks the second attempt works; the first never ends by itself")
    helper_mb: int = option(0, help="how much its helper holds")
    batch: int = option(8, help="what a smaller number of would hold less")


KIND = JobKind("helpers", queue="training", params=Params, summary="Work with helpers", module=__name__)


def run(params: Params, context: object) -> dict:
    import subprocess
    import sys

    command = [sys.executable, "-c", HELPER, str(params.helper_mb * 1_000_000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as helper:
        helper.stdout.readline()
        ticks = params.ticks if context.attempt > 1 else 1_000_000
        try:
            for tick in range(ticks):
                time.sleep(TICK_S)
                context.progress("rowing", tick + 1, ticks, "strokes")
        finally:
            helper.kill()
    return {"attempt": context.attempt}
