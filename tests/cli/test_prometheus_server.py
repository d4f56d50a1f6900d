"""A real Prometheus scrapes a real server: each query of the dashboard and each rule is answered."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.fleet.host_heartbeat import Gpu
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.ledger.client import Claim, Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import connect
from tests.cli.conftest import Cli
from tests.cli.test_hosts import heartbeat
from tests.cli.test_rest_routes import server_of
from tests.conftest import PATIENCE_S, until
from tests.deploy.test_prometheus import DASHBOARD, RULES, SCRAPE, rules
from tests.fixtures.ports import reserved_port

LONG_S = PATIENCE_S
HEARTBEAT = WorkerHeartbeat("all-queues@h", "h", 7, QUEUE_NAMES, 8, 1000.0)

#: An alert has data where something is wrong; what is recorded always has.
RECORDED = [rule["expr"] for rule in rules() if "record" in rule]
OF_PANELS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


@pytest.fixture
def prometheus() -> str:
    """Its path: that in PROMETHEUS, or the one on the path."""
    found = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus here: apt-get install prometheus, or name one in PROMETHEUS")
    return found


@pytest.fixture
def fleet(cli: Cli, driver: Path) -> Iterator[Cli]:
    """A home with a supervised worker and a GPU of the fake driver, and a host elsewhere with another GPU.

    One job trains, two have ended, one is on a paused queue.
    """
    jobs = [cli.ledger.submit(Job(new_job_id(), "train", f"run {n}", "training", {})) for n in range(4)]
    done, failed, running = (
        cli.ledger.claim(job.id, HEARTBEAT.name, HEARTBEAT.host, HEARTBEAT.pid) for job in jobs[:3]
    )
    assert done is not None
    assert failed is not None
    assert running is not None
    cli.ledger.finish(done, State.SUCCEEDED, "done")
    cli.ledger.finish(failed, State.FAILED, "it fails")
    cli.ledger.queues.pause("training")
    values = {"loss": 0.5, "l0": 32.0, "fvu": 0.2, "tokens_per_s": 1000.0}
    cli.ledger.report(running, Progress("training", 1, 4, "steps"), MetricPoint(1, values))
    is_over = threading.Event()
    alive = threading.Thread(target=keep_alive, args=(cli.broker_url, running, is_over))
    alive.start()
    try:
        started = cli("workers", "start", "--queues", "low_priority", **gpus_of(driver))
        assert started.code == 0, started.err
        yield cli
    finally:
        cli("workers", "stop", "--all", "--now")
        is_over.set()
        alive.join()


def gpus_of(driver: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1"}


def keep_alive(url: str, running: Claim, is_over: threading.Event) -> None:
    """Send the heartbeats of a worker and of a host elsewhere, and renew the lease of a job, until that is over."""
    ledger = Ledger(connect(url))
    gpu = Gpu(0, "a card", "GPU-far", 24 << 30, 20 << 30, utilisation=75.0, temperature=61, power=302.6)
    while not is_over.wait(0.5):
        ledger.heartbeat(HEARTBEAT)
        ledger.renew(running)
        heartbeat(ledger, "far", gpus=(gpu,))
    ledger.close()


@pytest.fixture
def asked(fleet: Cli, prometheus: str, driver: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """Prometheus with the configuration of the repository, but for the port and the interval, after several scrapes."""
    with server_of(fleet, **gpus_of(driver)) as server, reserved_port() as port:
        configuration = yaml.safe_load(SCRAPE.read_text(encoding="utf-8"))
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = configuration["scrape_configs"]
        job["scrape_timeout"] = "1s"
        job["static_configs"] = [{"targets": [f"127.0.0.1:{server.base_url.port}"]}]
        (tmp_path / "scrape.yml").write_text(yaml.safe_dump(configuration))
        shutil.copy(RULES, tmp_path)
        words = [f"--config.file={tmp_path}/scrape.yml", f"--storage.tsdb.path={tmp_path}/data"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [prometheus, *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
            )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LONG_S) as client:
                until(lambda: has_samples(client), (tmp_path / "log").read_text()[-1000:])
                yield client
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def has_samples(client: httpx.Client) -> bool:
    """Whether there are several samples, and the recorded rules were evaluated with them."""
    try:
        if not client.get("/-/ready").is_success:
            return False
        counts = result_of(client, "count_over_time(mistudio_jobs_total[1m])")
        recorded = result_of(client, "mistudio:jobs_failed:ratio_rate1h")
    except httpx.TransportError:
        return False
    return bool(recorded) and all(float(each["value"][1]) >= 3 for each in counts) and bool(counts)


def result_of(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """What a query finds; an error of it fails the test."""
    expression = expression.replace("$run", ".*").replace("$host", ".*")
    answer = client.get("/api/v1/query", params={"query": expression}).json()
    if answer["status"] != "success" and answer.get("errorType") != "unavailable":
        pytest.fail(f"{expression}: {answer}")
    found: list[dict[str, Any]] = answer.get("data", {}).get("result", [])
    return found


def test_every_panel_and_every_rule_is_answered_with_data(asked: httpx.Client) -> None:
    for expression in (rule["expr"] for rule in rules()):
        result_of(asked, expression)
    # After a scrape that took longer than its second, there is nothing until the next.
    for expression in (*OF_PANELS, *RECORDED):
        until(lambda expression=expression: result_of(asked, expression), f"data for {expression}")
    hosts = {socket.gethostname(), "far"}
    for expression in (each for each in OF_PANELS if "mistudio_device_" in each):
        until(lambda expression=expression: labels_of(asked, expression, "host") == hosts, expression)
    until(lambda: labels_of(asked, "mistudio_health_causes", "code") == {"paused"}, "the one cause")
    until(lambda: [up["value"][1] for up in result_of(asked, 'up{job="mistudio"}')] == ["1"], "a scrape in time")
    until(lambda: len(result_of(asked, "mistudio_training_loss")) == 1, "the one training")
    assert "mistudio" not in labels_of(asked, "mistudio_training_loss", "job"), "`job` is the id of the training"
    groups = asked.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def labels_of(client: httpx.Client, expression: str, label: str) -> set[str]:
    """The values of a label among what a query finds."""
    return {found["metric"][label] for found in result_of(client, expression)}
