"""The deployment files as data: read from what is committed, or made for a table with one queue more."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from deploy import generate
from mistudio_cli.supervisor.states import quit_grace_s
from tasks.queues import QUEUES, Needs, Queue, Resource

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"

#: What a worker needs after TERM, before the kill that is its supervisor's own.
LADDER_S = generate.GRACE_S + quit_grace_s()

SEVENTH = Queue("red_teaming", "Attacks on what was trained", 3, 4, Resource.GPU, Needs(3, 12, 2))
SEVEN = (*QUEUES, SEVENTH)

#: The table as it is, and with one queue more.
TABLES = [QUEUES, SEVEN]


def text(name: str, queues: tuple[Queue, ...] = QUEUES) -> str:
    """A file under deploy/: generated for those queues, or as it lies there when it is not generated."""
    made = generate.wanted(queues).get(DEPLOY / name)
    return made if made is not None else (DEPLOY / name).read_text(encoding="utf-8")


def compose(name: str, queues: tuple[Queue, ...] = QUEUES) -> dict[str, Any]:
    """docker-compose.NAME.yml, with its anchors expanded."""
    return json.loads(json.dumps(yaml.safe_load(text(f"docker-compose.{name}.yml", queues))))


def merged(*names: str, queues: tuple[Queue, ...] = QUEUES) -> dict[str, Any]:
    """Several compose files as Compose merges them: mappings into each other; ours share no list."""
    together: dict[str, Any] = {}
    for name in names:
        _merge(together, compose(name, queues))
    return together


def manifests(name: str, queues: tuple[Queue, ...] = QUEUES) -> list[dict[str, Any]]:
    """The documents of kubernetes/NAME.yaml."""
    return [document for document in yaml.safe_load_all(text(f"kubernetes/{name}.yaml", queues)) if document]


def all_manifests(queues: tuple[Queue, ...] = QUEUES) -> list[dict[str, Any]]:
    """Every Kubernetes resource."""
    return [
        document for name in ("redis", "store", "api", "workers", "autoscaling") for document in manifests(name, queues)
    ]


def of_kind(kind: str, queues: tuple[Queue, ...] = QUEUES) -> dict[str, dict[str, Any]]:
    """The resources of a kind, by name."""
    return {found["metadata"]["name"]: found for found in all_manifests(queues) if found["kind"] == kind}


def pod(resource: dict[str, Any]) -> dict[str, Any]:
    """The pod's specification in a Deployment or StatefulSet."""
    return resource["spec"]["template"]["spec"]


@cache
def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def hold_to(found: Any, wanted: Any) -> None:
    """Fail unless `found` is what the schema `wanted` says."""
    jsonschema.Draft202012Validator(wanted).validate(found)


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
