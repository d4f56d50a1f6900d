"""A host whose clock is wrong by minutes has no worker that consumes, until it is right; seconds are a warning."""

from __future__ import annotations

import time

import pytest

from mistudio_cli.commands import workers
from mistudio_cli.monitor.explain import explain, look_around
from tasks.fleet.clock_offset import ClockWatch, why_clock_is_wrong
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
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
    assert why_clock_is_wrong(ledger.client) == (
        f"its clock is {words} that of Redis, so dates in its records and logs would be wrong, and TLS would judge "
        "certificates by them: timedatectl set-ntp true, or where Redis runs if that clock is the wrong one"
    )


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
    workers._report_clock(ledger)
    warning = f"The clock here is {words} that of Redis. To set it: timedatectl set-ntp true\n"
    assert capsys.readouterr().err == (warning if words else "")


def test_a_worker_with_a_wrong_clock_waits_until_it_is_right_and_drains_when_it_becomes_wrong(stack: Stack) -> None:
    offset = stack.folder / "offset"
    offset.write_text("-600")
    worker = stack.popen("--queues", "training", CLOCK_OFFSET_FILE=str(offset), CLOCK_PATIENCE_S="0")
    heartbeat = until(lambda: next(iter(stack.ledger.heartbeats()), None), stack.log())
    assert isinstance(heartbeat, WorkerHeartbeat)
    assert heartbeat.refused.startswith("its clock is 600 s behind that of Redis")
    job = stack.submit("nap", ticks=1)
    causes = [cause.sentence for cause in explain(job, look_around(stack.ledger, job))]
    assert causes[0] == f"{heartbeat.name} does not consume: {heartbeat.refused}."
    assert stack.ledger.need(job.id).state is State.QUEUED
    offset.write_text("0")
    assert stack.ended(job).state is State.SUCCEEDED
    offset.write_text("600")
    until(lambda: worker.poll() is not None, stack.log())
    assert worker.returncode == 0
    assert "drains: its clock is 600 s ahead of that of Redis" in stack.log()
