"""A job's log shows its course: each attempt's beginning, what it published, and the reason of its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

from mistudio_cli.jobs.job_logs import as_record
from tasks.jobs.kind import Job, State
from tests.core.lab import Lab


def log_of(lab: Lab, job: Job) -> str:
    return (lab.folder / "home" / "logs" / "jobs" / f"{job.id}.log").read_text()


def messages(lab: Lab, job: Job) -> list[str]:
    """What the lines of the job's log say after the job and the attempt, without times in seconds."""
    result = re.findall(rf"job={job.id} attempt=(\d+) (.*)", log_of(lab, job))
    return [f"{attempt}: {re.sub(r'after [0-9.]+ s', 'after N s', message)}" for attempt, message in result]


def test_the_log_of_a_job_that_went_well_shows_its_course(lab: Lab) -> None:
    lab.start_worker()
    slow, quick = lab.submit("nap", name="a", ticks=1), lab.submit("blink", note="x")
    lab.ended(slow)
    lab.ended(quick)
    where = lab.store.path("saes", "a")
    assert messages(lab, slow) == [
        "1: nap a: attempt 1 of at most 3 on cpu",
        "1: ticks 1",
        f"1: published saes/a in {where}",
        "1: nap a succeeded after N s",
    ]
    assert messages(lab, quick) == [
        "1: blink blink: attempt 1 of at most 3 on cpu",
        "1: note x",
        "1: blink blink succeeded after N s",
    ]


def test_the_log_of_a_killed_and_resumed_job_has_both_attempts(lab: Lab) -> None:
    lab.start_worker()
    job = lab.submit("hike", name="b", ticks=30)
    os.kill(lab.under_way(job).pid, signal.SIGKILL)
    lab.ended(job)
    lab.stop_worker()
    result = messages(lab, job)
    assert result[:3] == ["1: hike b: attempt 1 of at most 2 on cpu", "1: ticks 30", "1: starts from scratch"]
    assert result[3].startswith("1: hike b queued: its process was killed (SIGKILL)")
    assert result[4:6] == ["2: hike b: attempt 2 of at most 2 on cpu", "2: ticks 30"]
    assert re.fullmatch(r"2: resumes at tick [1-9]\d*", result[6])
    assert result[-1] == "2: hike b succeeded after N s"


def test_the_log_of_a_failed_and_of_a_cancelled_job_end_with_the_reason(lab: Lab) -> None:
    lab.start_worker()
    failed, cancelled = lab.submit("nap", name="c", ticks=1, end="raise"), lab.submit("nap", name="d", ticks=10_000)
    lab.under_way(cancelled)
    lab.ledger.request_cancel(cancelled.id)
    lab.ended(cancelled)
    lab.ended(failed)
    lab.stop_worker()
    assert messages(lab, failed)[-1] == "1: nap c failed after N s: ValueError: told to raise"
    assert "Traceback (most recent call last)" in log_of(lab, failed)
    assert messages(lab, cancelled)[-1].endswith("cancelled by the user; stopped on request")


def test_a_workers_log_has_the_outcome_of_each_job(lab: Lab) -> None:
    lab.start_worker()
    jobs = [lab.submit("nap", name="e", ticks=1), lab.submit("nap", name="f", ticks=1, end="raise")]
    jobs += [lab.submit("nap", name="g", ticks=10_000)]
    lab.under_way(jobs[2])
    lab.ledger.request_cancel(jobs[2].id)
    states = [lab.ended(job).state for job in jobs]
    assert states == [State.SUCCEEDED, State.FAILED, State.CANCELLED]
    lab.stop_worker()
    log = (lab.folder / "worker.log").read_text()
    for job in jobs:
        lines = [line for line in log.splitlines() if job.id in line]
        assert any(f"{job.kind} {job.name} {lab.ledger.need(job.id).state}" in line for line in lines), lines
        assert not any("ignored" in line for line in lines), lines


def test_json_is_written_on_request(lab: Lab) -> None:
    lab.start_worker(MISTUDIO_LOG_FORMAT="json")
    job = lab.submit("nap", name="h", ticks=1)
    lab.ended(job)
    lab.stop_worker()
    records = [json.loads(line) for line in log_of(lab, job).splitlines()]
    assert [(r["job"], r["attempt"]) for r in records] == [(job.id, 1)] * len(records)
    assert records[-1]["message"].startswith("nap h succeeded after ")
    assert [as_record(json.dumps(r), job.id) for r in records] == records


def test_each_line_of_a_text_log_is_a_record_too() -> None:
    line = "2026-01-31 12:00:00,123 WARNING mistudio.job job=j1 attempt=2 a b"
    result = as_record(line, "j1")
    assert result.pop("time").endswith(":00:00.123Z")
    assert result == {"level": "WARNING", "logger": "mistudio.job", "job": "j1", "attempt": 2, "message": "a b"}
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
