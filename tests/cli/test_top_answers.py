"""What `top` answers on a small screen: what runs where, when it is done, why it waits, and what is wrong."""

from __future__ import annotations

import re
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from mistudio_cli.machine import host
from mistudio_cli.monitor.snapshot import Snapshot, Trouble
from mistudio_cli.terminal.humanize import note, root_cause
from mistudio_cli.top.alarms import alarms
from mistudio_cli.top.frame.text import Span, plain, wrapped
from mistudio_cli.top.reading import parts_of
from mistudio_cli.top.view import View
from tasks.jobs.record import Job, Progress, State
from tests.cli import recorded
from tests.cli.painted import frame_of


def test_an_alarm_of_redis_keeps_the_command_at_80_columns() -> None:
    sentence = "/a/long/path/of/a/home/run/redis.sock (pid 4975, stopped) does not answer (waited 1 s); kill -CONT 4975"
    parts = parts_of(Snapshot(errors=(Trouble("ledger", sentence),)), 0.0)
    (alarm,) = alarms(parts)
    assert alarm.command == "kill -CONT 4975"
    assert alarm.text(78).endswith("… (kill -CONT 4975)")


def ended(number: int, state: State = State.SUCCEEDED, reason: str = "") -> Job:
    return replace(recorded.ENDED[0], id=f"1kg9t2tzzh9e{number:02}", state=state, error=None, reason=reason)


def idle(*jobs: Job) -> Snapshot:
    """Workers and queues that have nothing to do, one worker of which is silent, and these jobs."""
    assert recorded.SNAPSHOT.queues is not None
    assert recorded.SNAPSHOT.workers is not None
    queues = tuple(replace(row, pending=0, running=0, state="ok") for row in recorded.SNAPSHOT.queues)
    workers = tuple(replace(row, state="running", busy=0) for row in recorded.SNAPSHOT.workers)
    last = replace(workers[-1], name="worker-last@lab", state="silent", seen_age_s=30.0)
    return replace(recorded.SNAPSHOT, queues=queues, workers=(*workers[:-1], last), jobs=jobs, devices=None)


def test_a_failed_job_says_why_and_failed_ones_that_are_not_shown_are_counted() -> None:
    why = "its parent 1kg9t2tzzh9e98 (tokenize) failed: 1kg9t2tzzh9e99 (download) failed: The Hub cannot be reached"
    jobs = [ended(number) for number in range(20)] + [ended(20, State.FAILED, why)]
    jobs = [replace(job, finished_at=recorded.NOW - place) for place, job in enumerate(jobs)]
    (line,) = (line for line in frame_of(idle(jobs[-1]), 80, 24).text if " failed " in line)
    assert line.endswith("…")
    assert "a parent failed" in line
    assert re.search(r"… \d+ more jobs: 1 failed, \d+ succeeded", "\n".join(frame_of(idle(*jobs), 80, 24).text))


@pytest.mark.parametrize(
    ("state", "attempt", "shown"),
    [
        (State.QUEUED, 0, ""),
        (State.QUEUED, 1, "its worker was lost"),
        (State.SUCCEEDED, 1, ""),
        (State.SUCCEEDED, 2, "its worker was lost"),
        (State.WAITING, 0, "its worker was lost"),
    ],
)
def test_a_reason_is_shown_but_for_what_goes_without_saying(state: State, attempt: int, shown: str) -> None:
    assert note(replace(ended(1, state, "its worker was lost"), attempt=attempt)) == shown


def test_a_job_whose_parent_was_cancelled_says_so_without_ids() -> None:
    assert root_cause("its parent 1kg9 (train) cancelled: by alice") == "a parent was cancelled: by alice"
    assert root_cause("its parent 1kg9 (a) failed: 1kg8 (b) failed: broke") == "a parent failed: broke"
    assert root_cause("broke: its parent 1kg9 (a) failed: no") == "broke: its parent 1kg9 (a) failed: no"


def test_jobs_and_a_worker_in_trouble_come_before_queues_and_workers_with_nothing_to_do() -> None:
    lines = frame_of(idle(*(ended(number) for number in range(20))), 80, 24).text
    assert sum(line.startswith("1kg9") for line in lines) >= 6
    assert "\n\n\n" not in "\n".join(lines)
    assert any(line.startswith("worker-last@lab") for line in lines)


def test_a_job_that_waits_for_a_device_says_so_at_80_columns() -> None:
    phase = "waiting for the processor: cpu is held by job 1kg9t2tzzh7m01"
    waits = replace(recorded.RUNNING[0], id="1kg9t2tzzh7m09", progress=Progress(phase, 0, None, ""), metrics=None)
    seen = Snapshot(read_at=recorded.NOW, jobs=(recorded.RUNNING[0], waits))
    (line,) = (line for line in frame_of(seen, 80, 10).text if line.startswith(waits.id))
    assert line.split(waits.device or "-")[-1].split()[0] == "waiting"


def test_columns_come_back_where_there_is_room_for_them() -> None:
    named = replace(recorded.RUNNING[0], name="sae", metrics=None)
    text = frame_of(Snapshot(read_at=recorded.NOW, jobs=(named, named)), 84, 10).text
    (head,) = (line for line in text if line.startswith("JOB"))
    assert head.split() == ["JOB", "KIND", "NAME", "QUEUE", "STATE", "DEVICE", "PROGRESS"]


def test_the_queues_of_workers_keep_their_room_beside_a_long_last_exit() -> None:
    assert recorded.SNAPSHOT.workers is not None
    exits = "killed by SIGKILL after it had sent no heartbeat"
    workers = tuple(replace(row, last_exit=exits, state="running") for row in recorded.SNAPSHOT.workers)
    text = frame_of(Snapshot(read_at=recorded.NOW, workers=workers), 120, 40).text
    assert [line.split()[-1] for line in text if line.startswith("worker-t")] == ["training"]
    assert not [line for line in text if line.startswith("worker-") and "@" in line and line.endswith("…")]


def test_a_filter_that_nothing_matches_says_how_to_drop_it() -> None:
    assert "no job matches /zzz: Esc drops the filter" in frame_of(idle(), 80, 24, View(filters={"jobs": "zzz"})).text


def test_lines_are_broken_between_words() -> None:
    text = "  It waits.  (mistudio jobs explain 1kg9t2tzzh7m01)"
    broken = [plain(line) for line in wrapped(Span(text), 22)]
    assert broken == ["  It waits.  (mistudio", "jobs explain", "1kg9t2tzzh7m01)"]
    assert [plain(line) for line in wrapped(Span("  " + "x" * 10), 5)] == ["  xxx", "xxxxx", "xx"]


def test_the_share_of_busy_cores_is_since_the_last_look_whichever_thread_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader on a thread of its own has no earlier look to compare with: it would say 0 % of a machine at work."""
    times = namedtuple("times", ("user", "idle"))
    looks = [times(0.0, 0.0), times(1.0, 1.0), times(5.0, 2.0), times(5.1, 2.2)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu=False: looks[0])
    monkeypatch.setattr(host, "_last_look", None)
    monkeypatch.setattr(time, "sleep", lambda _: looks.pop(0))
    assert host.read_load().cpu_percent == 50
    looks.pop(0)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(host.read_load).result().cpu_percent == 80
    looks.pop(0)
    assert host.read_load().cpu_percent == 80, "too soon after the last one"
