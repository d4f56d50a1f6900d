"""`jobs`: a person finds, watches, waits for and cancels real jobs of a real worker."""

from __future__ import annotations

import json
import re
import signal

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tests.cli.conftest import Cli
from tests.conftest import PATIENCE_S, until


def nap(world: Cli, name: str, *words: str) -> str:
    result = world("submit", "nap", "--name", name, "--json", *words)
    assert result.code == Code.OK, result.err
    return result.json["id"]


def running(world: Cli, job_id: str) -> Job:
    until(lambda: world.ledger.need(job_id).progress, what=f"job {job_id} to run")
    return world.ledger.need(job_id)


def test_waiting_reports_how_jobs_ended(world: Cli) -> None:
    well, badly = nap(world, "well", "--ticks", "2"), nap(world, "badly", "--end", "raise")
    result = world("jobs", "wait", well, badly)
    first, second = result.out.splitlines()
    assert result.code == Code.FAILED
    assert re.fullmatch(rf"{well} nap well succeeded after \d+ s", first)
    assert re.fullmatch(rf"{badly} nap badly failed after \d+ s: ValueError: asked to raise", second)
    assert world("jobs", "wait", well).code == Code.OK
    assert [job["state"] for job in world("jobs", "wait", well, badly, "--json").json["jobs"]] == [
        "succeeded",
        "failed",
    ]


def test_submit_can_wait_and_fails_with_its_job(world: Cli) -> None:
    assert world("submit", "blink", "--wait").code == Code.OK
    result = world("submit", "nap", "--end", "raise", "--name", "bad", "--wait", "--json")
    assert (result.code, result.json["state"]) == (Code.FAILED, "failed")


def test_a_job_is_shown_in_full(world: Cli) -> None:
    job_id = nap(world, "shown", "--ticks", "1")
    world("jobs", "wait", job_id)
    result = world("jobs", "show", job_id, "--json").json
    assert [event["state"] for event in result["events"]] == ["queued", "running", "succeeded"]
    assert (result["result"]["ticks"], result["params"]["ticks"]) == (1, 1)
    assert result["path"] == str(world.home / "store" / "saes" / "shown")
    result = world("jobs", "show", job_id[:13]).out
    assert f"artifact  {world.home}/store/saes/shown" in result
    assert "ran_in_last_attempt" in result


def test_a_failed_job_shows_its_traceback_and_its_log(world: Cli) -> None:
    job_id = nap(world, "traced", "--end", "raise")
    world("jobs", "wait", job_id)
    assert "ValueError: asked to raise" in world("jobs", "show", job_id).out
    log = world("jobs", "logs", job_id)
    assert (log.code, "Traceback (most recent call last)" in log.out) == (Code.OK, True)
    last = world("jobs", "logs", job_id, "-n", "1").out.splitlines()
    assert len(last) == 1
    assert log.out.splitlines()[-1] == last[0]


def test_the_end_of_a_long_log_is_printed_and_where_the_whole_lies(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    log = cli.home / "logs" / "jobs" / f"{job.id}.log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(150)))
    result = cli("jobs", "logs", job.id)
    assert result.out.splitlines() == [f"line {i}" for i in range(50, 150)]
    assert result.err == f"The last 100 lines of {log}\n"
    assert cli("jobs", "logs", job.id, "-n", "150").err == ""


def test_a_result_that_is_no_number_is_null_and_the_json_stays_json(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    claim = cli.ledger.claim(job.id, "w@h", "h")
    cli.ledger.finish(claim, State.SUCCEEDED, "done", {"loss": float("nan"), "all": [1.0, float("inf")]})
    assert cli("jobs", "show", job.id, "--json").json["result"] == {"loss": None, "all": [1.0, None]}


def test_following_a_log_ends_with_the_job(world: Cli) -> None:
    job_id = nap(world, "followed", "--ticks", "5", "--end", "raise")
    result = world("jobs", "logs", "--follow", job_id)
    assert result.code == Code.OK
    assert result.err.splitlines()[-1] == f"{job_id} failed: ValueError: asked to raise"


def test_a_job_without_a_log_says_why(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    result = cli("jobs", "logs", job.id)
    assert result.code == Code.NOT_FOUND
    assert result.err.startswith(f"Job {job.id} has no log on this machine: it has not started.")


def test_lists_are_filtered_limited_and_say_that_there_is_more(cli: Cli) -> None:
    ids = [
        cli.ledger.submit(Job(new_job_id(), kind, f"n{i}", queue, {})).id
        for i, (kind, queue) in enumerate([("train", "training"), ("extract", "extraction")] * 3)
    ]
    newest = ids[::-1]
    assert [job["id"] for job in cli("jobs", "ls", "--json").json["jobs"]] == newest
    assert [job["id"] for job in cli("jobs", "ls", "--kind", "train", "--json").json["jobs"]] == newest[1::2]
    assert [job["id"] for job in cli("jobs", "ls", "--queue", "extraction", "--json").json["jobs"]] == newest[::2]
    assert cli("jobs", "ls", "--state", "running", "--json").json["jobs"] == []
    result = cli("jobs", "ls", "--limit", "4")
    following = re.fullmatch(r"There are more: --limit, or --next (\S+)\n", result.err)[1]
    assert len(result.out.splitlines()) == 1 + 4
    rest = cli("jobs", "ls", "--next", following, "--json").json
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == (newest[4:], None)


def test_ids_may_be_shortened_while_they_are_unique(cli: Cli) -> None:
    older, newer = (cli.ledger.submit(Job(job_id, "train", job_id, "training", {})) for job_id in ("abc1", "abc2"))
    assert cli("jobs", "show", "abc1", "--json").json["id"] == older.id
    assert cli("jobs", "show", "last", "--json").json["id"] == newer.id
    result = cli("jobs", "show", "ab")
    assert (result.code, result.err.splitlines()[0]) == (Code.USAGE, "Several jobs start with ab: abc1, abc2.")
    assert cli("jobs", "cancel", "abc1", "--no-wait").code == Code.OK
    assert cli.ledger.need("abc1").state is State.CANCELLED


def test_waiting_is_given_up_on_request_and_the_job_continues(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    result = cli("jobs", "wait", job.id, "--timeout", "0.1")
    assert result.code == Code.TIMED_OUT
    assert result.err.startswith(f"Not over after 0.1 s: {job.id} (queued).")
    assert cli.ledger.need(job.id).state is State.QUEUED


def test_cancelling_a_running_job_waits_until_it_has_stopped_and_says_so(world: Cli) -> None:
    job_id = nap(world, "cancelled", "--ticks", "10000")
    running(world, job_id)
    raised = world("jobs", "cancel", job_id)
    assert raised.code == Code.OK
    assert f"{job_id} is running: its worker stops it after a checkpoint." in raised.err
    assert re.search(rf"{job_id} cancelled after \d+\.\d s: cancelled by the user", raised.err)
    assert world.ledger.need(job_id).state is State.CANCELLED
    assert not (world.home / "store" / "saes" / "cancelled").exists()


def test_cancelling_what_has_not_started_or_is_over(cli: Cli) -> None:
    parent = cli.ledger.submit(Job(new_job_id(), "train", "p", "training", {}))
    child = cli.ledger.submit(Job(new_job_id(), "train", "c", "training", {}, parents=(parent.id,)))
    assert "cancelled before it started" in cli("jobs", "cancel", parent.id).err
    assert cli.ledger.need(child.id).state is State.CANCELLED
    result = cli("jobs", "cancel", child.id)
    assert (result.code, result.err) == (Code.OK, f"{child.id} is over already: cancelled.\n")


def test_cancelling_a_job_nobody_looks_after_is_given_up(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "train", "p", "training", {}))
    cli.ledger.claim(job.id, "gone@h", "h")
    assert cli("jobs", "cancel", job.id, "--timeout", "0.1").code == Code.TIMED_OUT


def clients(world: Cli) -> dict[str, str]:
    """The last command of each client of Redis, by its id."""
    lines = [
        dict(word.split("=", 1) for word in line.split())
        for line in world.ledger.client.call("CLIENT", "LIST").splitlines()
    ]
    return {line["id"]: line["cmd"] for line in lines}


def test_ctrl_c_while_waiting_leaves_the_job_alone(world: Cli) -> None:
    job_id = nap(world, "left-alone", "--ticks", "10000")
    running(world, job_id)
    before = clients(world)
    waiting = world.start("jobs", "wait", job_id)
    until(lambda: "hgetall" in [command for client, command in clients(world).items() if client not in before])
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=PATIENCE_S)
    assert (waiting.returncode, err) == (Code.INTERRUPTED, "")
    assert world.ledger.need(job_id).state is State.RUNNING
    world("jobs", "cancel", job_id)


def test_ctrl_c_while_a_submission_waits_still_prints_what_was_submitted(world: Cli) -> None:
    world.ledger.queues.pause("training")  # so that no process of the job asks Redis, too
    try:
        before = clients(world)
        waiting = world.start("submit", "nap", "--name", "waited-for", "--wait", "--json")
        until(lambda: "hgetall" in [command for client, command in clients(world).items() if client not in before])
        waiting.send_signal(signal.SIGINT)
        out, _ = waiting.communicate(timeout=PATIENCE_S)
    finally:
        world("jobs", "cancel", "waited-for")
        world.ledger.queues.resume("training")
    assert waiting.returncode == Code.INTERRUPTED
    made = json.loads(out)
    assert (made["name"], made["state"]) == ("waited-for", "queued")
    assert world.ledger.need(made["id"]).state is State.CANCELLED, "by this test"


@pytest.mark.parametrize("words", ["jobs ls", "jobs show last", "queue ls", "top --once"])
def test_a_pipe_gets_no_colour(world: Cli, words: str) -> None:
    assert "\x1b" not in world(*words.split()).out


def test_tags_and_what_a_job_tries_again_are_shown_where_there_are_any(cli: Cli) -> None:
    first = cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    assert "TAGS" not in cli("jobs", "ls").out
    again = Job(new_job_id(), "train", "b", "training", {}, tags=("night", "sweep:1"), retry_of=first.id, gpu="none")
    cli.ledger.submit(again)
    header, newest, older = cli("jobs", "ls").out.splitlines()
    assert "TAGS" in header
    assert "night, sweep:1" in newest
    assert older.split()[0] == first.id
    shown = cli("jobs", "show", again.id).out
    assert [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith(("tags", "gpu"))] == [
        "none",
        "night, sweep:1",
    ]
    assert f"retry of  {first.id}" in shown
