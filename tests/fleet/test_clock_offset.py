"""A host whose clock is wrong by minutes has no worker that consumes, until it is right; seconds are a warning."""

from __future__ import annotations

import re
import time

import pytest

from mistudio_cli.commands import workers
from mistudio_cli.monitor.explain import explain, look_around
from tasks.fleet.clock_offset import ClockWatch, why_clock_is_wrong
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tests.conftest import until
from tests.fixtures.stack import Clock, Stack


def set_wrong(monkeypatch: pytest.MonkeyPatch, offset_s: float) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + offset_s)


@pytest.mark.parametrize(("offset_s", "words"), [(600, "600 s ahead of"), (-600, "600 s behind")])
def test_ten_minutes_keep_a_worker_from_consuming(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, offset_s: float, words: str
) -> None:
    set_wrong(monkeypatch, offset_s)
    said = (
        f"its clock is {words} that of Redis, so dates in its records and logs would be wrong, and TLS would judge "
        "certificates by them: timedatectl set-ntp true, or where Redis runs if that clock is the wrong one"
    )
    until(lambda: why_clock_is_wrong(ledger.client) == said, said)  # one answer may have been long on its way


@pytest.mark.parametrize("offset_s", [0, 30, -30])
def test_half_a_minute_does_not(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, offset_s: float) -> None:
    set_wrong(monkeypatch, offset_s)
    assert why_clock_is_wrong(ledger.client) == ""


def test_what_was_measured_while_the_process_was_stopped_is_measured_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, requested = time.time, list[float]()

    def stopped_at_first() -> float:
        requested.append(right())
        return right() - (600 if len(requested) == 1 else 0)

    monkeypatch.setattr(time, "time", stopped_at_first)
    assert why_clock_is_wrong(ledger.client) == ""
    assert len(requested) > 1


def test_a_worker_at_work_drains_only_when_the_clock_was_wrong_for_minutes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    watch = ClockWatch(clock)

    def wrong_for(seconds: int, offset_s: float) -> list[bool]:
        whys = list[bool]()
        with monkeypatch.context() as meanwhile:
            set_wrong(meanwhile, offset_s)
            for _ in range(0, seconds, 10):
                whys.append(bool(watch.why_wrong(ledger.client)))
                clock.now += 10
        return whys

    assert not any(wrong_for(180, -600)), "a virtual machine that was paused"
    assert not any(wrong_for(10, 0))
    assert not any(wrong_for(190, -600))
    assert all(wrong_for(20, -600))


@pytest.mark.parametrize(("offset_s", "words"), [(12, "12 s ahead of"), (-12, "12 s behind"), (2, "")])
def test_who_starts_workers_is_warned_of_seconds(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    offset_s: float,
    words: str,
) -> None:
    set_wrong(monkeypatch, offset_s)
    warning = f"The clock here is {words} that of Redis. To set it: timedatectl set-ntp true\n" if words else ""

    def reported() -> str:
        workers._report_clock(ledger)
        return capsys.readouterr().err

    until(lambda: reported() == warning, warning)  # one answer may have been long on its way


def test_a_worker_with_a_wrong_clock_waits_until_it_is_right_and_drains_when_it_becomes_wrong(stack: Stack) -> None:
    offset = stack.folder / "offset"
    offset.write_text("-600")
    worker = stack.popen("--queues", "training", CLOCK_OFFSET_FILE=str(offset), CLOCK_PATIENCE_S="0")
    until(lambda: refusal(stack).startswith("its clock is 600 s behind that of Redis"), stack.log())
    job = stack.submit("nap", ticks=1)

    def is_explained() -> bool:
        """As the newest heartbeat says it: each measures the clock again."""
        (heartbeat,) = stack.ledger.heartbeats()
        cause = explain(job, look_around(stack.ledger, job))[0].sentence
        return cause == f"{heartbeat.name} does not consume: {heartbeat.refused}."

    until(is_explained, stack.log())
    assert stack.ledger.need(job.id).state is State.QUEUED
    offset.write_text("0")
    assert stack.ended(job).state is State.SUCCEEDED
    offset.write_text("600")
    until(lambda: worker.poll() is not None, stack.log())
    assert worker.returncode == 0
    found = re.search(r"drains: its clock is (\d+) s ahead of that of Redis", stack.log())
    assert found is not None
    assert int(found[1]) == pytest.approx(600, abs=30)


def refusal(stack: Stack) -> str:
    """Why the only worker does not consume, once it is there."""
    return next((heartbeat.refused for heartbeat in stack.ledger.heartbeats()), "")
