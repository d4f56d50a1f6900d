"""Flower on the same Redis, where it is installed; `MISTUDIO_FLOWER` names its `celery` in another environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.fleets import BIN
from tasks.queues import QUEUE_NAMES

SETTLE_S = 5.0


@dataclass(frozen=True)
class Flower:
    """A running Flower: its port on loopback, and its process."""

    port: int
    process: psutil.Process


@contextmanager
def flower(url: str) -> Iterator[Flower | None]:
    """Flower, once it has seen a worker for each queue and settled; None where it is not installed."""
    celery = os.environ.get("MISTUDIO_FLOWER", str(BIN / "celery"))
    if subprocess.run([celery, "flower", "--help"], capture_output=True, check=False).returncode != 0:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [celery, "-b", url, "flower", f"--port={port}", "--address=127.0.0.1"]
    environment = {**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, cwd="/", stdout=null, stderr=null)
    try:
        while len(_json_at(f"http://127.0.0.1:{port}/api/workers?refresh=1")) < len(QUEUE_NAMES):
            if process.poll() is not None:
                raise SystemExit("Flower ended: `celery flower` says why; it needs celery[redis].")
            time.sleep(0.5)
        time.sleep(SETTLE_S)
        yield Flower(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def _json_at(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)
    except OSError:
        return {}
