"""What a job says of its work goes out beside the work, whatever the network does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import Client
from tasks.runner.reporter import Reporter
from tests.conftest import PATIENCE_S, RedisServer, patient_client, until

#: How long a reporter waits for a Redis that a test has stopped.
SHORT_S = 0.5


@pytest.fixture
def ledger(own_redis: RedisServer) -> Iterator[Ledger]:
    """In a Redis that a test may stop."""
    opened = Ledger(patient_client(own_redis.url))
    yield opened
    opened.close()


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    job = ledger.submit(Job(new_job_id(), "nap", "a", "training", {}))
    claim = ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    return claim


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def patience_s() -> float:
    """How long the reporter waits for an answer of Redis."""
    return PATIENCE_S


@pytest.fixture
def reporter(ledger: Ledger, claim: Claim, lost: threading.Event, patience_s: float) -> Iterator[Reporter]:
    made = Reporter(Ledger(Client(ledger.client.address, timeout_s=patience_s)), claim, lost.set)
    made.start()
    yield made
    made.close()


def step(number: int) -> tuple[Progress, MetricPoint]:
    return Progress("training", number, 1000, "steps", None), MetricPoint(number, {"loss": float(number)})


def test_the_newest_report_and_all_sentences_arrive(ledger: Ledger, claim: Claim, reporter: Reporter) -> None:
    for number in range(1, 101):
        reporter.report(*step(number))
        if number % 50 == 0:
            reporter.note(f"step {number}")
    until(lambda: (result := ledger.need(claim.job.id)).progress and result.progress.done == 100)
    assert ledger.need(claim.job.id).metrics == {"loss": 100.0}
    until(lambda: [event["reason"] for event in ledger.events(claim.job.id)][2:] == ["step 50", "step 100"])
    assert reporter.close() == []


@pytest.mark.parametrize("patience_s", [SHORT_S])
def test_the_work_never_waits_for_a_redis_that_is_silent_and_what_it_said_is_there_afterwards(
    ledger: Ledger, claim: Claim, reporter: Reporter, own_redis: RedisServer
) -> None:
    assert own_redis.process is not None
    stopped_at = time.monotonic()
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        began = time.thread_time()
        for number in range(1, 10_001):
            reporter.report(*step(number))
        reporter.note("said while Redis was away")
        assert time.thread_time() - began < 5, "of this thread's own time: none of it in the network"
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    stopped_s = time.monotonic() - stopped_at
    until(lambda: (result := ledger.need(claim.job.id)).progress and result.progress.done == 10_000)
    until(lambda: ledger.events(claim.job.id)[-1]["reason"] == "said while Redis was away")
    most = 2 + stopped_s / SHORT_S  # it tries again each time that it has waited, and may be received afterwards
    assert len({point.at for point in ledger.series([claim.job.id])[0]}) <= most, "what was replaced was not sent"


def test_what_was_not_sent_when_the_work_is_over_is_sent_before_its_end_is_recorded(
    ledger: Ledger, claim: Claim
) -> None:
    reporter = Reporter(Ledger(Client(ledger.client.address)), claim, pytest.fail)  # its thread never ran
    reporter.note("one")
    reporter.report(*step(7))
    reporter.note("two")
    for message in reporter.close():
        assert message(ledger) == "ok"
    assert [event["reason"] for event in ledger.events(claim.job.id)][2:] == ["one", "two"]
    result = ledger.need(claim.job.id)
    assert result.progress is not None
    assert (result.progress.done, result.metrics) == (7, {"loss": 7.0})
    assert reporter.close() == []


def test_one_that_has_lost_its_lease_is_ended_and_says_nothing_more(
    ledger: Ledger, claim: Claim, reporter: Reporter, lost: threading.Event
) -> None:
    ledger.finish(claim, State.FAILED, "over")
    reporter.note("late")
    assert lost.wait(PATIENCE_S)
    reporter.report(*step(1))
    assert reporter.close() == []
    assert ledger.need(claim.job.id).progress is None


def test_a_sentence_that_redis_refuses_holds_up_nothing_behind_it(
    ledger: Ledger, claim: Claim, reporter: Reporter
) -> None:
    key = f"mistudio:events:{claim.job.id}"
    ledger.client.call("RENAME", key, "aside")
    ledger.client.call("SET", key, "no list")
    reporter.note("refused")
    reporter.report(*step(7))
    until(lambda: (result := ledger.need(claim.job.id)).progress and result.progress.done == 7)
    ledger.client.call("RENAME", "aside", key)
    reporter.note("after that")
    until(lambda: ledger.events(claim.job.id)[-1]["reason"] == "after that")
    assert reporter.close() == []


def test_whatever_goes_wrong_the_next_report_is_sent(
    ledger: Ledger, claim: Claim, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "report", lambda *_: 1 / 0)
        reporter.report(*step(1))
        until(lambda: reporter._rounds.faults > 0)
    reporter.report(*step(2))
    until(lambda: (result := ledger.need(claim.job.id)).progress and result.progress.done == 2)
