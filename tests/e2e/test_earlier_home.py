"""A home that an earlier version made, with its Redis and its store, is read, served and resumed by this one.

`home_of_an_earlier_version.tar.gz` was made at commit 5038c63: a corpus, a toy model, tokens and two SAEs, a training
that was cancelled, one that failed, an extraction on a paused queue and a cleanup that waits for it.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import until
from tests.e2e.conftest import Home, new_home

ARCHIVE = Path(__file__).parent / "home_of_an_earlier_version.tar.gz"
ENDED = {
    "doomed": "failed",
    "slow": "succeeded",
    "unfinished": "cancelled",
    "old-sae": "succeeded",
    "words-toy-16": "succeeded",
    "toy": "succeeded",
    "words": "succeeded",
}


@contextmanager
def home_of_an_earlier_version() -> Iterator[Home]:
    home = new_home()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home.folder, filter="data")
    home.environment |= {"MISTUDIO_KEEP_JOBS_DAYS": "100000", "OMP_NUM_THREADS": "1"}
    try:
        home.type("workers start minimal")
        yield home
    finally:
        home.end()
        shutil.rmtree(home.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def earlier() -> Iterator[Home]:
    with home_of_an_earlier_version() as home:
        yield home


def ids(home: Home) -> dict[str, str]:
    return {job["name"]: job["id"] for job in home.read("jobs ls")["jobs"]}


def test_its_jobs_are_listed_with_their_states_reasons_and_results(earlier: Home) -> None:
    jobs = {job["name"]: job for job in earlier.read("jobs ls")["jobs"]}
    assert {name: jobs[name]["state"] for name in ENDED} == ENDED
    assert jobs["doomed"]["error"]["type"] == "Problem"
    sae = earlier.job(jobs["old-sae"]["id"])
    assert (sae["params"]["k"], sae["result"]["d_sae"], sae["tags"]) == (4, 64, ["old"])
    assert [event["state"] for event in sae["events"]][-1] == "succeeded"


def test_its_saes_are_listed_with_their_numbers(earlier: Home) -> None:
    (old, slow) = earlier.read("saes ls")["saes"]
    assert (old["name"], old["d_sae"], slow["name"]) == ("old-sae", 64, "slow")
    assert round(old["explained_variance"], 3) == 0.96
    assert "blocks.0.hook_resid_post" in earlier.type("saes show old-sae").stdout


def test_what_was_paused_stays_so_and_runs_once_it_is_resumed(earlier: Home) -> None:
    (extraction,) = [row for row in earlier.read("queue ls")["queues"] if row["name"] == "extraction"]
    assert (extraction["state"], extraction["pending"]) == ("paused", 1)
    earlier.type("queue resume extraction")
    known = ids(earlier)
    earlier.type(f"jobs wait {known['queued']} {known['waiting']}")
    assert (earlier.folder / "store" / "features" / "queued" / "manifest.json").exists()


def test_what_a_cancelled_training_had_learned_is_resumed() -> None:
    """In a home of its own: the job that waits in the other is a cleanup, and removes checkpoints of its age."""
    with home_of_an_earlier_version() as home:
        retried = home.read(f"jobs retry {ids(home)['unfinished']}")["jobs"][-1]["id"]
        until(lambda: (job := home.job(retried))["state"] == "running" and job["metrics"], "the training to resume")
        notes = " ".join(event["reason"] or "" for event in home.job(retried)["events"])
        home.type(f"jobs cancel {retried}")
    assert "step 182" in notes, notes
