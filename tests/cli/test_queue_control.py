"""`mistudio queue peek|pause|resume|purge|move`, `jobs set-priority|rm`: as typed, and as they hold."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import Any

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.quotas import Quota, set_quota
from tasks.queues import QUEUES
from tests.cli.conftest import MISTUDIO, Cli
from tests.fixtures.stack import Stack, kinds_of_the_tests, stack  # noqa: F401 - fixtures


def submit(cli: Cli, queue: str = "training", **changes: Any) -> str:
    return cli.ledger.submit(Job(new_job_id(), "train", "a", queue, {}, **changes)).id


def test_peek_lists_what_is_queued_in_the_order_in_which_it_will_be_started(cli: Cli) -> None:
    low, high, middle = (submit(cli, priority=priority, tags=("mine",)) for priority in (1, 9, 5))
    result = cli("queue", "peek", "training", "--json").json
    assert ([job["id"] for job in result["jobs"]], result["pending"]) == ([high, middle, low], 3)
    assert [job["place"] for job in result["jobs"]] == [0, 1, 2]
    seen = cli("queue", "peek", "training", "--limit", "2")
    assert [line.split()[0] for line in seen.out.splitlines()[1:]] == [high, middle]
    assert "mine" in seen.out
    assert seen.err == "1 more: --limit\n"
    assert cli("queue", "peek", "datasets").err == "Nothing is queued in datasets.\n"


def test_an_unknown_queue_is_reported_with_those_that_exist(cli: Cli) -> None:
    for words in (("peek", "trainings"), ("pause", "trainings"), ("purge", "trainings", "--yes")):
        result = cli("queue", *words)
        assert result.code == Code.USAGE
        assert result.err.startswith("There is no queue 'trainings'.")
    assert cli("queue", "pause").err.startswith("No queues given.")
    for verb in ("pause", "resume"):
        both = cli("queue", verb, "training", "--all")
        assert (both.code, both.err.splitlines()[0]) == (Code.USAGE, "--all means every queue, and some are named.")


def test_pause_and_resume_say_what_they_hold(cli: Cli) -> None:
    submit(cli)
    assert cli("queue", "pause", "training").err == (
        "training is paused; 1 job queued. Resume: mistudio queue resume training\n"
    )
    assert "was paused already" in cli("queue", "pause", "training").err
    listed = cli("queue", "ls")
    assert [line for line in listed.out.splitlines() if line.startswith("training ") and "paused" in line]
    assert "mistudio queue resume training" in listed.err
    assert cli("queue", "resume", "--all").err.count("\n") == len(QUEUES)
    assert {row["state"] for row in cli("queue", "ls", "--json").json["queues"]} == {"no worker"}


def test_a_pause_survives_the_restart_of_everything(stack: Stack) -> None:  # noqa: F811
    stack.start_worker()
    assert stack.ledger.queues.pause("training")
    held = stack.submit("nap", ticks=1)
    stack.stop_worker()
    stack.redis.kill()
    stack.redis.start()
    stack.start_worker()
    quick = stack.submit("blink", note="another queue continues")
    assert stack.ended(quick).state is State.SUCCEEDED
    assert stack.ledger.need(held.id).state is State.QUEUED
    assert stack.ledger.queues.counts()["training"].paused_at is not None
    stack.ledger.queues.resume("training")
    assert (stack.ended(held).state, stack.ended(held).attempt) == (State.SUCCEEDED, 1)


def test_purge_asks_and_does_nothing_unless_somebody_says_yes(cli: Cli) -> None:
    ids = [submit(cli) for _ in range(3)]
    result = cli("queue", "purge", "training")
    assert (result.code, "mistudio queue purge training --yes" in result.err) == (Code.USAGE, True)
    for answer, left in (("n\n", 3), ("y\n", 0)):
        assert "Cancel 3 jobs queued in training, and those that wait for them?" in typed(
            cli, answer, "queue", "purge", "training"
        )
        assert cli.ledger.queues.counts()["training"].pending == left
    assert cli.ledger.need(ids[0]).state is State.CANCELLED
    assert cli("queue", "purge", "training", "--yes", "--json").json == {"queue": "training", "cancelled": 0}


def typed(cli: Cli, answer: str, *words: str) -> str:
    """What a command says to a person at a terminal who answers so."""
    person, terminal = pty.openpty()
    argv = [MISTUDIO, *words]
    command = subprocess.Popen(argv, env=cli.environment, stdin=terminal, stderr=subprocess.PIPE, text=True)
    os.write(person, answer.encode())
    said = command.communicate(timeout=60)[1]
    os.close(person), os.close(terminal)
    return said


def test_a_job_is_moved_to_another_queue_or_to_the_top_and_its_place_is_reported(cli: Cli) -> None:
    first, second = submit(cli), submit(cli)
    assert cli("queue", "move", second, "--top").err == f"{second} is in training, and starts next.\n"
    submit(cli, "extraction")
    moved = cli("queue", "move", first, "--to", "extraction").err
    assert moved == f"{first} is in extraction, and starts next.\n", "it is older than the one that is there"
    assert cli("queue", "move", first).code == Code.USAGE
    child = submit(cli, parents=(first,))
    assert "when its parents are done" in cli("queue", "move", child, "--to", "extraction").err
    cli.ledger.claim(first, "w@h", "h")
    assert f"Job {first} is running" in cli("queue", "move", first, "--top").err


def test_of_a_job_that_is_over_its_owner_s_quota_no_place_is_reported(cli: Cli) -> None:
    set_quota(cli.ledger.client, "alice", Quota(running=1))
    first, second = (submit(cli, owner="alice") for _ in range(2))
    assert cli.ledger.claim(first, "w@h", "h")
    assert not cli.ledger.claim(second, "w@h", "h")
    assert (
        cli("queue", "move", second, "--top").err
        == f"{second} is in training, and starts when its owner's quota has room.\n"
    )


def test_another_priority_is_printed_with_the_one_before(cli: Cli) -> None:
    first, second = submit(cli), submit(cli)
    assert cli("jobs", "set-priority", second, "8").err == f"{second} has priority 8 now; it had 5.\n"
    assert cli.ledger.queues.order("training", 2) == [second, first]
    assert cli("jobs", "set-priority", second, "11").code == Code.USAGE


def test_only_jobs_that_have_ended_are_removed_and_their_logs_with_them(cli: Cli) -> None:
    job, live = submit(cli), submit(cli)
    log = cli.home / "logs" / "jobs" / f"{job}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("words\n")
    cli.ledger.request_cancel(job)
    result = cli("jobs", "rm", job, live)
    assert (result.code, f"mistudio jobs cancel {live}" in result.err, log.exists()) == (Code.USAGE, True, True)
    assert cli("jobs", "rm", job).err == f"{job} is removed.\n"
    assert (cli.ledger.get(job), log.exists()) == (None, False)
    assert cli("jobs", "show", job).code == Code.NOT_FOUND


def test_jobs_are_listed_by_name_and_tag(cli: Cli) -> None:
    tagged, _ = submit(cli, tags=("sweep:1",)), submit(cli)
    assert [job["id"] for job in cli("jobs", "ls", "--tag", "sweep:1", "--json").json["jobs"]] == [tagged]
    assert len(cli("jobs", "ls", "--name", "a", "--json").json["jobs"]) == 2
    assert cli("jobs", "ls", "--name", "b", "--json").json["jobs"] == []
