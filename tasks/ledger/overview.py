"""Everything in the ledger that a person watches, read in one round trip.

What does not depend on another reply is read by plain commands, and the records of jobs by a script sent along with
them (`overview.lua`). A Redis user without a right to scripts, as of the role `reader`, needs a second round trip.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from tasks.jobs.record import Job, State
from tasks.ledger.queue_state import ENDED_SETS, RATE_SPANS_S, QueueCount, ended_commands, size_commands, to_counts
from tasks.ledger.records import decode, finite, pairs, readable
from tasks.ledger.worker_heartbeat import WorkerHeartbeat, read_heartbeat
from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_connection import Client, Command, NotPermitted, Refused

if TYPE_CHECKING:
    from tasks.ledger.device_lease import Lease
    from tasks.ledger.totals import Totals

#: The SHA-1 of the script, by which Redis calls it: to compute it here would load OpenSSL. A test compares the two.
SCRIPT_SHA = "39f0fc40746bf8e39971b9d062cbee58f75eeec1"


#: What is read of a job that succeeded.
_RUN_FIELDS = ("kind", "started_at", "finished_at", "estimate_s")

#: What is not read of queued jobs, of which there may be hundreds: a list shows none of it.
_LEFT_OUT = ("params", "result", "error", "metrics")
_QUEUED_FIELDS = tuple(each.name for each in dataclasses.fields(Job) if each.name not in _LEFT_OUT)


@dataclass(frozen=True)
class FinishedRun:
    """How long a job of a kind ran that succeeded, and how long it was estimated to (None: it was not)."""

    kind: str
    seconds: float
    estimate_s: float | None


@dataclass(frozen=True)
class Overview:
    """The ledger at `read_at` by the server's clock.

    `heartbeats` are all those of workers that can be read, by name. `hosts` are those of hosts as they are written, see
    `tasks.fleet.host_heartbeat`. `holders` are the names, with host, and pids of the workers of all running jobs.
    `running` and `recent` are jobs, the newest first; `next` is where the list after `recent` starts. `queued` are the
    first queued jobs of each queue in the order in which they are served, without their parameters. `runs` are of the
    jobs that succeeded, newest first by submission. `server_info` is what Redis says of itself, for
    `tasks.redis_client.server_state`, `totals` are the counters (None: not wanted).
    """

    read_at: float
    counts: dict[str, QueueCount]
    heartbeats: tuple[WorkerHeartbeat, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    holders: tuple[tuple[str, int], ...] = ()
    running: tuple[Job, ...] = ()
    recent: tuple[Job, ...] = ()
    next: str | None = None
    queued: Mapping[str, tuple[Job, ...]] = field(default_factory=dict)
    runs: tuple[FinishedRun, ...] = ()
    server_info: tuple[str, ...] = ()
    totals: Totals | None = None


@dataclass(frozen=True)
class Wanted:
    """How many records of jobs are read: running, the newest of all, queued ones of each queue, and runs that ended.

    `totals`: whether the counters are, `server`: whether what the server says of itself is.
    """

    running: int = 0
    recent: int = 0
    queued: int = 0
    runs: int = 0
    totals: bool = False
    server: bool = False


#: Connections whose Redis user has no right to scripts.
_without_rights: WeakSet[Client] = WeakSet()


def read(client: Client, wanted: Wanted) -> Overview:
    """Everything, in one round trip. Raises Unreachable or Refused."""
    plain = _plain_commands(client, wanted)
    commands = [*plain, *_server_commands(wanted), *_totals_commands(client, wanted)]
    if client in _without_rights:
        replies = client.batch(commands)
        loaded, details = None, []
    else:
        script = [("SCRIPT", "LOAD", _script()), ("EVALSHA", SCRIPT_SHA, 0, *_arguments(client, wanted))]
        *replies, loaded, details = client.batch([*commands, *script])
    answers, rest = replies[: len(plain)], replies[len(plain) :]
    _raise_refused(answers)
    if isinstance(loaded, NotPermitted) or isinstance(details, NotPermitted):
        _without_rights.add(client)  # each refusal is an entry in the log of Redis
    if client in _without_rights or _is_another_script(details):
        details = _without_script(client, wanted, answers)
    _raise_refused([details])
    asked_of_server = len(_server_commands(wanted))
    of_server, counted = rest[:asked_of_server], rest[asked_of_server:]
    return replace(
        _overview(answers, details, wanted),
        server_info=tuple(reply for reply in of_server if isinstance(reply, str)),  # a user may not be allowed to ask
        totals=_totals(counted),
    )


def _server_commands(wanted: Wanted) -> tuple[Command, ...]:
    """Those that ask a server of its memory and its append-only file."""
    return (("INFO", "memory"), ("INFO", "persistence")) if wanted.server else ()


def _totals_commands(client: Client, wanted: Wanted) -> list[Command]:
    if not wanted.totals:
        return []
    from tasks.ledger import totals  # which lists have no use for

    return totals.commands(client)


def _totals(replies: Sequence[Any]) -> Totals | None:
    if not replies:
        return None
    from tasks.ledger import totals

    return totals.decode(replies)


def _is_another_script(reply: Any) -> bool:
    """Whether the file was replaced by an upgrade under this process, so that Redis does not know what was called."""
    return isinstance(reply, Refused) and "NOSCRIPT" in str(reply)


def _plain_commands(client: Client, wanted: Wanted) -> list[Command]:
    """One more id than is shown says whether there are more."""
    return [
        ("TIME",),
        ("HGETALL", client.key("workers")),
        ("HGETALL", client.key("hosts")),
        ("HGETALL", client.key("devices")),
        ("ZRANGE", client.key(f"by:state:{State.RUNNING}"), 0, -1),
        ("ZREVRANGE", client.key("by:all"), 0, wanted.recent, "WITHSCORES"),
        ("ZREVRANGE", client.key(f"by:state:{State.SUCCEEDED}"), 0, max(0, wanted.runs - 1)),
        *(("ZRANGE", client.key(f"queue:{name}:order"), 0, max(0, wanted.queued - 1)) for name in QUEUE_NAMES),
        *size_commands(client),
    ]


#: How many of the plain commands come before those for each queue.
_BEFORE_QUEUES = 7


def _without_script(client: Client, wanted: Wanted, answers: Sequence[Any]) -> list[Any]:
    """What the script answers, by plain commands: the slow twin of `overview.lua`."""
    running, recent = answers[4], answers[5][::2][: wanted.recent]
    orders = answers[_BEFORE_QUEUES : _BEFORE_QUEUES + len(QUEUE_NAMES)]
    queued, ended_well = [order[: wanted.queued] for order in orders], answers[6][: wanted.runs]
    newest = running[::-1][: wanted.running]
    counts = ended_commands(client, _seconds(answers[0]))
    holders = [("HMGET", client.key(f"job:{job_id}"), "worker", "worker_pid") for job_id in running]
    ids = [*newest, *recent]
    waiting = [("HMGET", client.key(f"job:{job_id}"), *_QUEUED_FIELDS) for order in queued for job_id in order]
    records = [("HGETALL", client.key(f"job:{job_id}")) for job_id in ids]
    runs = [("HMGET", client.key(f"job:{job_id}"), *_RUN_FIELDS) for job_id in ended_well]
    replies = client.batch([*counts, *holders, *records, *waiting, *runs])
    _raise_refused(replies)
    left = iter(replies)

    def take(number: int) -> list[Any]:
        return [next(left) for _ in range(number)]

    return [
        take(len(counts)),
        take(len(holders)),
        take(len(newest)),
        take(len(recent)),
        [take(len(order)) for order in queued],
        take(len(runs)),
    ]


def _overview(answers: Sequence[Any], details: Sequence[Any], wanted: Wanted) -> Overview:
    clock, heartbeats, hosts, devices, _, recent_ids, _ = answers[:_BEFORE_QUEUES]
    sizes = answers[_BEFORE_QUEUES + len(QUEUE_NAMES) :]
    ended, holders, running, recent, queued, runs = details
    return Overview(
        read_at=_seconds(clock),
        counts=to_counts(sizes, ended),
        heartbeats=tuple(
            sorted(readable(read_heartbeat, pairs(heartbeats).values()), key=lambda heartbeat: heartbeat.name)
        ),
        hosts=pairs(hosts),
        leases=_leases(devices),
        holders=tuple(readable(lambda held: (held[0], int(held[1] or 0)), [held for held in holders if held[0]])),
        running=_jobs(running),
        recent=_jobs(recent),
        next=_next(recent_ids, wanted.recent),
        queued={name: _queued_jobs(records) for name, records in zip(QUEUE_NAMES, queued, strict=True)},
        runs=tuple(readable(_run, runs)),
    )


def _leases(entries: list[str]) -> dict[str, Lease]:
    if not entries:  # and nothing of them is imported
        return {}
    from tasks.ledger.device_lease import read_leases

    return read_leases(entries)


def _run(fields: Sequence[str | None]) -> FinishedRun:
    """One of `UNREADABLE` for a record without these times."""
    kind, started_at, finished_at, estimate_s = fields
    if kind is None:
        raise ValueError("no job")
    seconds = finite(finished_at) - finite(started_at)
    return FinishedRun(kind, max(0.0, seconds), finite(estimate_s) if estimate_s else None)


def _next(ids_and_times: Sequence[str], shown: int) -> str | None:
    """Where the page after the first `shown` jobs starts, as `tasks.ledger.listing` names it; None for no more."""
    if not shown or len(ids_and_times) // 2 <= shown:
        return None
    last_id, last_at = ids_and_times[2 * shown - 2 : 2 * shown]
    return f"{float(last_at):.6f}-{last_id}"


def _jobs(records: Sequence[list[str]]) -> tuple[Job, ...]:
    return tuple(job for job in map(decode, records) if job)


def _queued_jobs(records: Sequence[Sequence[str | None]]) -> tuple[Job, ...]:
    """Jobs of their `_QUEUED_FIELDS`."""
    flat = []
    for values in records:
        named = [(name, value) for name, value in zip(_QUEUED_FIELDS, values, strict=True) if value is not None]
        flat.append([word for pair in (("params", "{}"), *named) for word in pair] if named else [])
    return _jobs(flat)


def _arguments(client: Client, wanted: Wanted) -> tuple[object, ...]:
    tables = (json.dumps(table) for table in (QUEUE_NAMES, ENDED_SETS, RATE_SPANS_S, _RUN_FIELDS, _QUEUED_FIELDS))
    return (client.address.key_prefix, wanted.running, wanted.recent, wanted.queued, wanted.runs, *tables)


def _raise_refused(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Refused):
            raise reply


def _seconds(reply: Sequence[str]) -> float:
    seconds, micros = reply
    return int(seconds) + int(micros) / 1e6


@cache
def _script() -> str:
    return Path(__file__).with_name("overview.lua").read_text(encoding="utf-8")
