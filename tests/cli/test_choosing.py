"""The same flags choose jobs everywhere; words with commas; names beside ids; large numbers as people write them."""

from __future__ import annotations

import json

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.parsing.parameters import read_number
from tests.cli.conftest import Cli


def submit(cli: Cli, state: State | None = None, **changes: object) -> Job:
    result = {"kind": "nap", "name": "a", "queue": "training", "params": {"ticks": 1}, **changes}
    job = cli.ledger.submit(Job(new_job_id(), **result))
    if state is State.CANCELLED:
        cli.ledger.request_cancel(job.id)
    elif state is not None:
        claim = cli.ledger.claim(job.id, "w@h", "h")
        if state is not State.RUNNING:
            cli.ledger.finish(claim, state, "done")
    return job


def listed(cli: Cli, *words: str) -> set[str]:
    result = cli("jobs", "ls", "--json", *words)
    assert result.code == Code.OK, result.err
    return {job["id"] for job in result.json["jobs"]}


def test_several_words_with_commas_or_repeated_mean_any_of_them(cli: Cli) -> None:
    running, failed = submit(cli, State.RUNNING, tags=("x",)), submit(cli, State.FAILED, tags=("y",), name="b")
    queued = submit(cli, kind="blink", queue="high_priority", tags=("x", "y"))
    assert listed(cli, "--state", "running,failed") == {running.id, failed.id}
    assert listed(cli, "--state", "running", "--state", "failed") == {running.id, failed.id}
    assert listed(cli, "--kind", "nap, blink") == {running.id, failed.id, queued.id}
    assert listed(cli, "--queue", "high_priority,datasets") == {queued.id}
    assert listed(cli, "--tag", "x,none", "--state", "queued,running") == {running.id, queued.id}
    assert listed(cli, "--name", "b,c") == {failed.id}
    assert "--state 'runing' is none of:" in cli("jobs", "ls", "--state", "running,runing").err


def test_cancel_wait_and_rm_take_the_flags_of_ls(cli: Cli) -> None:
    mine = [submit(cli, tags=("mine",)) for _ in range(3)]
    other, done = submit(cli, tags=("other",)), submit(cli, State.SUCCEEDED, tags=("mine",))
    requested = cli("jobs", "cancel", "--tag", "mine")
    assert (requested.code, cli.ledger.need(mine[0].id).state) == (Code.USAGE, State.QUEUED)
    assert "To confirm: mistudio jobs cancel --tag mine --yes" in requested.err.replace("\n  ", " ")
    result = cli("jobs", "cancel", "--tag", "mine", "--yes", "--json")
    assert result.code == Code.OK, result.err
    assert {job["id"] for job in result.json["jobs"]} == {job.id for job in mine}
    assert cli.ledger.need(other.id).state is State.QUEUED
    waited = cli("jobs", "wait", "--tag", "mine", "--json")
    assert waited.code == Code.FAILED
    assert {job["id"] for job in waited.json["jobs"]} == {job.id for job in (*mine, done)}
    assert cli("jobs", "wait", "--tag", "mine", "--state", "succeeded").code == Code.OK
    assert cli("jobs", "rm", "--state", "cancelled,succeeded", "--yes").code == Code.OK
    assert listed(cli) == {other.id}
    assert cli("jobs", "rm", "--all", "--yes").err == "No such jobs.\n"
    assert cli("jobs", "cancel", "--all", "--yes").code == Code.OK
    assert cli.ledger.need(other.id).state is State.CANCELLED
    assert cli("jobs", "wait", "--all").code == Code.OK


@pytest.mark.parametrize("verb", ["cancel", "rm", "wait"])
def test_without_a_choice_or_with_two_it_says_how_to_choose(cli: Cli, verb: str) -> None:
    job = submit(cli, State.SUCCEEDED)
    neither, both = cli("jobs", verb), cli("jobs", verb, job.id, "--tag", "x")
    assert neither.code == both.code == Code.USAGE
    assert neither.err.startswith("No jobs selected.")
    assert "--state, --kind, --queue, --name, --tag, --owner, --since or --until" in neither.err
    assert both.err == "Jobs are named, and chosen by flags too.\n  Leave out the names, or the flags\n"
    assert cli.ledger.get(job.id) is not None


def test_a_job_is_found_by_its_name_and_by_what_it_makes(cli: Cli) -> None:
    older = submit(cli, State.FAILED, name="words", artifact="tokens/words")
    newer = submit(cli, name="words", artifact="tokens/words")
    several = submit(cli, name="grid", artifact="saes/grid-k16", more_artifacts=("saes/grid-k32",))
    assert cli("jobs", "show", "words", "--json").json["id"] == newer.id
    assert f"Several jobs are called words; this is {newer.id}, queued." in cli("jobs", "show", "words").err
    assert cli("jobs", "show", "tokens/words", "--json").json["id"] == newer.id
    assert cli("jobs", "explain", "grid-k32", "--json").json["id"] == several.id
    assert cli("jobs", "show", "saes/grid-k32", "--json").json["id"] == several.id
    assert cli("jobs", "show", "saes/words").code == Code.NOT_FOUND
    assert cli("jobs", "show", older.id, "--json").json["id"] == older.id
    published = cli.home / "store" / "saes" / "renamed"
    published.mkdir(parents=True)
    (published / "manifest.json").write_text(json.dumps({"job": older.id}))
    assert cli("jobs", "show", "renamed", "--json").json["id"] == older.id


def test_a_job_may_wait_for_one_that_it_names(cli: Cli) -> None:
    parent = submit(cli, name="first")
    child = cli("submit", "blink", "--after", "first", "--json").json["id"]
    assert cli.ledger.need(child).parents == (parent.id,)


@pytest.mark.parametrize(
    ("word", "of", "value"),
    [
        ("10M", int, 10_000_000),
        ("1.5k", int, 1500),
        ("2K", int, 2000),
        ("1e6", int, 1_000_000),
        ("2.5B", int, 2_500_000_000),
        ("7", int, 7),
        ("2e-4", float, 2e-4),
        ("1k", float, 1000.0),
    ],
)
def test_numbers_are_read_as_people_write_them(word: str, of: type, value: float) -> None:
    assert read_number(word, of) == value
    assert type(read_number(word, of)) is of


@pytest.mark.parametrize("word", ["1.5", "M", "10m", "1e999M", "9" * 5000 + "M", "1_0K0", "", "10 MB"])
def test_what_is_no_whole_number_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_number(word, int)


def test_large_numbers_work_in_flags_files_and_recipes(cli: Cli) -> None:
    flag = cli("submit", "nap", "--ticks", "1.5k", "--dry-run", "--json")
    assert flag.json["jobs"][0]["params"]["ticks"] == 1500
    swept = cli("submit", "nap", "--ticks", "1k,2k", "--dry-run", "--json")
    assert [job["params"]["ticks"] for job in swept.json["jobs"]] == [1000, 2000]
    (cli.home / "jobs.jsonl").write_text('{"kind": "nap", "ticks": "10M"}\n')
    line = cli("submit", "many", "jobs.jsonl", "--dry-run", "--json")
    assert line.json["jobs"][0]["params"]["ticks"] == 10_000_000
    (cli.home / "r.toml").write_text('[vars]\nticks = 5\n[[step]]\nkind = "nap"\nticks = "${ticks}"\n')
    recipe = cli("submit", "pipeline", "r.toml", "--set", "ticks=2M", "--dry-run", "--json")
    assert recipe.json["jobs"][0]["params"]["ticks"] == 2_000_000
    assert "'10m' is not a valid int" in cli("submit", "nap", "--ticks", "10m").err


def test_queues_may_be_named_with_commas(cli: Cli) -> None:
    assert cli("queue", "pause", "training,datasets", "processing").code == Code.OK
    states = {queue["name"]: queue["state"] for queue in cli("queue", "ls", "--json").json["queues"]}
    assert [name for name, state in states.items() if state == "paused"] == ["datasets", "processing", "training"]
    assert "There is no queue 'nope'" in cli("queue", "resume", "training,nope").err


def test_waiting_for_no_number_of_seconds_is_refused(cli: Cli) -> None:
    job = submit(cli)
    for words in (("jobs", "wait", job.id), ("jobs", "cancel", job.id), ("workers", "restart")):
        result = cli(*words, "--timeout", "nan")
        assert (result.code, result.err.splitlines()[0]) == (Code.USAGE, "--timeout must be a number, not nan."), words
    assert cli.ledger.need(job.id).state is State.QUEUED
    for words in (("workers", "stop", "--grace", "nan"), ("workers", "start", "--job-memory-gb", "nan")):
        result = cli(*words)
        assert (result.code, f"{words[-2]} must be a number, not nan." in result.err) == (Code.USAGE, True)


@pytest.mark.parametrize("flag", ["--state", "--kind", "--queue", "--name", "--tag", "--owner"])
@pytest.mark.parametrize("empty", ["", " ", ","])
def test_a_flag_without_a_word_means_no_job_and_not_every_one(cli: Cli, flag: str, empty: str) -> None:
    live, done = submit(cli), submit(cli, State.SUCCEEDED)
    retry = () if flag == "--state" else (("retry", "--failed", "--yes"),)
    for words in (("cancel", "--no-wait", "--yes"), ("rm", "--yes"), ("ls",), ("export",), *retry):
        result = cli("jobs", *words, flag, empty)
        assert (result.code, f"{flag} is empty." in result.err) == (Code.USAGE, True), (words, result.err)
    assert cli.ledger.need(live.id).state is State.QUEUED
    assert cli.ledger.get(done.id) is not None


def test_retry_of_failed_jobs_is_of_no_other_state(cli: Cli) -> None:
    job = submit(cli, State.FAILED)
    for state in ("cancelled", "nosuch", "failed,cancelled"):
        result = cli("jobs", "retry", "--failed", "--state", state, "--yes")
        assert (result.code, "--failed means jobs in that state" in result.err) == (Code.USAGE, True)
    assert cli.ledger.children([job.id]) == [[]]
    assert len(cli.ledger.page().jobs) == 1


def test_me_is_the_same_owner_where_jobs_are_submitted_and_chosen(cli: Cli) -> None:
    made = cli("submit", "cleanup", "--count-only", "--owner", "me", "--json").json["id"]
    assert made in listed(cli, "--owner", "me")
    assert cli.ledger.need(made).owner != "me"
