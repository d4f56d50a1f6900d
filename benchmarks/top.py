"""What `top` costs while it is left open, next to the smallest rich.Live program that shows as many rows, and to peers.

nvitop, gpustat and Flower are measured where they are installed, on the PATH or among the peers; without a GPU, all are
given the stand-in for a driver that the tests have, with two GPUs. Flower writes to no terminal, so it has no bytes.
"""

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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleets import BIN, own_fleet
from benchmarks.flower import flower
from benchmarks.peer_environment import ROOT
from benchmarks.running_jobs import running_jobs
from tasks.queues import QUEUE_NAMES

JOBS, RUNNING = 500, 6
ROWS, COLUMNS = 40, 120
SETTLE_S, WATCHED_S = 5.0, 30.0
_PATH = os.pathsep.join((str(BIN), str(ROOT / ".peers/bin"), os.environ["PATH"]))
#: Starts of each, in turns, of which the median counts.
ROUNDS = 9

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
    """A row for each measure: of `top` at 1 Hz, of the bare program, and of the peers."""
    with (
        own_fleet() as fleet,
        running_jobs(fleet.url, RUNNING, JOBS - RUNNING),
        tempfile.TemporaryDirectory() as folder,
    ):
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_LIVE)
        environment = {**fleet.environment, **_driver(Path(folder))}
        commands = {
            "ours": ([str(BIN / "mistudio"), "top"], b"q quit"),
            "bare rich.Live": ([sys.executable, str(bare)], b"JOB"),
            "nvitop": (["nvitop", "-m", "full", "--interval", "1"], b"NVITOP"),
            "gpustat": (["gpustat", "--interval", "1"], b"[0]"),
        }
        programs = {
            name: ([found, *command[1:]], first, environment)
            for name, (command, first) in commands.items()
            if (found := shutil.which(command[0], path=_PATH)) is not None
        }
        first = _first_ms(programs)
        costs = {name: replace(_watch(*program), first_ms=first[name]) for name, program in programs.items()}
        of_flower = _percent_of_flower(fleet.url)
    what = f"top at 1 Hz, {len(QUEUE_NAMES)} workers, {JOBS} jobs of which {RUNNING} run"
    measures = {"ms to the first frame": "first_ms", "bytes/s": "bytes_per_s", "% of a core": "cpu_percent"}
    return [
        {"name": f"{what}: {name}", **{who: round(getattr(cost, key), 1) for who, cost in costs.items()},
         **(of_flower if key == "cpu_percent" else {}),
         "ratio": round(getattr(costs["ours"], key) / getattr(costs["bare rich.Live"], key), 2)}
        for name, key in measures.items()
    ]  # fmt: skip


def _percent_of_flower(url: str) -> dict[str, float]:
    """The share of a core that Flower takes while nobody looks at it; nothing where it is not installed."""
    with flower(url) as running:
        if running is None:
            return {}
        before, start = _cpu_s(running.process.pid), time.monotonic()
        time.sleep(WATCHED_S)
        return {"Flower": round(100 * (_cpu_s(running.process.pid) - before) / (time.monotonic() - start), 1)}


def _driver(folder: Path) -> dict[str, str]:
    """Where the stand-in for a driver is; nothing where there is a real one, or no C compiler."""
    compiler = shutil.which("cc")
    if shutil.which("nvidia-smi") or compiler is None:
        return {}
    source, library = ROOT / "tests/fake_nvml/nvml.c", folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-Wl,-soname,libnvidia-ml.so.1", "-o", library], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_GPUS": "2"}


def _first_ms(programs: dict[str, tuple[list[str], bytes, dict[str, str]]]) -> dict[str, float]:
    """Milliseconds to the first rows of each, medians of starts in turns."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            with _started(*program) as (_, _, first_ms):
                times[name].append(first_ms)
    return {name: statistics.median(values) for name, values in times.items()}


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
    """What comes within that time. A program that asks where the cursor is gets an answer, as from any terminal."""
    ready, _, _ = select.select([fd], [], [], seconds)
    read = os.read(fd, 65536) if ready else b""
    os.write(fd, b"\x1b[1;1R" * read.count(b"\x1b[6n"))
    return read


def _cpu_s(pid: int) -> float:
    """Seconds of a core that a process and those it has started used."""
    top = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in [top, *top.children()])
