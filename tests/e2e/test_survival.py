"""One training on `full`, and every process that can be killed is killed under it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.conftest import until
from tests.e2e.conftest import CELERY, Home

pytestmark = pytest.mark.timeout(1800)

STEPS = 4000
TRAIN = (
    "submit train --model toy --dataset python-stdlib-toy-128 --layer 2 --arch topk --k 16 --batch 1024 "
    f"--steps {STEPS} --checkpoint-s 1 --name survivor"
)


@pytest.fixture
def full(lit_home: tuple[Home, object]) -> Iterator[Home]:
    home, _ = lit_home
    home.type("workers start full")
    yield home
    home.type("workers stop --all --now")


class Training:
    """The job under attack."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.id = home.read(TRAIN)["id"]

    def told(self) -> dict[str, Any]:
        return self.home.job(self.id)

    def goes_on(self, attempt: int) -> int:
        """Wait until that attempt has done a step more than when asked; how many tokens it has done then."""

        def done() -> int:
            told = self.told()
            at_work = told["state"] == "running" and told["attempt"] == attempt and told["progress"]
            return told["progress"]["done"] if at_work and told["progress"]["phase"] == "training" else 0

        first = until(done, 120, f"attempt {attempt}: {self.told()}")
        return int(until(lambda: (now := done()) > first and now, 120, f"attempt {attempt}: {self.told()}"))

    def worker(self) -> psutil.Process:
        rows = self.home.read("workers status")["workers"]
        return psutil.Process(next(row["pid"] for row in rows if row["queues"] == ["training"]))


def test_a_training_survives_the_death_of_each_process_around_it(full: Home) -> None:
    training = Training(full)
    job = training.id

    training.goes_on(attempt=1)
    seen_by_celery(full, job)
    seen_by_flower(full, job)
    full.runner_of(job).kill()

    training.goes_on(attempt=2)
    slot = full.runner_of(job).parent()
    assert slot is not None
    slot.kill()

    training.goes_on(attempt=3)
    worker = training.worker()
    family = [worker, *worker.children(recursive=True)]
    worker.kill()
    until(lambda: not any(process.is_running() for process in family), 15)

    training.goes_on(attempt=4)
    redis = next(process for process in full.processes() if "redis-server" in process.name())
    redis.kill()
    training.goes_on(attempt=4)

    supervisor = psutil.Process(full.read("workers status")["supervisor"]["pid"])
    supervisor.kill()
    full.type(f"jobs wait {job}")
    full.type("workers start full")

    told = training.told()
    assert (told["state"], told["attempt"], told["result"]["steps"]) == ("succeeded", 4, STEPS)
    reasons = [event["reason"] for event in told["events"] if event["state"] == "queued"]
    assert [reason for reason in reasons if "SIGKILL" in reason] == [reasons[1]]
    assert len([reason for reason in reasons if "stopped renewing its lease" in reason]) == 2
    artifact = full.folder / "store" / "saes" / "survivor"
    steps = [json.loads(line)["step"] for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((artifact / "manifest.json").read_text())["job"] == job
    assert not (full.folder / "store" / ".tmp" / job).exists()


def seen_by_celery(home: Home, job_id: str) -> None:
    """`celery inspect active` and `celery status` see the job under its own id."""
    url = broker_url(home)
    active = run_celery("-b", url, "inspect", "active", "--json")
    tasks = [task for worker in json.loads(active).values() for task in worker]
    assert [(task["id"], task["name"], task["args"]) for task in tasks] == [(job_id, "mistudio.train", [job_id])]
    assert "6 nodes online" in run_celery("-b", url, "status")


def seen_by_flower(home: Home, job_id: str) -> None:
    """Flower sees the six workers and the job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flower = subprocess.Popen(
        [CELERY, "-b", broker_url(home), "flower", f"--port={port}", "--address=127.0.0.1"],
        env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
        cwd=home.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def active() -> list[str]:
            address = f"http://127.0.0.1:{port}/api/workers?refresh=1"
            try:
                with urllib.request.urlopen(address, timeout=10) as reply:
                    workers = json.load(reply)
            except OSError:
                return []
            return [task["id"] for worker in workers.values() for task in worker.get("active") or ()]

        until(lambda: active() == [job_id], 60, "Flower to see the job")
    finally:
        flower.terminate()
        flower.wait(30)


def broker_url(home: Home) -> str:
    settings = {setting["name"]: setting for setting in home.read("config show")["settings"]}
    return str(settings["broker_url"]["value"])


def run_celery(*arguments: str) -> str:
    done = subprocess.run([CELERY, *arguments], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout
