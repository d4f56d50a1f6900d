"""What thirty workers without jobs cost the Redis they share, next to as many plain Celery workers, and `top` then."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.fleets import BIN, PLAIN_APP, end
from mistudio_cli.redis import redis_server
from tasks.paths import Places
from tasks.redis_client.redis_connection import connect
from tasks.redis_client.redis_url import parse_url

FEW, MANY = 3, 30
SETTLE_S, COUNTED_S, ROUNDS = 20.0, 15.0, 5


def measure() -> list[dict[str, Any]]:
    """Commands and connections of one idle worker; milliseconds of `top --once` with few workers and with many."""
    with _workers(MANY, _plain) as (url, _):
        plain = _cost(url)
    with _workers(FEW, _own) as (_, environment):
        few_ms = _top_ms(environment)
    with _workers(MANY, _own) as (url, environment):
        own, many_ms = _cost(url), _top_ms(environment)
    rows = [
        {"name": f"{what}, of one of {MANY} idle workers", "ours": mine, "plain celery": theirs}
        for what, mine, theirs in zip(("commands per second", "connections"), own, plain, strict=True)
    ]
    return [*rows, {"name": f"top --once with {FEW} workers, ms", "ours": round(few_ms)},
            {"name": f"top --once with {MANY} workers, ms", "ours": round(many_ms),
             "ratio": round(many_ms / few_ms, 2)}]  # fmt: skip


Command = Callable[[int], list[str]]


def _own(number: int) -> list[str]:
    return [sys.executable, "-P", "-m", "tasks.worker", "--name", f"w{number}", "--slots", "8"]


def _plain(number: int) -> list[str]:
    return [str(BIN / "celery"), "-A", "plain", "worker", "-c", "1", f"--hostname=w{number}@%h"]


@contextmanager
def _workers(count: int, command: Command) -> Iterator[tuple[str, dict[str, str]]]:
    """Start `count` workers on a Redis of their own and let them settle; its URL and their environment."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    places = Places(folder, folder / "store")
    url = redis_server.own_url(places)
    (folder / "plain.py").write_text(PLAIN_APP.format(url=url))
    environment = {**os.environ, "MISTUDIO_HOME": str(folder), "CELERY_BROKER_URL": url}
    server, started = redis_server.start(places), []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        while not redis_server.answers(places):
            time.sleep(0.01)
        for number in range(count):
            started.append(subprocess.Popen(command(number), cwd=folder, env=environment, **quiet))
        _await_subscribers(url, count)
        time.sleep(SETTLE_S)
        yield url, environment
    finally:
        end([*started, *filter(None, [server])])
        shutil.rmtree(folder, ignore_errors=True)


def _await_subscribers(url: str, count: int) -> None:
    """Wait until `count` workers receive broadcasts."""
    with closing(connect(url)) as client:
        while sum(" psub=0 " not in line for line in client.call("CLIENT", "LIST").splitlines()) < count:
            time.sleep(0.2)


def _cost(url: str) -> tuple[float, float]:
    """Commands per second and connections of each worker; what scripts call crosses no network and is not counted."""
    path = parse_url(url).path
    with closing(Redis(unix_socket_path=path)) as client, closing(Redis(unix_socket_path=path)) as ended:
        with client.monitor() as monitor:
            timer = threading.Timer(COUNTED_S, ended.echo, ["the end"])
            timer.start()
            sent, began = 0, time.monotonic()
            while (received := monitor.next_command())["command"] != "ECHO the end":
                sent += received["client_type"] != "lua"
            rate = sent / (time.monotonic() - began)
            timer.join()
        connections = len(ended.client_list()) - 2  # this one, and what has watched
    return round(rate / MANY, 2), round(connections / MANY, 2)


def _top_ms(environment: dict[str, str]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([str(BIN / "mistudio"), "top", "--once"], env=environment, capture_output=True, check=True)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
