"""`chatter`: a job that prints lines past logging, for tests of what becomes of its log."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from tasks.jobs.kind import JobKind, option


@dataclass(frozen=True)
class Params:
    megabytes: float = option(0.0, help="how much to print, in lines of 100 bytes")
    hostile: bool = option(False, help="print bytes that are no text")
    variable: str = option("", help="a variable whose value to log and to print")
    until: str = option("", help="work until this file is there")


KIND = JobKind("chatter", queue="training", params=Params, summary="Print", module=__name__)


def run(params: Params, context: object) -> dict:
    log = logging.getLogger("chatter")
    log.info("begins to print")
    lines = int(params.megabytes * 10_000)
    os.write(1, b"".join(b"%099d\n" % number for number in range(lines)))
    if params.hostile:
        os.write(2, b"\xff\xfe\x00 \x1b[2J \xe2\x82\n2026-01-01 00:00:00,000 INFO x job=other attempt=999 \n\r\r\n")
    if params.variable:
        log.info("logged %s", os.environ[params.variable])
        os.write(1, f"printed {os.environ[params.variable]}\n".encode())
    log.info("has printed")
    tick = 0
    while params.until and not os.path.exists(params.until):
        time.sleep(0.05)
        tick += 1
        context.progress("talking", tick, None, "ticks")
    log.info("is over")
    return {"lines": lines}
