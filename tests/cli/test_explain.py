"""`mistudio jobs explain` and `jobs retry`: what keeps a job, in sentences; and once more what has ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress, State
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tests.cli.conftest import Cli, repeated

WORKER = WorkerHeartbeat("worker-training@here", "here", 7, ("training",), 1, 0.0)


def submit(cli: Cli, **changes: Any) -> Job:
    return cli.ledger.submit(Job(new_job_id(), "nap", changes.pop("name", "a"), "training", {"ticks": 1}, **changes))


def causes(cli: Cli, job: Job) -> list[str]:
    return [cause["sentence"] for cause in cli("jobs", "explain", job.id, "--json").json["causes"]]


def test_no_worker_consumes_its_queue(cli: Cli) -> None:
    job = submit(cli)
    result = cli("jobs", "explain", job.id)
    assert result.out == (
        f"{job.id} (nap a) is queued.\n- No worker consumes its queue training.  (mistudio workers start full)\n"
    )


def test_its_queue_is_paused_and_all_slots_are_busy_and_others_come_first(cli: Cli) -> None:
    running, before, job = submit(cli, name="r"), submit(cli), submit(cli)
    assert cli.ledger.claim(running.id, WORKER.name, "here", 7)
    cli.ledger.queues.pause("training")
    with repeated(cli, lambda ledger: ledger.heartbeat(WORKER)):
        paused, busy, place = causes(cli, job)
        assert paused.startswith("Its queue training has been paused for ")
        assert busy == f"Its workers' slots (1) are all busy: {running.id} (nap r)."
        assert place == "1 job comes before it in its queue."
        assert causes(cli, before)[-1] == busy


def test_what_is_next_says_so(cli: Cli) -> None:
    with repeated(cli, lambda ledger: ledger.heartbeat(WORKER)):
        assert causes(cli, submit(cli)) == [
            "Its workers could run 1 job of training now: it starts in a moment.",
            "It is the next of its queue.",
        ]


def test_what_is_next_in_a_paused_queue_does_not_start(cli: Cli) -> None:
    cli.ledger.queues.pause("training")
    with repeated(cli, lambda ledger: ledger.heartbeat(WORKER)):
        (only,) = causes(cli, submit(cli))
    assert only.startswith("Its queue training has been paused for ")


def test_what_never_ran_has_no_log_to_look_at(cli: Cli) -> None:
    job = submit(cli)
    cli.ledger.request_cancel(job.id)
    commands = [cause["command"] for cause in cli("jobs", "explain", job.id, "--json").json["causes"]]
    assert commands == [f"mistudio jobs show {job.id}", f"mistudio jobs retry {job.id}"]


def test_it_waits_for_a_parent(cli: Cli) -> None:
    parent = submit(cli, name="p")
    assert causes(cli, submit(cli, parents=(parent.id,))) == [f"It waits for {parent.id} (nap p), which is queued."]


def test_what_runs_says_how_far_it_is_and_why_it_was_put_back(cli: Cli) -> None:
    job = submit(cli)
    claim = cli.ledger.claim(job.id, WORKER.name, "here", 7)
    assert claim is not None
    cli.ledger.put_back(claim, "its process was killed (SIGKILL)", loss=True)
    claim = cli.ledger.claim(job.id, WORKER.name, "here", 7)
    assert claim is not None
    cli.ledger.report(claim, Progress("waiting for a GPU: cuda:0 is held by job x", 0, None, ""))
    doing, past = causes(cli, job)
    assert doing.endswith("; waiting for a GPU: cuda:0 is held by job x.")
    assert past == "It went back to its queue once, the last time because its process was killed (SIGKILL)."
    cli.ledger.request_cancel(job.id)
    assert causes(cli, job)[1] == "It is stopping, within its grace period."


def test_a_worker_that_stopped_consuming_is_named_instead_of_starting_others_in_vain(cli: Cli) -> None:
    job = submit(cli)
    cli.ledger.heartbeat(replace(WORKER, loop_at=cli.ledger.now() - 3600))
    (cause,) = cli("jobs", "explain", job.id, "--json").json["causes"]
    assert cause["sentence"] == f"{WORKER.name} has not consumed its queue for 1 h 0 min."
    assert cause["command"] == f"mistudio workers logs {WORKER.name}"


def test_a_job_that_ended_is_submitted_once_more_and_both_say_so(cli: Cli) -> None:
    first = cli.ledger.submit(
        Job(new_job_id(), "nap", "n", "training", {"ticks": 1}, priority=8, tags=("t",), gpu="none", artifact="saes/n")
    )
    assert cli("jobs", "retry", first.id).code == Code.USAGE
    cli.ledger.request_cancel(first.id)
    assert causes(cli, first)[0].startswith("It was cancelled")
    (result,) = cli("jobs", "retry", first.id, "--json").json["jobs"]
    again = cli.ledger.need(result["id"])
    assert (result["retry_of"], again.retry_of) == (first.id, first.id)
    assert (again.params["ticks"], again.name, again.priority, again.tags, again.gpu) == (1, "n", 8, ("t",), "none")
    assert again.state is State.QUEUED
    assert causes(cli, again)[-1] == f"It is another try of {first.id}."
    assert cli("jobs", "retry", first.id).err == (
        f"saes/n is being made by job {again.id}.\n  Wait for that: mistudio jobs wait {again.id}\n"
    )


def test_nothing_is_submitted_when_one_of_several_cannot_be(cli: Cli) -> None:
    ended, live = submit(cli), submit(cli)
    cli.ledger.request_cancel(ended.id)
    assert f"Job {live.id} is queued" in cli("jobs", "retry", ended.id, live.id).err
    assert len(cli.ledger.page().jobs) == 2


def test_a_child_names_its_parents_reason_and_what_to_try_again(cli: Cli) -> None:
    parent = cli.ledger.submit(Job(new_job_id(), "download", "a", "datasets", {}, artifact="datasets/a"))
    child = cli.ledger.submit(Job(new_job_id(), "tokenize", "b", "processing", {}, parents=(parent.id,)))
    claim = cli.ledger.claim(parent.id, "w@h", "h")
    cli.ledger.finish(claim, State.FAILED, "no file 'x'")
    assert cli.ledger.need(child.id).reason == "its parent a (download) failed: no file 'x'"
    result = cli("jobs", "explain", child.id).out
    assert result.startswith(f"{child.id} (tokenize b) has failed.\n")
    assert f": its parent a (download) failed: no file 'x'  (mistudio jobs show {child.id})\n" in result
    assert f"same parameters, after another try of a.  (mistudio jobs retry {child.id})\n" in result
    assert result.count("no file 'x'") == 1
    assert "no file 'x'" in cli("jobs", "ls").out.split(child.id)[1].splitlines()[0]


def test_what_is_shown_of_a_running_job_has_no_word_of_the_ledger_for_a_reason(cli: Cli) -> None:
    job = submit(cli)
    assert cli.ledger.claim(job.id, WORKER.name, "here", 7)
    shown = cli("jobs", "show", job.id).out
    assert "claimed" not in shown
    assert shown.splitlines()[-1].endswith(f"running by {WORKER.name}")
