"""One training on `full`, and every process that can be killed is killed under it."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistudio_cli.errors import Code
from tasks.queues import QUEUES
from tests.conftest import PATIENCE_S, until
from tests.e2e.conftest import CELERY, Home
from tests.fixtures.ports import reserved_port
from tests.fixtures.stack import EXTRA, TrainLimit

pytestmark = pytest.mark.timeout(1800)

STEPS, BATCH = 200, 256
TRAIN = (
    f"submit train --model toy --dataset text --layer 2 --arch topk --k 16 --batch {BATCH} "
    f"--steps {STEPS} --checkpoint-s 0 --eval-tokens 2048 --name survivor"
)
TEXT = Path(sysconfig.get_path("stdlib")) / "asyncio"


@pytest.fixture
def full(home: Home) -> Iterator[Home]:
    """A worker for each queue, and a model that has learned next to nothing, which takes as long to train on."""
    home.environment |= {"PYTHONPATH": str(EXTRA), **TrainLimit(home.folder).variables}
    home.type("workers start full")
    home.type(f"submit download {TEXT} --pattern *.py --name text --wait")
    home.type("submit toy-model --dataset text --steps 5 --name toy --wait")
    home.type("submit tokenize --dataset text --model toy --wait")
    yield home
    home.type("workers stop --all --now")


class Training:
    """The job under attack."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.limit = TrainLimit(home.folder)  # or it would end before all has been killed
        self.limit.may_reach(0)
        self.id = home.read(TRAIN)["id"]

    def status(self) -> dict[str, Any]:
        return self.home.job(self.id)

    def wait_for_progress(self, attempt: int) -> int:
        """Wait until that attempt has done a step more than when asked; how many tokens it has done then."""

        def done() -> int:
            answer = self.home.type(f"jobs show {self.id} --json", code=None)
            if answer.returncode == Code.UNREACHABLE:  # Redis may be on its way up
                return 0
            assert answer.returncode == 0, answer.stderr
            result = json.loads(answer.stdout)
            at_work = result["state"] == "running" and result["attempt"] == attempt and result["progress"]
            return result["progress"]["done"] if at_work and result["progress"]["phase"] == "training" else 0

        first = until(done, f"attempt {attempt} to begin")
        self.limit.may_reach(first + 4 * BATCH)
        return int(until(lambda: (now := done()) > first and now, f"attempt {attempt} to do a step"))

    def worker(self) -> psutil.Process:
        rows = self.home.read("workers status")["workers"]
        return psutil.Process(next(row["pid"] for row in rows if row["queues"] == ["training"]))


def test_a_training_survives_the_death_of_each_process_around_it(full: Home) -> None:
    with flower(full) as flower_says:
        training = Training(full)
        job = training.id
        training.wait_for_progress(attempt=1)
        seen_by_celery(full, job)
        task = until(lambda: flower_says("tasks").get(job), "Flower to see the job")
        assert (task["name"], task["state"]) == ("mistudio.train", "STARTED")
    full.runner_of(job).kill()

    training.wait_for_progress(attempt=2)
    slot = full.runner_of(job).parent()
    assert slot is not None
    slot.kill()

    training.wait_for_progress(attempt=3)
    worker = training.worker()
    family = [worker, *worker.children(recursive=True)]
    worker.kill()
    until(lambda: not any(process.is_running() for process in family))

    training.wait_for_progress(attempt=4)
    full.process_where(lambda process: "redis-server" in process.name(), "Redis").kill()
    training.wait_for_progress(attempt=4)

    supervisor = psutil.Process(full.read("workers status")["supervisor"]["pid"])
    supervisor.kill()
    training.limit.ends()
    full.type(f"jobs wait {job}")
    full.type("workers start full")

    result = training.status()
    assert (result["state"], result["attempt"], result["result"]["steps"]) == ("succeeded", 4, STEPS)
    reasons = [event["reason"] for event in result["events"] if event["state"] == "queued"]
    assert [reason for reason in reasons if "SIGKILL" in reason] == [reasons[1]]
    assert len([reason for reason in reasons if "stopped renewing its lease" in reason]) == 2
    artifact = full.folder / "store" / "saes" / "survivor"
    steps = [json.loads(line)["step"] for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((artifact / "manifest.json").read_text())["job"] == job
    assert not (full.folder / "store" / ".tmp" / job).exists()


def seen_by_celery(home: Home, job_id: str) -> None:
    """`celery inspect active` and `celery status` see the job under its own id, if not of late replies."""
    url = broker_url(home)

    def active() -> list[dict[str, Any]]:
        replies = json.loads(run_celery("-b", url, "inspect", "active", "--json") or "{}")
        return [task for worker in replies.values() for task in worker]

    tasks = until(active, "the worker of trainings to reply")
    assert [(task["id"], task["name"], task["args"]) for task in tasks] == [(job_id, "mistudio.train", [job_id])]
    until(lambda: f"{len(QUEUES)} nodes online" in run_celery("-b", url, "status"), "all workers to reply")


@contextmanager
def flower(home: Home) -> Iterator[Callable[[str], Any]]:
    """Flower, watching this home's Redis: what its REST interface says."""
    with reserved_port() as port:
        process = subprocess.Popen(
            [CELERY, "-b", broker_url(home), "flower", f"--port={port}", "--address=127.0.0.1"],
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
            cwd=home.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def says(path: str) -> Any:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=10) as reply:
                    return json.load(reply)
            except OSError:
                return {}

        try:
            until(lambda: len(says("workers?refresh=1")) == len(QUEUES), "Flower to see all workers")
            yield says
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def broker_url(home: Home) -> str:
    settings = {setting["name"]: setting for setting in home.read("config show")["settings"]}
    return str(settings["broker_url"]["value"])


def run_celery(*arguments: str) -> str:
    """What it prints; nothing when no worker has replied in time."""
    done = subprocess.run([CELERY, *arguments], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode in (0, os.EX_UNAVAILABLE), done.stderr
    return "" if done.returncode else done.stdout
