"""`doctor` finds what is wrong, names what mends it, and changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mistudio_cli import checks
from mistudio_cli.errors import Code
from mistudio_cli.host import read_host
from mistudio_cli.snapshot import QueueRow
from tasks.job import Job
from tasks.ledger import Ledger, WorkerBeat, new_job_id
from tasks.queues import QUEUE_NAMES
from tests.cli.conftest import Cli

GIB = 1 << 30


def verdicts(told: dict) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in told["checks"]}


def test_a_sound_redis_passes_and_a_home_without_workers_is_a_warning(cli: Cli) -> None:
    told = cli("doctor", "--json")
    found = verdicts(told.json)
    assert (told.code, told.json["ok"]) == (Code.OK, True), told.json
    assert found["redis"] == found["redis append-only file"] == found["redis eviction"] == "ok"
    assert (found["supervisor"], found["workers"]) == ("warning", "warning")
    assert all(check["mend"] for check in told.json["checks"] if check["verdict"] != "ok")


def test_jobs_on_a_queue_without_a_worker_fail_it(cli: Cli) -> None:
    cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    told = cli("doctor")
    assert told.code == Code.FAILED
    assert "no worker for: training (1 pending)" in told.out
    assert "workers: mistudio workers start full" in told.err
    cli.ledger.beat(WorkerBeat("w@h", "h", 1, QUEUE_NAMES, 1, 1.0))
    assert cli("doctor").code == Code.OK


def test_an_unreachable_redis_fails_it(cli: Cli) -> None:
    told = cli("--broker-url", "redis://me:secret@127.0.0.1:1/0", "doctor", "--json")
    assert (told.code, verdicts(told.json)["redis"]) == (Code.FAILED, "failed")
    assert "secret" not in told.out + told.err


def test_nothing_is_started_for_a_home_without_redis(cli: Cli) -> None:
    told = cli("doctor", "--json", CELERY_BROKER_URL="")
    assert verdicts(told.json)["redis"] == "warning"
    assert list(cli.home.iterdir()) == []


def test_a_redis_that_forgets_is_a_warning(ledger: Ledger) -> None:
    ledger.client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    ledger.client.call("CONFIG", "SET", "appendonly", "no")
    try:
        found = {check.name: check for check in checks.redis(ledger, named=True)}
    finally:
        ledger.client.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        ledger.client.call("CONFIG", "SET", "appendonly", "yes")
    assert [check.verdict for check in found.values()] == ["ok", "warning", "warning"]
    assert "noeviction" in found["redis eviction"].mend


def test_a_full_disk_fails_and_a_small_machine_is_a_warning(tmp_path: Path) -> None:
    host = read_host(tmp_path)
    room = {0.5: "failed", 5: "warning", 500: "ok"}
    for free, verdict in room.items():
        assert checks.disk(dataclasses.replace(host, disk_free=int(free * GIB))).verdict == verdict
    small = checks.cores_and_memory(dataclasses.replace(host, cpus=2, memory_total=8 * GIB))
    assert (small.verdict, small.detail) == ("warning", "2 cores, 8.0 GiB memory: little for processing, training")
    assert checks.cores_and_memory(dataclasses.replace(host, cpus=16, memory_total=64 * GIB)).verdict == "ok"


def test_a_redis_that_is_too_old_fails() -> None:
    verdicts = {version: checks.redis_version(version, "h:1").verdict for version in ("5.0.14", "6.0.16", "6.2.14")}
    assert verdicts == {"5.0.14": "failed", "6.0.16": "failed", "6.2.14": "ok"}
    assert checks.redis_version("255.255.255", "h:1").verdict == checks.redis_version("?", "h:1").verdict == "ok"


def test_two_installations_in_one_process_fail(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a" / "tasks" / "__init__.py", tmp_path / "b" / "mistudio_cli" / "__init__.py"
    assert checks.installation(ours, ours.parent.parent / "mistudio_cli" / "__init__.py").verdict == "ok"
    told = checks.installation(ours, theirs)
    assert (told.verdict, told.detail) == (
        "failed",
        f"tasks and mistudio_cli come from {tmp_path / 'a'} and {tmp_path / 'b'}",
    )


def test_the_gpus_are_held_against_what_the_queues_need(cli: Cli, driver: Path) -> None:
    def told(**fake: str) -> tuple[str, str]:
        found = cli("doctor", "--json", LD_LIBRARY_PATH=str(driver), **fake).json["checks"]
        return next((check["verdict"], check["detail"]) for check in found if check["name"] == "gpu")

    assert told() == ("ok", "Fake GPU 0 (24 GiB), Fake GPU 1 (24 GiB)")
    assert told(FAKE_GPUS="1") == ("ok", "Fake GPU 0 (24 GiB); training and extraction take turns")
    assert told(FAKE_GPUS="0") == ("warning", "no NVIDIA GPU: training and extraction run on the CPU")
    assert told(FAKE_LOST="1") == ("failed", "GPU 1: GPU is lost")


def test_every_queue_with_a_worker_is_well() -> None:
    rows = tuple(QueueRow(name, "ok", 5, 0, 1.0, 1, 1) for name in QUEUE_NAMES)
    assert checks.workers(rows).verdict == "ok"
