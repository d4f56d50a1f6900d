"""A thousand jobs of all kinds, a kill each second, and people who pause, cancel, move and retry: it all adds up.

`make soak` runs a thousand. MISTUDIO_TEST_CHAOS_JOBS says how many, MISTUDIO_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import signal

import pytest

from tasks.jobs.record import State
from tasks.storage.store import Store
from tests.conftest import until
from tests.soak.artifacts import PublishedArtifacts
from tests.soak.fleet import kinds_of_the_tests
from tests.soak.invariants import faults_of, lives
from tests.soak.job_mix import Mixture, marks_of
from tests.soak.leftovers import counts_askew, left_in_redis, left_on_disk
from tests.soak.outcomes import ends_askew, marks_askew
from tests.soak.reader import ledger_of
from tests.soak.strike_loop import GALE, rage
from tests.soak.strikes import Siege, planned
from tests.soak.summary import table
from tests.soak.user_actions import Acts
from tests.soak.watch import Watch
from tests.supervisor.conftest import FULL, MISTUDIO, Home

JOBS = int(os.environ.get("MISTUDIO_TEST_CHAOS_JOBS") or 30)
SEED = int(os.environ.get("MISTUDIO_TEST_SEED") or 3)

#: How long the last jobs may take when nobody strikes any more: leases run out, workers come back from their pauses.
CALM_S = 180.0


@pytest.mark.timeout(420 + 3 * JOBS)
def test_under_random_kills_and_changes_of_mind_every_job_ends_once_and_all_adds_up(home: Home) -> None:
    environment = {**os.environ, "MISTUDIO_HOME": str(home.places.home), "NO_COLOR": "1"}
    siege = Siege(home.places, [MISTUDIO, "workers", "start", "full"], environment, at_work=True)
    siege.start()
    published = PublishedArtifacts(Store(home.places.store), "saes")
    mixture = Mixture(home.places, SEED, JOBS)
    acts = Acts(home.places, SEED, environment, mixture.count)
    with kinds_of_the_tests(), Watch(home.places, FULL, published) as watch:
        try:
            with mixture, acts:
                plan = planned(SEED, 10 * JOBS, GALE)
                rage(siege, plan, mixture.count, lambda: mixture.through.is_set() or watch.broken != [])
            calm_down(home, siege, acts)
            siege.log(f"{watch.looks} looks at what must hold at every moment")
            it_adds_up(home, siege, mixture, acts, published)
            assert (watch.broken, mixture.trouble, acts.trouble) == ([], [], [])
        except BaseException:
            siege.keep_evidence(watch.broken)
            print("", *siege.story, sep="\n")
            raise
        print(siege.story[-1], f"MISTUDIO_TEST_SEED={SEED} MISTUDIO_TEST_CHAOS_JOBS={JOBS}", sep="\n")


def calm_down(home: Home, siege: Siege, acts: Acts) -> None:
    for being in siege.everybody():
        siege.send(being, signal.SIGCONT)
    siege.start()
    with ledger_of(home.places) as ledger:
        acts.resume_all(ledger)
        siege.log("-- the strikes are over")
        until(lambda: not ledger.live_jobs(), "all jobs to end", seconds=CALM_S)
        siege.log("-- all jobs have ended")
        until(lambda: not [being for being in siege.everybody() if being.job], "all runners to be gone")
        store = Store(home.places.store)
        until(
            lambda: not left_in_redis(ledger) and not left_on_disk(ledger, store), "nothing to be left", seconds=CALM_S
        )


def it_adds_up(home: Home, siege: Siege, mixture: Mixture, acts: Acts, published: PublishedArtifacts) -> None:
    store = Store(home.places.store)
    with ledger_of(home.places) as ledger:
        known = lives(ledger)
        print("", *table(siege.hits, acts, known), sep="\n")
        assert {*mixture.accepted, *acts.tried_again} - known.keys() == set(), "accepted, and there is no record"
        assert [fault for life in known.values() for fault in faults_of(life, store)] == []
        assert [*ends_askew(known), *marks_askew(marks_of(home.places), known)] == []
        assert list(counts_askew(ledger, known)) == []
    made = [life.job.name for life in known.values() if life.job.artifact and life.job.state is State.SUCCEEDED]
    assert (list(published()), sorted(made)) == ([], sorted(published.known)), (
        "each artifact is of one job that succeeded"
    )
    again = {life.job.id: life.job.retry_of for life in known.values() if life.job.retry_of}
    assert acts.tried_again.items() <= again.items()
