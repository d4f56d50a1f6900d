"""The Kubernetes manifests: held to the published schemas, to the table, and to a real ledger."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy import generate
from mistudio_cli.rest.token_sources import TOKEN_VARIABLE
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.queues import HIGHEST_PRIORITY, QUEUES, Queue, queue_named
from tests.deploy.conftest import (
    DEPLOY,
    LADDER_S,
    SEVEN,
    TABLES,
    all_manifests,
    hold_to,
    manifests,
    of_kind,
    pod,
    schema,
    text,
)

OLDEST, NEWEST = "1.28", kubernetes_validate.latest_version()


@pytest.mark.parametrize("queues", TABLES)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_each_resource_is_what_its_schema_says(version: str, queues: tuple[Queue, ...]) -> None:
    keda = schema("keda-2.16.json")
    for resource in all_manifests(queues):
        if resource["kind"] in keda:
            hold_to(resource, keda[resource["kind"]])
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_would_report_it() -> None:
    deployment, scaled = manifests("workers")[0], manifests("autoscaling")[1]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 80
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)
    scaled["spec"]["minReplicas"] = 1
    with pytest.raises(Exception, match="minReplicas"):
        hold_to(scaled, schema("keda-2.16.json")["ScaledObject"])


@pytest.mark.parametrize("queues", TABLES)
def test_every_queue_has_one_deployment_with_the_table_s_numbers(queues: tuple[Queue, ...]) -> None:
    deployments = of_kind("Deployment", queues)
    assert list(deployments) == ["mistudio-api", *(queue.worker for queue in queues)]
    for queue in queues:
        (container,) = pod(deployments[queue.worker])["containers"]
        assert container["args"] == generate.worker_command(queue)
        gpus = {"nvidia.com/gpu": queue.needs.gpus} if queue.needs.gpus else {}
        needs = {"cpu": queue.needs.cpus, "memory": f"{queue.needs.memory_gb}Gi", **gpus}
        assert container["resources"] == {"requests": needs, "limits": needs}
        assert container["image"] == ("mistudio-cuda" if gpus else "mistudio-cpu")


def test_no_pod_is_killed_while_its_jobs_write_checkpoints() -> None:
    for queue in QUEUES:
        specification = pod(of_kind("Deployment")[queue.worker])
        (container,) = specification["containers"]
        assert specification["terminationGracePeriodSeconds"] >= LADDER_S + 10
        assert "lifecycle" not in container
        assert container["command"] == ["tini", "--"]  # which hands on the signals


def test_a_gpu_queue_s_new_pod_does_not_wait_for_the_card_of_the_old_one() -> None:
    for queue in SEVEN:
        surge = of_kind("Deployment", SEVEN)[queue.worker]["spec"]["strategy"]["rollingUpdate"]
        assert surge == {"maxSurge": 0 if queue.needs.gpus else 1, "maxUnavailable": 1 if queue.needs.gpus else 0}


def test_applying_the_workers_again_does_not_change_how_many_there_are() -> None:
    assert [found for found in manifests("workers") if "replicas" in found["spec"]] == []


@pytest.mark.parametrize("queues", TABLES)
def test_every_queue_is_scaled_on_what_it_holds(queues: tuple[Queue, ...]) -> None:
    scaled = of_kind("ScaledObject", queues)
    assert list(scaled) == [queue.worker for queue in queues]
    for queue in queues:
        result = scaled[queue.worker]["spec"]
        assert result["scaleTargetRef"] == {"name": queue.worker}
        assert result["advanced"]["scalingModifiers"]["target"] == str(queue.concurrency)
        assert result["minReplicaCount"] == (0 if queue.needs.gpus else 1)
        assert result["maxReplicaCount"] == generate.MOST_REPLICAS
        assert [trigger["type"] for trigger in result["triggers"]] == ["redis", "redis"]
    named = {trigger["metadata"]["listName"] for result in scaled.values() for trigger in result["spec"]["triggers"]}
    assert len(named) == 2 * len(queues)


def test_keda_finds_redis_and_its_password() -> None:
    (service,) = [found for found in manifests("redis") if found["kind"] == "Service"]
    port = service["spec"]["ports"][0]["port"]
    address = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local:{port}"
    (authentication,) = of_kind("TriggerAuthentication").values()
    for scaled in of_kind("ScaledObject").values():
        for trigger in scaled["spec"]["triggers"]:
            assert trigger["metadata"]["address"] == address
            assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "password", "name": "mistudio", "key": "redis-password"}
    ]


def keda_counts(ledger: Ledger, trigger: dict[str, Any]) -> int:
    """What KEDA's redis scaler reads: it asks for the type of the key, and for its length by that."""
    key = trigger["metadata"]["listName"]
    lengths = {"zset": "ZCARD", "set": "SCARD", "list": "LLEN", "hash": "HLEN", "none": "LLEN"}
    return int(ledger.client.call(lengths[ledger.client.call("TYPE", key)], key))


def keda_wants(ledger: Ledger, queue: str) -> int:
    """How many pods KEDA asks for: the formula's value, shared among pods of `target` each, within the bounds."""
    result = of_kind("ScaledObject")[queue_named(queue).worker]["spec"]
    values = {trigger["name"]: keda_counts(ledger, trigger) for trigger in result["triggers"]}
    modifiers = result["advanced"]["scalingModifiers"]
    assert set(re.findall(r"[a-z]+", modifiers["formula"])) == values.keys()
    total = eval(modifiers["formula"], {}, values)  # a sum of names
    desired = math.ceil(total / float(modifiers["target"]))
    return max(result["minReplicaCount"], min(desired, result["maxReplicaCount"]))


def test_pods_follow_the_true_depth_whatever_the_priorities(ledger: Ledger) -> None:
    assert (keda_wants(ledger, "datasets"), keda_wants(ledger, "training")) == (1, 0)
    for priority in range(HIGHEST_PRIORITY + 1):
        ledger.submit(Job(new_job_id(), "download", "a", "datasets", {}, priority=priority))
    assert ledger.client.call("LLEN", "datasets") < 11, "the bare list would have been right"
    assert keda_wants(ledger, "datasets") == 3  # 11 jobs, 4 slots a pod


def test_pods_are_kept_for_what_runs_and_added_for_what_waits(ledger: Ledger) -> None:
    jobs = [ledger.submit(Job(new_job_id(), "train", f"t{n}", "training", {})) for n in range(5)]
    for job in jobs[:3]:
        assert ledger.claim(job.id, "worker-training@pod", "pod") is not None
    assert keda_wants(ledger, "training") == 5
    for job in jobs[3:]:
        ledger.request_cancel(job.id)
    assert keda_wants(ledger, "training") == 3


def secret_references(found: Any) -> list[tuple[str, str, bool]]:
    """Every reference to a key of a Secret: its name, the key, and whether it may be absent."""
    if isinstance(found, list):
        return [result for part in found for result in secret_references(part)]
    if not isinstance(found, dict):
        return []
    here = [found["secretKeyRef"]] if "secretKeyRef" in found else []
    here += found.get("secretTargetRef", [])
    result = [(reference["name"], reference["key"], reference.get("optional", False)) for reference in here]
    return result + [result for part in found.values() for result in secret_references(part)]


def test_secrets_are_named_and_never_given() -> None:
    assert of_kind("Secret") == {}
    assert set(secret_references(all_manifests())) == {
        ("mistudio", "redis-password", False),
        ("mistudio", "api-token", False),
        ("mistudio", "hf-token", True),
    }
    created = re.findall(r"--from-literal=([\w-]+)=", text("kubernetes/kustomization.yaml"))
    assert set(created) == {"redis-password", "api-token"}
    (api,) = pod(of_kind("Deployment")["mistudio-api"])["containers"]
    assert TOKEN_VARIABLE in {variable["name"] for variable in api["env"]}


def test_what_is_named_is_there() -> None:
    claims, services = of_kind("PersistentVolumeClaim"), of_kind("Service")
    workloads = {**of_kind("Deployment"), **of_kind("StatefulSet")}
    for name, workload in workloads.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        own = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"]: volume for volume in pod(workload).get("volumes", [])}
        for container in pod(workload)["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys() | own, name
            broker = next(
                (result["value"] for result in container["env"] if result["name"] == "CELERY_BROKER_URL"), None
            )
            assert broker in (None, "redis://:$(REDIS_PASSWORD)@mistudio-redis:6379/0")
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": "mistudio-data"})["claimName"] in claims
    for name, service in services.items():
        selected = [
            w for w in workloads.values() if service["spec"]["selector"] == w["spec"]["selector"]["matchLabels"]
        ]
        assert [workload["metadata"]["name"] for workload in selected] == [name]
    assert {found["metadata"]["namespace"] for found in all_manifests()} == {"mistudio"}


def test_no_container_is_root_or_writes_beside_its_volumes() -> None:
    for workload in (*of_kind("Deployment").values(), *of_kind("StatefulSet").values()):
        assert pod(workload)["securityContext"]["runAsNonRoot"] is True
        assert pod(workload)["automountServiceAccountToken"] is False
        for container in pod(workload)["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_one_command_applies_everything_but_the_autoscaling() -> None:
    result = yaml.safe_load(text("kubernetes/kustomization.yaml"))
    assert set(result["resources"]) == {"redis.yaml", "store.yaml", "api.yaml", "workers.yaml"}
    images = {container["image"] for found in of_kind("Deployment").values() for container in pod(found)["containers"]}
    assert {image["name"] for image in result["images"]} == images


def test_kustomize_itself_builds_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine")
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    built = [found for found in yaml.safe_load_all(done.stdout) if found["kind"] == "Deployment"]
    assert {found["metadata"]["name"] for found in built} == {"mistudio-api", *(queue.worker for queue in QUEUES)}
    assert all(":" in container["image"] for found in built for container in pod(found)["containers"])
