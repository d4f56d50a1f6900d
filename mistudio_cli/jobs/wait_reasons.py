"""Says on standard error, once, why the jobs that a command waits for do not start."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from mistudio_cli.terminal import humanize, output
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger

#: A job that starts at once needs no explanation; afterwards the reason may change.
FIRST_AFTER_S, AGAIN_AFTER_S = 1.0, 5.0


class Reasons:
    """What `jobs explain` knows of jobs that do not start, one of each queue, each reason once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._said: set[str] = set()
        self._look_at = time.monotonic() + FIRST_AFTER_S

    def look(self, jobs: Sequence[Job]) -> None:
        """Say what is new, if it is time to look again."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + AGAIN_AFTER_S
        held = {(job.queue, job.state): job for job in reversed(jobs) if job.state in (State.QUEUED, State.WAITING)}
        for job in held.values():
            self._say(job)

    def _say(self, job: Job) -> None:
        from mistudio_cli.monitor.explain import explain, look_around

        cause = explain(job, look_around(self._ledger, job))[0]
        key = re.sub(r"\d+", "", f"{job.queue} {cause.sentence}")
        if key not in self._said:
            self._said.add(key)
            hint = f"  ({cause.command})" if cause.command else ""
            output.talk(f"{job.id} is {job.state}. {humanize.one_line(cause.sentence)}{hint}")
