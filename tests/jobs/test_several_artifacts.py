"""A job that makes several artifacts publishes each once, whatever it dies of; their names are its own until then."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.submission.plan import ArtifactCatalog, plan
from tasks.submission.retry import plan_retry
from tests.conftest import until
from tests.fixtures.stack import Stack


def who(stack: Stack, name: str) -> str:
    return (stack.store.path("saes", name) / "who").read_text()


def test_each_is_an_artifact_with_the_parameters_and_the_result_of_it_alone(stack: Stack) -> None:
    job = stack.submit("litter", name="pups")
    assert job.artifacts == ("saes/pups-a", "saes/pups-b", "saes/pups-c")
    stack.start_worker()
    ended = stack.ended(job)
    assert ended.state is State.SUCCEEDED, ended
    assert ended.result == {f"pups-{one}": {"legs": 4, "who": one} for one in "abc"}
    assert stack.store.names("saes") == ["pups-a", "pups-b", "pups-c"]
    for one in "abc":
        manifest = stack.store.manifest("saes", f"pups-{one}")
        assert (manifest["name"], manifest["job"], manifest["params"]["of"]) == (f"pups-{one}", job.id, one)
        assert manifest["result"] == {"legs": 4, "who": one}
        assert list(manifest["files"]) == ["who"]
    until(lambda: stack.left_in_tmp() == [], "its work folder to go")


def test_all_their_names_are_taken_until_the_job_ends(stack: Stack) -> None:
    job = stack.submit("litter", name="pups")
    for name in ("pups-a", "pups-c"):
        assert stack.ledger.producer_of(f"saes/{name}") == job.id
        with pytest.raises(UserError, match=f"saes/{name} is being made by job {job.id}"):
            stack.submit("nap", name=name)
    with pytest.raises(UserError, match="saes/pups-b is being made"):
        stack.ledger.submit(dataclasses.replace(job, id="other", artifact="saes/pups-z"))
    child = stack.submit("nap", name="child", parent="pups-b")
    assert (child.parents, child.state) == ((job.id,), State.WAITING)
    known = ArtifactCatalog(stack.ledger, stack.store)
    assert known.pending_params("saes", "pups-b")[1]["of"] == "b"
    stack.ledger.request_cancel(job.id)
    assert [stack.ledger.producer_of(f"saes/pups-{one}") for one in "abc"] == [None] * 3
    assert stack.ledger.need(child.id).state is State.CANCELLED


def test_what_was_published_before_a_kill_stays_as_it_was(stack: Stack) -> None:
    job = stack.submit("litter", name="pups", die_after="b")
    stack.start_worker()
    ended = stack.ended(job)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2), ended
    assert [who(stack, f"pups-{one}") for one in "abc"] == ["a 2", "b 1", "c 2"]
    assert [stack.store.manifest("saes", f"pups-{one}")["attempt"] for one in "abc"] == [2, 1, 2]
    assert set(ended.result or {}) == {"pups-a", "pups-b", "pups-c"}
    until(lambda: stack.left_in_tmp() == [], "its work folder to go")


def test_a_kill_after_the_last_was_published_makes_nothing_again(stack: Stack) -> None:
    job = stack.submit("litter", name="pups", of="a,b", die_after="b")
    folder: Path = stack.store.path("saes", "pups-a")
    folder.mkdir(parents=True)
    result = {"job": job.id, "attempt": 1, "result": {"legs": 4, "who": "a"}}
    (folder / "manifest.json").write_text(json.dumps(result))
    stack.start_worker()
    ended = stack.ended(job)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1), ended
    assert ended.result == {f"pups-{one}": {"legs": 4, "who": one} for one in "ab"}
    assert who(stack, "pups-b") == "b 1"


def test_those_that_could_be_made_are_there_and_the_job_says_which_could_not(stack: Stack) -> None:
    job = stack.submit("litter", name="pups", bad="b")
    stack.start_worker()
    ended = stack.ended(job)
    assert ended.state is State.FAILED
    assert ended.reason == "1 of 3 could not be made (pups-b: it is lame.); the others are in the store."
    assert stack.store.names("saes") == ["pups-a", "pups-c"]
    assert ended.result == {f"pups-{one}": {"legs": 4, "who": one} for one in "ac"}
    until(lambda: stack.left_in_tmp() == [], "its work folder to go")
    with pytest.raises(UserError, match=r"saes/pups-a is there already\. Submit on its own what is not there yet"):
        plan_retry(ArtifactCatalog(stack.ledger, stack.store), ended)
    none = stack.ended(stack.submit("litter", name="none", bad="a,b,c"))
    assert none.reason.startswith("3 of 3 could not be made (none-a: it is lame.; none-b: ")
    assert none.reason.endswith("; there are no others.")


def test_one_that_is_there_already_or_named_like_another_is_refused(stack: Stack) -> None:
    stack.start_worker()
    stack.ended(stack.submit("nap", name="pups-c", ticks=1))
    with pytest.raises(UserError, match="saes/pups-c is there already"):
        stack.submit("litter", name="pups")
    known = ArtifactCatalog(stack.ledger, stack.store)
    plan(known, "litter", {}, name="kits")
    with pytest.raises(UserError, match="saes/kits-b would be made twice"):
        plan(known, "nap", {}, name="kits-b")
    with pytest.raises(UserError, match="cannot be the name of an artifact"):
        plan(known, "litter", {"of": "a,../b"}, name="dogs")
