"""What `top` costs while it is left open, next to the smallest rich.Live program that shows as many rows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleets import BIN, own_fleet
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import Job, Progress
from tasks.ledger.client import Claim, Ledger
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import connect

JOBS, RUNNING = 500, 6
ROWS, COLUMNS = 40, 120
SETTLE_S, WATCHED_S = 5.0, 30.0
#: Starts of each, in turns, of which the median counts.
ROUNDS = 9

#: A digest of parameters that no worker has: the jobs of this measurement are left alone.
_OF_NO_WORKER = "benchmark"

BARE_LIVE = """
import time
from rich.console import Console
from rich.live import Live
from rich.table import Table
def view(number):
    table = Table("JOB", "KIND", "NAME", "STATE", "DEVICE", "PROGRESS", box=None)
    for row in range(30):
        done = f"{number} % {number}/100 steps" if row < 6 else "queued"
        table.add_row(f"1kg9t2tzzh7m{row:02}", "train", f"pythia-160m-l6-{row}", "running", "cuda:0", done)
    return table
with Live(view(0), console=Console(), screen=True, auto_refresh=False) as live:
    for number in range(10_000):
        live.update(view(number), refresh=True)
        time.sleep(1)
"""


@dataclass(frozen=True)
class Cost:
    """Milliseconds until the first rows are written; per second, bytes and the share of a core in percent."""

    first_ms: float
    bytes_per_s: float
    cpu_percent: float


def measure() -> list[dict[str, Any]]:
    """A row for each measure: of `top` at 1 Hz, of the bare program, and of nvitop where it is installed."""
    with own_fleet() as fleet, _jobs(fleet.url), tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_LIVE)
        programs = {
            "ours": ([str(BIN / "mistudio"), "top"], b"q quit", fleet.environment),
            "bare rich.Live": ([sys.executable, str(bare)], b"JOB", fleet.environment),
        }
        if (nvitop := shutil.which("nvitop")) is not None:
            command = [nvitop, "monitor", "full", "--interval", "1"]
            programs["nvitop"] = (command, b"NVITOP", fleet.environment)
        first = _first_ms(programs)
        costs = {name: replace(_watch(*program), first_ms=first[name]) for name, program in programs.items()}
    what = f"top at 1 Hz, {len(QUEUE_NAMES)} workers, {JOBS} jobs of which {RUNNING} run"
    measures = {"ms to the first frame": "first_ms", "bytes/s": "bytes_per_s", "% of a core": "cpu_percent"}
    return [
        {"name": f"{what}: {name}", **{who: round(getattr(cost, key), 1) for who, cost in costs.items()},
         "ratio": round(getattr(costs["ours"], key) / getattr(costs["bare rich.Live"], key), 2)}
        for name, key in measures.items()
    ]  # fmt: skip


def _first_ms(programs: dict[str, tuple[list[str], bytes, dict[str, str]]]) -> dict[str, float]:
    """Milliseconds to the first rows of each, medians of starts in turns."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            with _started(*program) as (_, _, first_ms):
                times[name].append(first_ms)
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def _jobs(url: str) -> Iterator[None]:
    """Jobs of which some run, as far as the ledger knows: what they do is no part of this."""
    with closing(connect(url)) as client:
        ledger, over = Ledger(client), threading.Event()
        jobs = [
            Job(new_job_id(), "train", f"pythia-160m-l6-topk-{number}", "training", {}, digest=_OF_NO_WORKER)
            for number in range(JOBS)
        ]
        claims = [_claimed(ledger, ledger.submit(job), number) for number, job in enumerate(jobs[:RUNNING])]
        ledger.queues.pause("training")
        for job in jobs[RUNNING:]:
            ledger.submit(job)

        def advance() -> None:
            steps = 0
            while not over.wait(1.0):
                steps += 25
                for claim in claims:
                    ledger.renew(claim)
                    ledger.report(claim, Progress("training", steps, 20_000, "steps", 25.0))

        thread = threading.Thread(target=advance)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _claimed(ledger: Ledger, job: Job, number: int) -> Claim:
    claim = ledger.claim(job.id, f"worker-{number}@bench", "bench")
    assert claim is not None
    return claim


def _watch(command: list[str], first: bytes, environment: dict[str, str]) -> Cost:
    """Run a command in a terminal of its own, and count what it writes and computes once it has settled."""
    with _started(command, first, environment) as (pid, ours, first_ms):
        _count(ours, SETTLE_S)
        before, start = _cpu_s(pid), time.monotonic()
        written = _count(ours, WATCHED_S)
        span = time.monotonic() - start
        return Cost(first_ms, written / span, 100 * (_cpu_s(pid) - before) / span)


@contextmanager
def _started(command: list[str], first: bytes, environment: dict[str, str]) -> Iterator[tuple[int, int, float]]:
    """A command in a terminal that has shown its first rows: its pid, the terminal, and how long that took, in ms."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = b""
        while first not in seen:
            seen += _read(ours, 30.0)
        yield process.pid, ours, (time.monotonic() - began) * 1000
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _count(fd: int, seconds: float) -> int:
    """The bytes that come in that time."""
    until, count = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        count += len(_read(fd, left))
    return count


def _read(fd: int, seconds: float) -> bytes:
    ready, _, _ = select.select([fd], [], [], seconds)
    return os.read(fd, 65536) if ready else b""


def _cpu_s(pid: int) -> float:
    """Seconds of a core that a process and those it has started used."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in [top, *top.children()])
