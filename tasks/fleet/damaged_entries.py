"""Entries of the ledger that cannot be read, because something else wrote to its keys; all readers skip them.

`find` names them, for `doctor`. It looks at the newest records and at those of all jobs that have not ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tasks.fleet import host_heartbeat
from tasks.jobs.record import State
from tasks.ledger import dead_letters, history, quotas
from tasks.ledger.device_lease import read_lease
from tasks.ledger.records import UNREADABLE, decode_strictly, pairs
from tasks.ledger.worker_heartbeat import read_heartbeat
from tasks.queues import QUEUE_NAMES, redis_lists
from tasks.redis_client.redis_connection import Client

_NEWEST = 500

#: Of each owner in each queue: jobs that are offered, and those that a quota holds back.
_OFFERED = ("ready", "over_quota")

_PER_QUEUE = ("order", "queued", "running", "over_quota", "owners")

#: Of which type each key is, by its name after the prefix; one of another type makes Redis refuse what concerns it.
_TYPES: dict[str, str] = {
    **dict.fromkeys(("workers", "devices", "hosts", "paused", "coming", "heirs", "served_at"), "hash"),
    **dict.fromkeys(("by:all", "ids", "leases", "ended", "nonces", "nonces:begun"), "zset"),
    **{f"by:state:{state}": "zset" for state in State},
    **{f"queue:{queue}:{what}": "zset" for queue in QUEUE_NAMES for what in _PER_QUEUE},
    **dict.fromkeys(("schema", "upkeep_at", "reaped_at", quotas.KEY), "string"),
    "over_quota": "set",
    dead_letters.KEY: "list",
    **{key: "list" for part in history.PARTS for key in history.keys(part)},
    history.NAMES_KEY: "hash",
}

#: The same of the keys that Celery has, too.
_CELERY_TYPES: dict[str, str] = {
    **{name: "list" for queue in QUEUE_NAMES for name in redis_lists(queue)},
    "unacked": "hash",
    "unacked_index": "zset",
}


@dataclass(frozen=True)
class DamagedEntry:
    """One entry, how to name it to redis-cli, and what is wrong with it. `is_key`: the whole key is of another type."""

    where: str
    why: str
    is_key: bool = False


def find(client: Client) -> list[DamagedEntry]:
    """All that is damaged. Raises Unreachable, or Refused where even looking is."""
    if wrong := [*_of_another_type(client, _lasting_types(client))]:
        return wrong
    if wrong := [*_of_another_type(client, _types_of_owners(client))]:
        return wrong
    heartbeats, hosts, leases = (
        pairs(client.call("HGETALL", client.key(name))) for name in ("workers", "hosts", "devices")
    )
    return [
        *_unreadable(client.key("workers"), heartbeats.items(), read_heartbeat),
        *_unreadable(client.key(host_heartbeat.KEY), hosts.items(), host_heartbeat.decode),
        *_unreadable(client.key("devices"), leases.items(), read_lease),
        *_unreadable(
            client.key(quotas.KEY), [("", client.call("GET", client.key(quotas.KEY)))], quotas.decode_strictly
        ),
        *_unreadable_records(client),
    ]


def _lasting_types(client: Client) -> dict[str, str]:
    types = {client.key(name): wanted for name, wanted in _TYPES.items()}
    return types | {client.celery_key(name): wanted for name, wanted in _CELERY_TYPES.items()}


def _types_of_owners(client: Client) -> dict[str, str]:
    """The types of the keys that each owner of a live job has."""
    ids = _live(client)
    found = client.batch([("HGET", client.key(f"job:{job_id}"), "owner") for job_id in ids])
    owners = {owner or "" for owner in found if not isinstance(owner, Exception)}
    parts = [f"queue:{queue}:{what}:{need}" for queue in QUEUE_NAMES for what in _OFFERED for need in ("cpu", "gpu")]
    return {client.key(f"{part}:{owner}"): "zset" for part in ("unstarted", *parts) for owner in owners}


def _live(client: Client) -> list[str]:
    """The ids of all jobs that have not ended."""
    states = (State.WAITING, State.QUEUED, State.RUNNING)
    found = client.batch([("ZRANGE", client.key(f"by:state:{state}"), 0, -1) for state in states])
    return [job_id for ids in found for job_id in ids]


def _of_another_type(client: Client, types: dict[str, str]) -> Iterator[DamagedEntry]:
    found = client.batch([("TYPE", key) for key in types])
    for (key, wanted), kind in zip(types.items(), found, strict=True):
        if kind not in ("none", wanted):
            yield DamagedEntry(key, f"is a {kind} and should be a {wanted}", is_key=True)


def _unreadable(key: str, entries: Iterable[tuple[str, Any]], read: Callable[[Any], object]) -> Iterator[DamagedEntry]:
    for field, value in entries:
        try:
            read(value)
        except UNREADABLE as error:
            what = "is not JSON" if isinstance(error, json.JSONDecodeError) else f"{type(error).__name__}: {error}"
            yield DamagedEntry(f"{key} {field}".rstrip(), what)


def _unreadable_records(client: Client) -> Iterator[DamagedEntry]:
    newest = client.call("ZREVRANGE", client.key("by:all"), 0, _NEWEST - 1)
    ids = list(dict.fromkeys([*_live(client), *newest]))
    records = client.batch([("HGETALL", client.key(f"job:{job_id}")) for job_id in ids])
    for job_id, record in zip(ids, records, strict=True):
        if isinstance(record, Exception):
            yield DamagedEntry(client.key(f"job:{job_id}"), "is no hash", is_key=True)
        elif record:
            yield from _unreadable(client.key(f"job:{job_id}"), [("", record)], decode_strictly)
