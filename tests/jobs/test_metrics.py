"""What a job measures of its work is in its record while it runs, bounded, whatever becomes of its attempts."""

from __future__ import annotations

import itertools
import math

import pytest

from tasks.jobs.kind import MAX_METRICS, Stopped
from tasks.jobs.record import MetricPoint, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.redis_client.redis_connection import Client
from tasks.runner.reporter import Reporter
from tasks.runner.run_context import RunContext
from tasks.storage.store import Store
from tests.fixtures.lost_jobs import recover_lost
from tests.ledger.test_ledger import a_job, claimed, expire_lease

AT = Progress("training", 1, 2, "steps")


def running(ledger: Ledger) -> Claim:
    return claimed(ledger, ledger.submit(a_job()))


def reported(ledger: Ledger, claim: Claim, ats: range) -> list[int]:
    """The places that are known of the job once it has reported these."""
    for at in ats:
        assert ledger.report(claim, AT, MetricPoint(at, {"loss": 1 / (1 + at), "none": None})) == "ok"
    return [point.at for point in ledger.series([claim.job.id])[0]]


def test_the_newest_values_are_in_the_record_and_the_course_is_beside_it(ledger: Ledger) -> None:
    claim = running(ledger)
    assert reported(ledger, claim, range(3)) == [0, 1, 2]
    assert ledger.report(claim, AT) == "ok"
    assert ledger.need(claim.job.id).metrics == {"loss": 1 / 3, "none": None}
    assert ledger.series([claim.job.id, "nobody"])[0][0] == MetricPoint(0, {"loss": 1.0, "none": None})
    assert ledger.series(["nobody"]) == [[]]


@pytest.mark.parametrize("count", [61, 100, 1000, 3001])
def test_the_course_of_a_long_job_is_thinned_evenly(ledger: Ledger, count: int) -> None:
    ats = reported(ledger, running(ledger), range(0, 7 * count, 7))
    assert len(ats) == 60
    assert (ats[0], ats[-1]) == (0, 7 * (count - 1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(ats)]
    assert max(gaps) <= 4 * 7 * count / 60


def test_an_attempt_that_goes_back_reports_its_part_again(ledger: Ledger) -> None:
    claim = running(ledger)
    reported(ledger, claim, range(10))
    expire_lease(ledger, claim.job.id)
    recover_lost(ledger)
    assert ledger.report(claim, AT, MetricPoint(99, {"loss": 0.0})) == "lost"
    assert ledger.need(claim.job.id).metrics == {"loss": 0.1, "none": None}
    assert reported(ledger, claimed(ledger, claim.job), range(4, 7)) == list(range(7))


def test_the_course_is_forgotten_a_week_after_its_last_value(ledger: Ledger) -> None:
    claim = running(ledger)
    reported(ledger, claim, range(3))
    key = f"mistudio:series:{claim.job.id}"
    ledger.client.call("EXPIRE", key, 10)
    reported(ledger, claim, [3])
    ledger.finish(claim, State.SUCCEEDED, "done")
    assert 10 < ledger.client.call("TTL", key) <= 7 * 86400
    assert len(ledger.series([claim.job.id])[0]) == 4


def context_of(ledger: Ledger, claim: Claim, store: Store, is_stopped: bool = False) -> RunContext:
    reporter = Reporter(Ledger(Client(ledger.client.address)), claim, pytest.fail)
    return RunContext(claim, ledger, store, store.root, "cpu", lambda: is_stopped, reporter)


def test_what_a_kind_measures_goes_with_its_next_report(ledger: Ledger, tmp_path) -> None:
    claim = running(ledger)
    context = context_of(ledger, claim, Store(tmp_path))
    context.metrics(1, {"loss": 9.0})
    context.metrics(2, {"loss": 1.23456789e-7, "fvu": math.nan})
    assert ledger.need(claim.job.id).metrics is None, "no round trip of its own"
    context.progress("training", 2, 2, "steps")
    context.send_the_rest()
    assert ledger.need(claim.job.id).metrics == {"loss": 1.23457e-7, "fvu": None}
    with pytest.raises(ValueError, match="more than"):
        context.metrics(3, dict.fromkeys(map(str, range(MAX_METRICS + 1)), 0.0))


def test_measuring_does_not_keep_a_job_from_being_stopped(ledger: Ledger, tmp_path) -> None:
    claim = running(ledger)
    context = context_of(ledger, claim, Store(tmp_path), is_stopped=True)
    context.metrics(1, {"loss": 9.0})
    with pytest.raises(Stopped):
        context.progress("training", 1, 2, "steps")
