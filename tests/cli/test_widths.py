"""Every table fits a terminal of 80 columns, and narrower ones, with the longest values and letters of any width."""

from __future__ import annotations

import re

import pytest

from mistudio_cli.monitor.hosts import HostRow
from mistudio_cli.monitor.snapshot import QueueRow, WorkerRow
from mistudio_cli.profile.rules import load_profile, profile_files, read_profile
from mistudio_cli.supervisor.worker_events import Change
from mistudio_cli.terminal.layout import columns, cut, fitting, lay_out
from mistudio_cli.views import host_tables, profile_tables, sae_tables, tables
from tasks.accelerators.devices import Device
from tasks.fleet.host_heartbeat import Gpu, HostHeartbeat
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import Estimate
from tasks.jobs.record import Job, Progress, State
from tasks.queues import QUEUE_NAMES

LONG = "EleutherAI--pythia-160m-deduped-l6-topk-k32-expansion-16"
WIDE = "語" * 40
NOW = 2_000_000.0


def a_job(number: int, state: State) -> Job:
    return Job(
        new_job_id(),
        "activations",
        (LONG, WIDE)[number % 2],
        QUEUE_NAMES[number % len(QUEUE_NAMES)],
        {},
        state=state,
        attempt=10,
        reason=f"its parent {new_job_id()} (tokenize) failed: " + "no such file " * 9,
        parents=(new_job_id(), new_job_id()),
        tags=("sweep:01kg9t2tzzh7mq", WIDE),
        progress=Progress("evaluating", 12_345, 1_000_000, "tokens", 1234.5),
        metrics={"loss": 1.25, "fvu": 0.123, "l0": 32.0},
        device="NVIDIA H200 141GB HBM3e",
        worker="worker-high-priority@a-host-with-a-long-name.example.org",
        created_at=NOW - 800_000,
        started_at=NOW - 100_000,
        queued_at=NOW - 90_000,
        finished_at=NOW if state.ended else None,
    )


JOBS = [a_job(number, state) for number, state in enumerate(State)]
QUEUES = [
    QueueRow(name, "no worker", 123_456, 12, 86_399.0, 100, 800, (1234.5, 0.123, 99.9), 1e6) for name in QUEUE_NAMES
]
WORKERS = [
    WorkerRow(
        f"worker-{name}-12@a-host-with-a-long-name.example.org",
        "draining",
        4_194_304,
        QUEUE_NAMES,
        8,
        8,
        12 << 30,
        3 << 30,
        1234.0,
        12,
        NOW - 800_000,
        "killed by SIGKILL (memory?)",
        None,
        None,
        "its store is not the others'",
    )
    for name in ("high-priority", "all-queues")
]
SAE = {"architecture": "topk_skip_transcoder", "trained_as": "matryoshka", "model": LONG, "hooks": [LONG, WIDE]}
SAE |= {"hook_out": LONG, "d_sae": 1_048_576, "l0": 123.4567, "explained_variance": 0.98765, "dead_fraction": 0.12345}
CARD = Device(0, "NVIDIA H200 141GB HBM3e", "GPU-x", 150 << 30, 149 << 30, 100.0, 90.0, 700.0)
CHANGE = Change("2026-01-31T12:00:00.000Z", WORKERS[0].name, "running", "backoff", 4_194_304, "killed by SIGKILL " * 9)

HEARTBEAT = HostHeartbeat(
    "a-host-with-a-long-name.example.org",
    *("/home/somebody/.local/share/mistudio", 4_194_304, NOW - 800_000, NOW - 300, -86_400.0, "1.22.333"),
    *(384, 3 << 40, 1234.5, LONG, 900 << 40, "the disk of the store does not answer"),
    *((Gpu(0, "NVIDIA H200 141GB HBM3e", "GPU-x", 150 << 30, 1 << 30),) * 8, None),
)
HOSTS = [
    HostRow(HEARTBEAT.host, "silent", 12, 123, 300.0, HEARTBEAT, (HEARTBEAT, HEARTBEAT)),
    HostRow("pod", "workers only", 1, 1, None, None, ()),
]

TABLES = {
    "queue ls": (tables.queues(QUEUES), False),
    "queue peek": (tables.peek(JOBS, NOW), False),
    "jobs ls": (tables.jobs(JOBS, NOW), False),
    "submit --dry-run": (tables.planned(JOBS, [Estimate(1e6, 1 << 40, 1 << 40)] * len(JOBS)), False),
    "top, jobs": (tables.live_jobs(JOBS, NOW), False),
    "workers status": (tables.workers(WORKERS, NOW), False),
    "hosts ls": (host_tables.hosts(HOSTS), False),
    "hosts show": (host_tables.facts(HOSTS[0], NOW), True),
    "workers events": (tables.events([CHANGE]), True),
    "top, devices": (tables.devices([CARD], {}, {}), False),
    "saes ls": (sae_tables.table([{**SAE, "name": LONG}, {**SAE, "name": "a"}]), False),
    "profiles ls": (profile_tables.profiles([read_profile(file) for file in profile_files()]), True),
    "profiles show": (profile_tables.profile_workers(load_profile("full")), False),
    "profiles validate": (profile_tables.validated([read_profile(file) for file in profile_files()]), True),
    "doctor": (
        (["CHECK", "VERDICT", "DETAIL"], [["redis", "failed", "it does not answer " * 20], ["gpu", "ok", LONG * 9]]),
        True,
    ),
}


@pytest.mark.parametrize("width", [120, 80, 60, 40])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_and_keeps_what_matters(name: str, width: int) -> None:
    (headers, rows), wrap = TABLES[name]
    lines = lay_out(*fitting(headers, rows, width), width, colour=False, wrap=wrap).splitlines()
    assert max(map(columns, lines)) <= width, "\n".join(lines)
    assert lines[0].split()[0] == headers[0]
    starts = [line.strip() for line in lines[1:]]
    for row in rows:
        assert any(start.startswith(cut(row[0], 14).rstrip("…")) for start in starts)


@pytest.mark.parametrize(
    ("name", "must"),
    [
        ("queue ls", "PENDING ETA"),
        ("jobs ls", "NAME STATE"),
        ("workers status", "BUSY STATE"),
        ("hosts ls", "STATE WORKERS BUSY"),
    ],
)
def test_at_80_columns_the_columns_people_look_for_are_there(name: str, must: str) -> None:
    (headers, rows), _ = TABLES[name]
    assert set(must.split()) <= set(fitting(headers, rows, 80)[0])


@pytest.mark.parametrize("name", ["queue ls", "jobs ls", "top, jobs", "workers status", "hosts ls"])
def test_however_narrow_a_table_is_it_has_the_state(name: str) -> None:
    (headers, rows), _ = TABLES[name]
    assert "STATE" in fitting(headers, rows, 40)[0]


def test_at_40_columns_the_state_of_a_queue_is_whole() -> None:
    headers, rows = tables.queues(QUEUES)
    assert "no worker" in lay_out(*fitting(headers, rows, 40), 40, colour=False)


def test_a_text_that_is_wrapped_is_there_whole() -> None:
    (headers, rows), _ = TABLES["doctor"]
    words = re.split(r"\s+", lay_out(headers, rows, 80, colour=False, wrap=True))
    assert words.count("answer") == 20
    assert LONG * 9 in "".join(words)


def test_a_usual_queue_list_at_80_columns_goes_without_what_workers_status_shows() -> None:
    rows = [QueueRow(name, "no worker", 128, 2, 3600.0, 1, 8, (0.0, 0.6, 0.2), 7200.0) for name in QUEUE_NAMES]
    headers, cells = tables.queues(rows)
    assert [name for name in headers if name not in fitting(headers, cells, 80)[0]] == ["CONSUMERS", "SLOTS"]


def test_letters_of_any_width_line_up() -> None:
    lines = lay_out(["A", "B"], [["語" * 3, "1"], ["e\u0301e", "2"]], 80, colour=False).splitlines()
    assert [columns(line.rstrip()) for line in lines] == [9, 9, 9]
    assert cut("語語語", 5) == "語語…"
    assert columns(cut("語" * 9, 6)) <= 6
