"""`doctor` finds what is wrong, names the fix, and changes nothing."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from mistudio_cli.doctor import checks, health_checks
from mistudio_cli.errors import Code
from mistudio_cli.machine.host import Disk
from mistudio_cli.monitor.health.causes import Health, HealthCause
from mistudio_cli.monitor.snapshot import QueueRow
from mistudio_cli.profile.resources import Machine
from mistudio_cli.profile.rules import (
    Profile,
    ProfileFile,
    ReadProfile,
    WorkerSpec,
    load_profile,
    profile_files,
    read_profile,
    workers_of,
)
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.dead_letters import put_aside, read
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES
from tests.cli.conftest import Cli, repeated
from tests.cli.test_health import report_of
from tests.fixtures.queue_table import needs_in_all

GIB = 1 << 30


def verdicts(result: dict) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in result["checks"]}


def test_a_sound_redis_passes_and_a_home_without_workers_is_a_warning(cli: Cli) -> None:
    result = cli("doctor", "--json")
    found = verdicts(result.json)
    assert (result.code, result.json["ok"]) == (Code.OK, True), result.json
    assert found["redis"] == found["redis append-only file"] == found["redis eviction"] == "ok"
    assert (found["supervisor"], found["workers"]) == ("warning", "warning")
    assert all(check["mend"] for check in result.json["checks"] if check["verdict"] != "ok")


def test_jobs_on_a_queue_without_a_worker_fail_it(cli: Cli) -> None:
    cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    result = cli("doctor")
    assert result.code == Code.FAILED
    assert "Queue 'training' has 1 pending and no worker" in result.out
    assert "workers: mistudio workers start full" in result.err
    with repeated(cli, lambda ledger: ledger.heartbeat(WorkerHeartbeat("w@h", "h", 1, QUEUE_NAMES, 1, 1.0))):
        assert cli("doctor").code == Code.OK


def test_it_has_the_causes_of_the_health_report_with_their_commands(cli: Cli) -> None:
    def send(ledger: Ledger) -> None:
        ledger.heartbeat(WorkerHeartbeat("w@h", "h", 1, QUEUE_NAMES, 1, 1.0))
        ledger.heartbeat(WorkerHeartbeat("not@h", "h", 2, ("training",), 1, 1.0, refused="it may not"))

    cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    cli.ledger.queues.pause("training")
    with repeated(cli, send):
        result, report = cli("doctor", "--json"), report_of(cli.ledger.client)
    found = {check["name"]: check for check in result.json["checks"]}
    paused = "Queue 'training' has 1 pending and is paused"
    assert found["health"] == {
        "name": "health", "verdict": "warning", "detail": paused, "mend": "mistudio queue resume training"
    }  # fmt: skip
    assert (found["workers"]["verdict"], found["workers"]["detail"]) == ("failed", "not@h may not consume: it may not")
    assert result.code == Code.FAILED
    assert {cause["sentence"] for cause in report["causes"]} == {
        check["detail"] for check in (found["health"], found["workers"])
    }


def test_a_check_that_says_more_stands_in_for_the_cause_and_one_that_was_well_gives_way() -> None:
    own = [checks.Check("gpu", "ok", "a card"), checks.Check("disk", "failed", "1 GiB free", "Make room")]
    causes = (HealthCause("gpu_lost", "GPU 0: lost", "nvidia-smi"), HealthCause("disk", "little is free", "cleanup"))
    shown = list(health_checks.with_causes(own, Health("warning", causes)))
    assert [(check.name, check.verdict, check.detail) for check in shown] == [
        ("disk", "failed", "1 GiB free"),
        ("gpu", "failed", "GPU 0: lost"),
    ]


def test_refused_messages_are_counted_and_the_last_one_reported(cli: Cli) -> None:
    assert verdicts(cli("doctor", "--json").json)["messages"] == "ok"
    for why in ("an early one", "It names no task."):
        put_aside(cli.ledger.client.call, "mistudio:", "datasets", "{}", why)
    result = cli("doctor")
    assert result.code == Code.OK
    assert "2 refused in the last 24 h; the last one, from datasets: It names no task." in result.out
    day_old = [dataclasses.replace(refusal, at=refusal.at - 90_000) for refusal in read(cli.ledger.client)]
    assert checks.messages(day_old, time.time(), "mistudio:refused").verdict == "ok"


def test_an_unreachable_redis_fails_it(cli: Cli) -> None:
    result = cli("--broker-url", "redis://me:secret@127.0.0.1:1/0", "doctor", "--json")
    assert (result.code, verdicts(result.json)["redis"]) == (Code.FAILED, "failed")
    assert "secret" not in result.out + result.err


def test_nothing_is_started_for_a_home_without_redis(cli: Cli) -> None:
    result = cli("doctor", "--json", CELERY_BROKER_URL="")
    assert verdicts(result.json)["redis"] == "warning"
    assert list(cli.home.iterdir()) == []


def test_a_redis_that_forgets_is_a_warning(ledger: Ledger) -> None:
    ledger.client.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    ledger.client.call("CONFIG", "SET", "appendonly", "no")
    try:
        found = {check.name: check for check in checks.answering(ledger)}
    finally:
        ledger.client.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        ledger.client.call("CONFIG", "SET", "appendonly", "yes")
    assert [check.verdict for check in found.values()] == ["ok", "ok", "ok", "warning", "warning"]
    assert "noeviction" in found["redis eviction"].hint


def test_a_redis_that_answers_before_it_has_written_is_a_warning(ledger: Ledger) -> None:
    def found() -> checks.Check:
        return next(check for check in checks.answering(ledger) if check.name == "redis append-only file")

    assert (found().verdict, found().detail) == ("ok", "on, synced before each answer: jobs survive a crash of Redis")
    ledger.client.call("CONFIG", "SET", "appendfsync", "everysec")
    try:
        assert (found().verdict, found().hint) == (
            "warning",
            "redis-cli CONFIG SET appendfsync always, and in redis.conf",
        )
    finally:
        ledger.client.call("CONFIG", "SET", "appendfsync", "always")


def test_a_full_disk_fails() -> None:
    room = {0.5: "failed", 5: "warning", 500: "ok"}
    for free, verdict in room.items():
        assert checks.disk(Disk(1000 * GIB, int(free * GIB))).verdict == verdict


def test_a_machine_too_small_for_its_workers_is_a_warning_with_the_numbers() -> None:
    full, small, needs = workers_of(load_profile("full")), Machine(2, 8 * 10**9, 2, 8 * 10**9), needs_in_all()
    cpus, large = needs.cpus, needs.memory_gb * 10**9
    result = checks.resources("What runs here", full, small)
    assert result.verdict == "warning"
    assert result.detail.startswith(
        f"What runs here needs {needs.cpus} cores; this machine has 2. What runs here needs {needs.memory_gb} GB"
    )
    assert checks.resources("What runs here", full, Machine(cpus, large, cpus, large, needs.gpus)) == checks.Check(
        "resources", "ok", f"{cpus} cores, {needs.memory_gb} GB of memory: enough for what runs here"
    )
    jetson = Machine(6, 8 * 10**9, 6, 8 * 10**9, 1, unified=True)
    assert checks.resources("The profile jetson", workers_of(load_profile("jetson")), jetson).detail == (
        "6 cores, 8 GB of memory shared with the GPU: enough for the profile jetson"
    )


def test_what_runs_is_held_against_the_machine_and_else_the_default_profile(cli: Cli) -> None:
    found = [read_profile(file) for file in profile_files()]
    row = {"name": "w@h", "queues": ["training"], "slots": 2, "state": "running"}
    leaving = {**row, "state": "draining"}
    mine = ReadProfile(ProfileFile("mine", Path("mine.toml"), "own"), Profile("mine", "", "one", gpu_jobs=3))
    result = {"profile": "mine", "workers": [row, leaving]}
    ((who, specs),) = checks._running_or_default(result, [*found, mine])
    assert (who, specs) == ("What runs here", [WorkerSpec("w@h", ("training",), 2, gpu_jobs=3)])
    for nothing in (None, OSError("hangs"), {"profile": "mine", "workers": [leaving]}):
        ((who, specs),) = checks._running_or_default(nothing, found)
        assert (who, specs) == ("The profile minimal", workers_of(load_profile("minimal")))
    (check,) = [check for check in cli("doctor", "--json").json["checks"] if check["name"] == "resources"]
    assert "he profile minimal" in check["detail"]


def test_a_profile_that_is_not_sound_is_a_warning_and_hides_no_other_check(cli: Cli) -> None:
    folder = cli.home / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "minimal.toml").write_text('workers = "one"\nslots = 0')
    found = {check["name"]: check for check in cli("doctor", "--json").json["checks"]}
    assert found["profiles"]["verdict"] == "warning"
    assert (
        found["profiles"]["detail"] == f"{folder / 'minimal.toml'}: slots must be a whole number from 1 to 999, not 0"
    )
    assert "gpu" in found
    assert "resources" not in found, "the needs of an invalid default profile are unknown"


def test_a_redis_that_is_too_old_fails() -> None:
    verdicts = {version: checks.redis_version(version, "h:1").verdict for version in ("5.0.14", "6.0.16", "6.2.14")}
    assert verdicts == {"5.0.14": "failed", "6.0.16": "failed", "6.2.14": "ok"}
    assert checks.redis_version("255.255.255", "h:1").verdict == checks.redis_version("?", "h:1").verdict == "ok"


def test_two_installations_in_one_process_fail(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a" / "tasks" / "__init__.py", tmp_path / "b" / "mistudio_cli" / "__init__.py"
    assert checks.installation(ours, ours.parent.parent / "mistudio_cli" / "__init__.py").verdict == "ok"
    result = checks.installation(ours, theirs)
    assert (result.verdict, result.detail) == (
        "failed",
        f"tasks and mistudio_cli come from {tmp_path / 'a'} and {tmp_path / 'b'}",
    )


def test_the_gpus_are_held_against_what_the_queues_need(cli: Cli, driver: Path) -> None:
    def result(**fake: str) -> tuple[str, str]:
        found = cli("doctor", "--json", LD_LIBRARY_PATH=str(driver), **fake).json["checks"]
        return next((check["verdict"], check["detail"]) for check in found if check["name"] == "gpu")

    assert result() == ("ok", "Fake GPU 0 (24 GiB), Fake GPU 1 (24 GiB)")
    assert result(FAKE_GPUS="1") == ("ok", "Fake GPU 0 (24 GiB); training and extraction take turns")
    assert result(FAKE_GPUS="0") == ("warning", "no NVIDIA GPU: training and extraction run on the CPU")
    assert result(FAKE_LOST="1") == ("failed", "GPU 1: GPU is lost")


def test_every_queue_with_a_worker_is_well() -> None:
    rows = tuple(QueueRow(name, "ok", 5, 0, 1.0, 1, 1, (0, 0, 0), None) for name in QUEUE_NAMES)
    assert checks.workers(rows, ()).verdict == "ok"


def test_queues_whose_worker_is_silent_do_not_have_others_started_in_vain(cli: Cli) -> None:
    assert "workers: mistudio workers start full" in cli("doctor").err
    cli.ledger.heartbeat(WorkerHeartbeat("all@h", "h", 1, QUEUE_NAMES, 1, 1.0, loop_at=cli.ledger.now() - 60))
    result = cli("doctor")
    assert result.err.count("workers: mistudio workers logs all@h") == 1, "whichever check says so"
    assert "workers start full" not in result.err.replace("supervisor: mistudio workers start full", "")
