"""Quotas of owners: how many jobs each may have running, on GPUs, and queued. The ledger's script holds them.

All quotas are one JSON string in Redis; `lua/2_quotas.lua` says why.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tasks.errors import OverQuota
from tasks.jobs.record import State
from tasks.ledger import lua_script
from tasks.ledger.records import UNREADABLE
from tasks.redis_client.redis_connection import Client

#: Their key, after the prefix.
KEY = "quotas"


@dataclass(frozen=True)
class Quota:
    """The most jobs that an owner may have: running, on GPUs, and queued or waiting. None is no limit."""

    running: int | None = None
    gpus: int | None = None
    queued: int | None = None


LIMITS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(Quota))


def over_quota(owner: str, limit: int, unstarted: int, new: int) -> OverQuota:
    """Why `new` jobs of an owner with `unstarted` ones were not accepted."""
    queued = "1 is queued" if unstarted == 1 else f"{unstarted} are queued"
    jobs = "1 job" if new == 1 else f"{new} jobs"
    return OverQuota(
        f"The quota of {owner} is {limit} queued jobs: {queued}, so {jobs} more cannot be submitted.",
        f"Wait until some have started, or raise it: mistudio fleet quota set {owner} --queued N",
    )


def read_quotas(client: Client) -> dict[str, Quota]:
    """The quotas by owner; none where they cannot be read, which `doctor` says."""
    try:
        return decode_strictly(client.call("GET", client.key(KEY)))
    except UNREADABLE:
        return {}


def decode_strictly(text: str | None) -> dict[str, Quota]:
    """The quotas by owner. One of `UNREADABLE` when the text holds anything else."""
    found = json.loads(text or "{}")
    quotas = {owner: Quota(**{name: limits.get(name) for name in LIMITS}) for owner, limits in found.items()}
    for quota in quotas.values():
        if not all(limit is None or type(limit) is int for limit in dataclasses.astuple(quota)):
            raise TypeError("a limit that is no whole number")
    return quotas


def set_quota(client: Client, owner: str, quota: Quota) -> None:
    """Set those limits that are given; the owner's others stay."""
    limits = {name: limit for name, limit in dataclasses.asdict(quota).items() if limit is not None}
    lua_script.evaluate(client, "set_quota", owner, json.dumps(limits))


def unset_quota(client: Client, owner: str) -> bool:
    """Remove all limits of an owner. False: there were none."""
    return lua_script.evaluate(client, "unset_quota", owner) == "ok"


def count_unstarted(client: Client, owner: str) -> int:
    """How many jobs of an owner are queued or waiting. Those that an older mistudio has started are listed, too."""
    ids = client.call("ZRANGE", client.key(f"unstarted:{owner}"), 0, -1)
    states = client.batch([("HGET", client.key(f"job:{job_id}"), "state") for job_id in ids]) if ids else []
    return sum(state in (State.QUEUED, State.WAITING) for state in states)


def refuse_beyond_quota(client: Client, owner: str | None, new: int) -> None:
    """OverQuota when an owner has no room for `new` more jobs that have not started."""
    limit = read_quotas(client).get(owner or "", Quota()).queued
    unstarted = 0 if limit is None else count_unstarted(client, owner or "")
    if limit is not None and unstarted + new > limit:
        raise over_quota(owner or "", limit, unstarted, new)
