"""Every process of a home is killed under load, at moments drawn by chance: no job is lost, none runs twice.

`make soak` runs many more rounds. MISTUDIO_TEST_SEED repeats a run, MISTUDIO_TEST_ROUNDS says how long it is.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator

import pytest

from tasks.jobs.kind import kinds
from tasks.storage.store import Store
from tests.conftest import until
from tests.soak.fleet import kinds_of_the_tests
from tests.soak.load import Load, faults
from tests.soak.reader import ledger_of
from tests.soak.strikes import Siege, planned
from tests.soak.watch import Watch
from tests.supervisor.conftest import FULL, MISTUDIO, Home

ROUNDS = int(os.environ.get("MISTUDIO_TEST_ROUNDS") or 12)
SEED = int(os.environ.get("MISTUDIO_TEST_SEED") or 3)

#: A job under siege may lose its process more often than a job in peace ever does; see `Job.max_attempts`.
LOSSES = 50


@pytest.fixture(autouse=True)
def _kinds_of_the_tests() -> Iterator[None]:
    with kinds_of_the_tests() as patch:
        for name in ("nap", "blink"):
            patch.setitem(kinds(), name, dataclasses.replace(kinds()[name], max_attempts=LOSSES))
        yield


@pytest.fixture
def siege(home: Home) -> Siege:
    environment = {**os.environ, "MISTUDIO_HOME": str(home.places.home), "NO_COLOR": "1"}
    return Siege(home.places, [MISTUDIO, "workers", "start", "full"], environment)


@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_whatever_is_killed_no_job_is_lost_and_none_runs_twice(home: Home, siege: Siege) -> None:
    siege.start()
    with Watch(home.places, FULL) as watch, Load(home.places, SEED) as load:
        try:
            stand(home, siege, watch, load)
        except BaseException:
            siege.keep_evidence(watch.broken)
            raise
        finally:
            siege.log(f"{len(load.submitted)} jobs, {len(siege.hits)} hits, {watch.looks} looks")
            print("", *siege.story, f"MISTUDIO_TEST_SEED={SEED} MISTUDIO_TEST_ROUNDS={ROUNDS}", sep="\n")


def stand(home: Home, siege: Siege, watch: Watch, load: Load) -> None:
    for number, strike in enumerate(planned(SEED, ROUNDS), 1):
        siege.log(f"-- round {number}: {strike}")
        siege.carry_out(strike)
        assert watch.broken == []
    load.end()
    siege.log("-- the load ends")
    for being in siege.everybody():
        siege.send(being, signal.SIGCONT)
    siege.start()
    with ledger_of(home.places) as ledger:
        until(lambda: not ledger.live_jobs(), "all jobs to end")
        siege.log("-- all jobs have ended")
        assert list(faults(ledger, Store(home.places.store), list(load.submitted))) == []
    assert load.trouble == []
    assert watch.broken == []
