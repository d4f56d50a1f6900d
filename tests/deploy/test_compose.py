"""The compose files: held to the published schema, to the table, and to what Compose itself makes of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from deploy import generate
from tasks.queues import QUEUES, Queue
from tests.deploy.conftest import DEPLOY, LADDER_S, SEVEN, TABLES, compose, hold_to, merged, schema

NAMES = ("dev", "workers", "gpu")


def seconds(result: str) -> int:
    return int(re.fullmatch(r"(\d+)s", result)[1])


@pytest.mark.parametrize("queues", TABLES)
@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_what_the_compose_specification_says(name: str, queues: tuple[Queue, ...]) -> None:
    hold_to(compose(name, queues), schema("compose-spec.json"))


def test_the_schema_would_report_it() -> None:
    broken = compose("workers")
    broken["services"]["worker-training"]["stop_grace"] = "80s"
    with pytest.raises(Exception, match="stop_grace"):
        hold_to(broken, schema("compose-spec.json"))


@pytest.mark.parametrize("queues", TABLES)
def test_every_queue_has_one_service_with_the_table_s_numbers(queues: tuple[Queue, ...]) -> None:
    services = compose("workers", queues)["services"]
    assert list(services) == [queue.worker for queue in queues]
    for queue in queues:
        service = services[queue.worker]
        assert service["command"] == generate.worker_command(queue)
        limits = {"cpus": str(queue.needs.cpus), "memory": f"{queue.needs.memory_gb}G"}
        assert service["deploy"] == {"resources": {"limits": limits}}
        assert service["environment"]["OMP_NUM_THREADS"] == str(queue.needs.cpus)


@pytest.mark.parametrize("queues", TABLES)
def test_gpus_are_reserved_for_the_queues_that_need_them_and_only_when_asked_for(queues: tuple[Queue, ...]) -> None:
    plain = merged("dev", "workers", queues=queues)["services"]
    assert [
        name for name, result in plain.items() if "reservations" in result.get("deploy", {}).get("resources", {})
    ] == []
    services = merged(*NAMES, queues=queues)["services"]
    for queue in queues:
        service, gpus = services[queue.worker], queue.needs.gpus
        reserved = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        assert len(reserved) == bool(gpus)
        assert service["image"] == ("mistudio:cuda" if gpus else "mistudio:cpu")
        assert service["build"].get("args", {}) == ({"TORCH": "cuda"} if gpus else {})
        for device in reserved:
            assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
            default = re.fullmatch(r"\$\{MISTUDIO_[A-Z_]+_GPU:-([\d,]+)\}", device["device_ids"][0])
            assert len(default[1].split(",")) == gpus
        assert service["deploy"]["resources"]["limits"]["memory"] == f"{queue.needs.memory_gb}G"


def test_a_service_can_have_many_containers() -> None:
    for name, service in compose("workers")["services"].items():
        fixed = {"container_name", "hostname", "ports", "network_mode", "ipc", "pid"} & service.keys()
        assert fixed == set(), name


def test_no_container_is_killed_while_its_jobs_write_checkpoints() -> None:
    for service in compose("workers")["services"].values():
        assert service["command"][-2:] == ["--grace", str(generate.GRACE_S)]
        assert seconds(service["stop_grace_period"]) >= LADDER_S + 10
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("names", [("dev",), ("dev", "workers"), NAMES])
def test_together_they_name_nothing_that_is_not_there(names: tuple[str, ...]) -> None:
    result = merged(*names, queues=SEVEN)
    for name, service in result["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in result["services"][needed]
        for mount in service.get("volumes", []):
            assert mount.partition(":")[0] in result["volumes"], name
        broker = service.get("environment", {}).get("CELERY_BROKER_URL")
        if broker is not None:
            assert re.fullmatch(r"redis://([\w-]+):6379/0", broker)[1] in result["services"]
    assert {"networks", "secrets", "configs"} & result.keys() == set()


def test_all_share_one_store_and_none_its_home() -> None:
    services = merged("dev", "workers")["services"]
    mounts = {name: service["volumes"] for name, service in services.items() if name != "redis"}
    assert set(map(tuple, mounts.values())) == {("data:/data",)}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "MISTUDIO_STORE=/data/store" in dockerfile
    assert "MISTUDIO_HOME=/var/lib/mistudio/" in dockerfile


def test_the_api_is_published_on_the_loopback_alone_and_redis_nowhere() -> None:
    services = merged(*NAMES)["services"]
    assert {name: result["ports"] for name, result in services.items() if "ports" in result} == {
        "api": ["127.0.0.1:8000:8000"]
    }


def test_tokens_come_from_outside() -> None:
    services = merged("dev", "workers")["services"]
    assert services["api"]["environment"]["MISTUDIO_API_TOKEN"] is None
    assert {services[queue.worker]["environment"]["HF_TOKEN"] for queue in QUEUES} == {None}


def test_redis_writes_everything_down_and_evicts_nothing() -> None:
    command = compose("dev")["services"]["redis"]["command"]
    result = dict(zip(command[1::2], command[2::2], strict=True))
    assert (result["--appendonly"], result["--maxmemory-policy"]) == ("yes", "noeviction")


def test_compose_itself_merges_them_and_scales() -> None:
    """Without a daemon: `config` reads, merges, resolves and checks."""
    command = ["docker", "compose"] if _has_plugin() else ["docker-compose"]
    if shutil.which(command[0]) is None:
        pytest.skip("no Docker Compose on this machine")
    files = [word for name in NAMES for word in ("-f", f"docker-compose.{name}.yml")]
    done = subprocess.run(
        [*command, *files, "config", "--format", "json"], cwd=DEPLOY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services.keys() == {"redis", "api", *(queue.worker for queue in QUEUES)}
    for queue in QUEUES:
        result = services[queue.worker]["deploy"]["resources"]
        assert int(result["limits"]["memory"]) == queue.needs.memory_gb << 30
        assert len(result.get("reservations", {}).get("devices", [])) == bool(queue.needs.gpus)


def _has_plugin() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60).returncode == 0
