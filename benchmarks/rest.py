"""`serve` under many clients: a thousand event streams, and the health report beside Flower's list of workers.

`STREAM_SECONDS=600` lengthens the streams, `CLIENTS=50` lowers their number.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.fleets import Fleet, own_fleet
from benchmarks.flower import Flower, flower
from benchmarks.home import served
from benchmarks.http_clients import Lags
from benchmarks.running_jobs import running_jobs

CLIENTS, SECONDS = int(os.environ.get("CLIENTS", "1000")), float(os.environ.get("STREAM_SECONDS", "30"))

#: As many change at once as make a patch of about 4 KB.
RUNNING = 10
AT_ONCE, ASKED_S = 20, 10.0
SETTLE_S = 5.0


def measure() -> list[dict[str, Any]]:
    """Share of a core, lag and memory of the streams; then requests per second of both servers on the same fleet."""
    with own_fleet() as fleet, running_jobs(fleet.url, RUNNING, waiting=0):
        with _served(fleet) as (port, server):
            rows = _streams(port, server)
        with _served(fleet) as (port, _), flower(fleet.url) as theirs:
            return [*rows, *_requests(port, theirs)]


def _streams(port: int, server: psutil.Process) -> list[dict[str, Any]]:
    """One row: what the server spends, once all clients are there, and how old events are when they arrive."""
    with _clients("streams", str(port), str(CLIENTS), str(SECONDS)) as clients:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "connected\n", "the clients could not connect"
        rss, cpu_before, began = [server.memory_info().rss], _cpu_s(server), time.monotonic()
        while not select.select([clients.stdout], [], [], 1.0)[0]:
            rss.append(server.memory_info().rss)
        lags = Lags(**json.loads(clients.stdout.readline()))
        span = time.monotonic() - began
        cpu = 100 * (_cpu_s(server) - cpu_before) / span
    return [
        {
            "name": f"{CLIENTS} event streams at 1 Hz for {SECONDS:g} s",
            "% of a core": round(cpu, 1),
            "bytes per event": round(lags.bytes_per_event),
            "events per client": round(lags.events / CLIENTS, 1),
            "p50 lag, ms": round(lags.p50_ms),
            "p99 lag, ms": round(lags.p99_ms),
            **{f"RSS {when}, MB": round(bytes_ / 1e6, 1) for when, bytes_ in _at_times(rss).items()},
        }
    ]


def _at_times(values: Sequence[float]) -> dict[str, float]:
    """How sampled values went: what is flat ends where it was halfway."""
    return {"at the start": values[0], "halfway": values[len(values) // 2], "at the end": values[-1]}


def _requests(port: int, peer: Flower | None) -> list[dict[str, Any]]:
    """Requests per second of both, asked in turns by as many connections."""
    ours = f"http://127.0.0.1:{port}/api/v1/workers/health"
    theirs = None if peer is None else f"http://127.0.0.1:{peer.port}/api/workers"
    rates: dict[str, list[float]] = {}
    for url in (ours, theirs) * 3:
        if url is not None:
            with _clients("requests", url, str(AT_ONCE), str(ASKED_S / 3)) as clients:
                assert clients.stdout is not None
                rates.setdefault(url, []).append(float(clients.stdout.readline()))
    row: dict[str, Any] = {"name": f"requests/s of the health report, {AT_ONCE} at once", "ours": _middle(rates[ours])}
    if theirs is None:
        return [{**row, "Flower's /api/workers": "Flower is not installed: pip install flower"}]
    row["Flower's /api/workers"] = _middle(rates[theirs])
    return [{**row, "ratio": round(row["ours"] / row["Flower's /api/workers"], 2)}]


def _middle(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1)


@contextmanager
def _clients(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Clients in a process of their own, which print what they have seen."""
    command = [sys.executable, "-m", "benchmarks.http_clients", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _served(fleet: Fleet) -> Iterator[tuple[int, psutil.Process]]:
    """`mistudio serve` of that fleet: its port and process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the clients have as many connections
    with served(fleet.environment, "--max-connections", str(CLIENTS + 100)) as (port, pid):
        time.sleep(SETTLE_S)
        yield port, psutil.Process(pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
