"""A runner takes orders of a slot of an older version too: those name no attempt."""

from __future__ import annotations

import subprocess
import sys

from tasks.jobs.record import State
from tasks.runner.liveness_pipe import LivenessPipe
from tests.conftest import until
from tests.fixtures.stack import Stack


def test_an_order_without_an_attempt_is_of_the_one_that_the_record_names(stack: Stack) -> None:
    job = stack.submit("nap", ticks=2)
    claim = stack.ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    command = [sys.executable, "-P", "-m", "tasks.runner", job.id]
    with (stack.folder / "runner.log").open("wb") as log:
        runner = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=stack.environment(), process_group=0
        )
    assert runner.stdin is not None
    line = LivenessPipe(runner.stdin.fileno())
    line.give_order({"token": claim.token, "device": "cpu"})

    def has_ended() -> bool:
        line.sign()
        return runner.poll() is not None

    until(has_ended, (stack.folder / "runner.log").read_text())
    runner.stdin.close()
    assert stack.ledger.need(job.id).state is State.SUCCEEDED, (stack.folder / "runner.log").read_text()
