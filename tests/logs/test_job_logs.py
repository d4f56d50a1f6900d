"""A job's log shows its course: each attempt's beginning, what it published, and the reason of its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from mistudio_cli.jobs.job_logs import as_record
from tasks.jobs.record import Job, State
from tests.fixtures.stack import Stack


def log_of(stack: Stack, job: Job) -> str:
    return (stack.folder / "home" / "logs" / "jobs" / f"{job.id}.log").read_text()


def messages(stack: Stack, job: Job) -> list[str]:
    """What the lines of the job's log say after the job and the attempt, without times in seconds."""
    result = re.findall(rf"job={job.id} attempt=(\d+) (.*)", log_of(stack, job))
    return [f"{attempt}: {re.sub(r'after [0-9.]+ s', 'after N s', message)}" for attempt, message in result]


def test_the_log_of_a_job_that_went_well_shows_its_course(stack: Stack) -> None:
    stack.start_worker()
    slow, quick = stack.submit("nap", name="a", ticks=1), stack.submit("blink", note="x")
    stack.ended(slow)
    stack.ended(quick)
    where = stack.store.path("saes", "a")
    assert messages(stack, slow) == [
        "1: nap a: attempt 1 of at most 3 on cpu",
        "1: ticks 1",
        f"1: published saes/a in {where}",
        "1: nap a succeeded after N s",
    ]
    assert messages(stack, quick) == [
        "1: blink blink: attempt 1 of at most 3 on cpu",
        "1: note x",
        "1: blink blink succeeded after N s",
    ]


def test_the_log_of_a_killed_and_resumed_job_has_both_attempts(stack: Stack) -> None:
    stack.start_worker()
    over = stack.folder / "over"
    job = stack.submit("hike", name="b", ticks=100_000, until=str(over))
    os.kill(stack.under_way(job).pid, signal.SIGKILL)
    over.touch()
    stack.ended(job)
    stack.stop_worker()
    result = messages(stack, job)
    chosen = f"ticks 100000, until {over}"
    assert result[:3] == ["1: hike b: attempt 1 of at most 2 on cpu", f"1: {chosen}", "1: starts from scratch"]
    assert result[3].startswith("1: hike b queued: its process was killed (SIGKILL)")
    assert result[4:6] == ["2: hike b: attempt 2 of at most 2 on cpu", f"2: {chosen}"]
    assert re.fullmatch(r"2: resumes at tick [1-9]\d*", result[6])
    assert result[-1] == "2: hike b succeeded after N s"


def test_a_runner_killed_after_its_job_had_ended_adds_no_second_end(stack: Stack) -> None:
    stack.start_worker()
    job = stack.submit("linger", name="i", ticks=1)
    stack.ended(job)
    runner = stack.runner(job)
    assert runner is not None
    runner.kill()
    stack.stop_worker()
    assert [line for line in messages(stack, job) if "succeeded" in line] == ["1: linger i succeeded after N s"]


def test_the_log_of_a_failed_and_of_a_cancelled_job_end_with_the_reason(stack: Stack) -> None:
    stack.start_worker()
    failed, cancelled = stack.submit("nap", name="c", ticks=1, end="raise"), stack.submit("nap", name="d", ticks=10_000)
    stack.under_way(cancelled)
    stack.ledger.request_cancel(cancelled.id)
    stack.ended(cancelled)
    stack.ended(failed)
    stack.stop_worker()
    assert messages(stack, failed)[-1] == "1: nap c failed after N s: ValueError: asked to raise"
    assert "Traceback (most recent call last)" in log_of(stack, failed)
    assert messages(stack, cancelled)[-1].endswith("cancelled by the user; stopped on request")


def test_a_workers_log_has_the_outcome_of_each_job(stack: Stack) -> None:
    stack.start_worker()
    jobs = [stack.submit("nap", name="e", ticks=1), stack.submit("nap", name="f", ticks=1, end="raise")]
    jobs += [stack.submit("nap", name="g", ticks=10_000)]
    stack.under_way(jobs[2])
    stack.ledger.request_cancel(jobs[2].id)
    states = [stack.ended(job).state for job in jobs]
    assert states == [State.SUCCEEDED, State.FAILED, State.CANCELLED]
    stack.stop_worker()
    log = (stack.folder / "worker.log").read_text()
    for job in jobs:
        lines = [line for line in log.splitlines() if job.id in line]
        assert any(f"{job.kind} {job.name} {stack.ledger.need(job.id).state}" in line for line in lines), lines
        assert not any("ignored" in line for line in lines), lines


#: The events of a job that makes an artifact.
EVENTS = ["attempt_started", "artifact_published", "attempt_succeeded"]


@pytest.mark.parametrize("variable", ["MISTUDIO_LOG", "MISTUDIO_LOG_FORMAT"])
def test_json_is_written_on_request(stack: Stack, variable: str) -> None:
    stack.start_worker(**{variable: "json"})
    job = stack.submit("nap", name="h", ticks=1)
    stack.ended(job)
    stack.stop_worker()
    records = [json.loads(line) for line in log_of(stack, job).splitlines()]
    assert [(r["job"], r["attempt"]) for r in records] == [(job.id, 1)] * len(records)
    assert records[-1]["message"].startswith("nap h succeeded after ")
    assert [r["event"] for r in records if r["event"]] == EVENTS
    assert {(r["worker"], r["queue"]) for r in records} == {(stack.ledger.need(job.id).worker, job.queue)}
    lines = (stack.folder / "worker.log").read_text().splitlines()
    of_worker = [json.loads(line) for line in lines if line.startswith("{")]
    others = [line for line in lines if line and not line.startswith("{")]
    assert all("shutdown" in line.lower() for line in others), "Celery itself prints that, past logging"
    assert [r["job"] for r in of_worker if r["event"] == "job_succeeded"] == [job.id]
    assert {r["worker"] for r in of_worker} == {stack.ledger.need(job.id).worker}
    assert all({"time", "level", "job", "attempt", "worker", "queue", "event"} <= set(r) for r in of_worker)
    assert [as_record(json.dumps(r), job.id) for r in records] == records


def test_each_line_of_a_text_log_is_a_record_too() -> None:
    line = "2026-01-31 12:00:00,123 WARNING mistudio.job job=j1 attempt=2 a b"
    result = as_record(line, "j1")
    assert result.pop("time").endswith(":00:00.123Z")
    unknown = dict.fromkeys(("worker", "queue", "event"))
    known = {"level": "WARNING", "logger": "mistudio.job", "job": "j1", "attempt": 2, "message": "a b"}
    assert result == known | unknown
    for odd in ("  a library's own line", "{", '{"a": 1}', "{" * 100_000, ""):
        assert as_record(odd, "j1")["message"] == odd
        assert as_record(odd, "j1")["level"] is None


def test_nothing_in_a_message_passes_for_a_record_or_steers_a_terminal() -> None:
    code = (
        "import logging\nfrom tasks.system.log_output import log_to_stderr\nlog_to_stderr()\n"
        r"logging.getLogger('x').warning('a\n2026-01-31 12:00:00,123 INFO mistudio.slot nap b succeeded\x1b[2J\u202e')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert first.endswith("WARNING x a")
    assert second == r"    2026-01-31 12:00:00,123 INFO mistudio.slot nap b succeeded\x1b[2J\u202e"


@pytest.mark.parametrize(
    "line",
    [
        "2026-02-30 10:00:00,000 INFO root of no day",
        "0000-00-00 00:00:00,000 INFO root of no year",
        f"2026-02-03 10:00:00,000 INFO root job=x attempt={'9' * 5000} of no number",
        "٢٠٢٦-02-03 10:00:00,000 INFO root of other digits",
        "{" * 5000,
    ],
)
def test_whatever_a_job_prints_is_a_line(line: str) -> None:
    record = as_record(line, "j")
    assert record["message"]
    assert line.endswith(record["message"])
    assert record["job"] in ("j", "x")
