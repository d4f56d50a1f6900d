"""`mistudio jobs retry --failed`: all that failed comes back, parents before children, and nothing twice."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.submission import retrying
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.listing import Filter
from tasks.redis_client.redis_connection import Client, Command
from tests.cli.conftest import Cli


def failed(cli: Cli, name: str, **changes: object) -> Job:
    job = Job(new_job_id(), "nap", name, "training", {"ticks": 1}, artifact=f"saes/{name}", **changes)
    cli.ledger.submit(job)
    fail(cli, job)
    return cli.ledger.need(job.id)


def fail(cli: Cli, job: Job) -> None:
    claim = cli.ledger.claim(job.id, "w", "here", 7)
    assert claim is not None
    cli.ledger.finish(claim, State.FAILED, "the disk was full", error={"type": "OSError", "message": "full"})


def retry(cli: Cli, *flags: str) -> list[dict]:
    return cli("jobs", "retry", "--failed", "--yes", "--json", *flags).json["jobs"]


def test_a_pipeline_of_which_a_step_failed_comes_back_whole(cli: Cli) -> None:
    first = Job(new_job_id(), "nap", "first", "training", {"ticks": 1}, artifact="saes/first")
    reads = Job(new_job_id(), "nap", "reads", "training", {"parent": "first"}, parents=(first.id,))
    waits = Job(new_job_id(), "nap", "waits", "training", {}, parents=(reads.id,))
    cli.ledger.submit_all([first, reads, waits])
    fail(cli, first)
    assert cli.ledger.need(waits.id).state is State.FAILED
    result = retry(cli)
    assert [job["retry_of"] for job in result] == [first.id, reads.id, waits.id]
    again = [cli.ledger.need(job["id"]) for job in result]
    assert [job.state for job in again] == [State.QUEUED, State.WAITING, State.WAITING]
    assert [job.parents for job in again] == [(), (again[0].id,), (again[1].id,)]


def test_one_job_comes_back_with_the_parents_whose_artifacts_it_misses(cli: Cli) -> None:
    first = Job(new_job_id(), "nap", "first", "training", {"ticks": 1}, artifact="saes/first")
    reads = {"parents": (first.id,), "artifact": "saes/second"}
    second = Job(new_job_id(), "nap", "second", "training", {"parent": "first"}, **reads)
    third = Job(new_job_id(), "nap", "third", "training", {"parent": "second"}, parents=(second.id,))
    cli.ledger.submit_all([first, second, third])
    fail(cli, first)
    result = cli("jobs", "retry", third.id, "--json").json["jobs"]
    assert [job["retry_of"] for job in result] == [first.id, second.id, third.id]
    again = [cli.ledger.need(job["id"]) for job in result]
    assert [job.parents for job in again] == [(), (again[0].id,), (again[1].id,)]


def test_what_was_tried_again_or_is_made_by_another_is_left_out_with_the_reason(cli: Cli) -> None:
    once, older, newer = failed(cli, "once"), failed(cli, "same"), failed(cli, "same")
    cli.ledger.request_cancel(queued(cli, "cancelled").id)
    assert [job["retry_of"] for job in retry(cli, "--name", "once")] == [once.id]
    result = cli("jobs", "retry", "--failed", "--yes")
    (line,) = result.out.splitlines()
    assert line.endswith(f"another try of {newer.id}; starts from scratch: nap jobs keep no checkpoint")
    assert f"{older.id} nap same is left out: job {newer.id} makes the same, and is newer" in result.err
    assert f"{once.id} nap once is left out: job " in result.err
    assert retry(cli) == []
    assert cli("jobs", "retry", "--failed").err.endswith("Nothing to try again.\n")


def queued(cli: Cli, name: str) -> Job:
    return cli.ledger.submit(Job(new_job_id(), "nap", name, "training", {"ticks": 1}))


def test_the_flags_choose_among_the_failed(cli: Cli) -> None:
    tagged, _ = failed(cli, "tagged", tags=("night",)), failed(cli, "other")
    assert [job["retry_of"] for job in retry(cli, "--tag", "night", "--kind", "nap", "--since", "1h")] == [tagged.id]
    assert retry(cli, "--kind", "train") == []


def test_it_asks_first_and_submits_nothing_unasked(cli: Cli) -> None:
    failed(cli, "a")
    result = cli("jobs", "retry", "--failed")
    assert result.code == Code.USAGE
    assert result.err.startswith("Cannot ask for confirmation: stdin is not a terminal.")
    assert "mistudio jobs retry --failed --yes" in result.err
    assert "mistudio jobs retry --failed --name a --yes" in cli("jobs", "retry", "--failed", "--name", "a").err
    assert len(cli.ledger.page().jobs) == 1


def fail_many(cli: Cli, count: int) -> list[str]:
    jobs = [Job(new_job_id(), "cleanup", "cleanup", "low_priority", {}) for _ in range(count)]
    for job in cli.ledger.submit_all(jobs):
        fail(cli, job)
    return [job.id for job in jobs]


def test_more_than_are_submitted_at_once_are_all_reached_the_oldest_first(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retrying, "MOST", 3)
    monkeypatch.setattr(retrying, "_PAGE", 2)
    monkeypatch.setattr(sys, "argv", ["mistudio", "jobs", "retry", "--failed", "--kind", "cleanup"])
    ids, tried, result = fail_many(cli, 7), list[str | None](), list[str]()
    for _ in range(4):
        again = retrying.try_failed(cli.ledger, cli.home, Filter(("failed",)), must_confirm=False)
        tried += [job.retry_of for job in again.jobs]
        result.append(capsys.readouterr().err)
    assert tried == ids
    sentence = "more that failed are left for the next time: mistudio jobs retry --failed --kind cleanup"
    assert [f"4 {sentence}" in result[0], f"1 {sentence}" in result[1], sentence in result[2]] == [True, True, False]
    assert result[3].endswith("Nothing to try again.\n")


def test_it_asks_redis_as_often_for_many_as_for_few_and_shortens_a_long_list(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trips() -> int:
        requested, real = [0], Client.batch

        def counted(client: Client, commands: Iterable[Command]) -> list[Any]:
            requested[0] += 1
            return real(client, commands)

        with monkeypatch.context() as patch:
            patch.setattr(Client, "batch", counted)
            retrying.try_failed(cli.ledger, cli.home, Filter(("failed",), name="cleanup"), must_confirm=False)
        return requested[0]

    fail_many(cli, 2)
    trips()
    fail_many(cli, 2)
    few = trips()
    fail_many(cli, 50)
    assert trips() == few
    capsys.readouterr()
    trips()
    assert len(capsys.readouterr().err.splitlines()) == 20 + 2


@pytest.mark.parametrize("words", [("--failed", "last"), ("last", "--tag", "x")])
def test_names_and_flags_do_not_mix(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("jobs", "retry", *words).err.startswith("Jobs are named, and chosen by flags too.")
    assert cli("jobs", "retry").err.startswith("No jobs selected.")
