"""Heartbeats of hosts: what each supervisor writes into the ledger about its host every few seconds.

All are in one hash, so that a list costs one command. Its fields are HOST:HOME, since a host may have several homes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.accelerators.card_processes import CardProcess
from tasks.ledger.records import finite_number, pairs, readable
from tasks.redis_client.redis_connection import Client, Refused

#: Their key, after the prefix.
KEY = "hosts"

#: A host is silent without a heartbeat for this long: three of them are missing.
SILENT_AFTER_S = 15.0

#: A silent host is listed for this long.
LISTED_FOR_S = 600.0

#: Seconds since the epoch that still are a date.
_LATEST = 1e11


@dataclass(frozen=True)
class Gpu:
    """A GPU of a host; memory in bytes, `utilisation` in percent, `temperature` in degrees Celsius, `power` in watts.

    `instance` is which MIG instance of the GPU it is, where it is one. `processes` are those that hold most memory
    there, `more_processes` is the number of the others, `others_bytes` the memory that no job holds. None: could not be
    read, for the reason in `error` if none of it could; by an older supervisor, it was not.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    error: str | None = None
    instance: int | None = None
    utilisation: float | None = None
    temperature: float | None = None
    power: float | None = None
    processes: tuple[CardProcess, ...] | None = None
    more_processes: int = 0
    others_bytes: int | None = None


@dataclass(frozen=True)
class HostHeartbeat:
    """A host as its supervisor of one home sees it. Times are by the server's clock; None: could not be read.

    `clock_offset_s` is this host's clock minus the server's.
    """

    host: str
    home: str
    pid: int
    started_at: float
    seen_at: float
    clock_offset_s: float
    version: str | None = None  # of mistudio
    cores: int | None = None
    memory_bytes: int | None = None
    load_1m: float | None = None
    store: str | None = None
    store_free_bytes: int | None = None  # on the disk that holds the store
    store_error: str | None = None
    gpus: tuple[Gpu, ...] | None = None
    gpus_error: str | None = None

    @property
    def field(self) -> str:
        """Its field of the hash."""
        return field_of(self.host, self.home)


def field_of(host: str, home: str) -> str:
    """The field of the hash for the supervisor of a home on a host."""
    return f"{host}:{home}"


def measure_clock_offset(client: Client) -> float:
    """This host's clock minus the server's, in seconds. Raises Unreachable, or Refused where TIME is forbidden."""
    sent_at, began = time.time(), time.monotonic()
    return _clock_offset(client.call("TIME"), sent_at, time.monotonic() - began)


def send(client: Client, heartbeat: HostHeartbeat) -> float:
    """Write a heartbeat in one round trip; returns the clock offset measured by that. Raises Unreachable.

    A server that answers but takes no writes is no error here: heartbeats of workers find that out.
    """
    line = json.dumps(dataclasses.asdict(heartbeat))
    sent_at, began = time.time(), time.monotonic()
    reply, _ = client.try_all([("TIME",), ("HSET", client.key(KEY), heartbeat.field, line)])
    return _clock_offset(reply, sent_at, time.monotonic() - began)


def remove(client: Client, fields: Sequence[str]) -> None:
    """Remove heartbeats by their fields, such as that of a supervisor that ends. Raises Unreachable or Refused."""
    if fields:
        client.call("HDEL", client.key(KEY), *fields)


def remove_unlisted(client: Client) -> None:
    """Remove the heartbeats of hosts silent for too long to be listed. Raises Unreachable or Refused."""
    now, heartbeats = _read(client)
    remove(client, [heartbeat.field for heartbeat in heartbeats if abs(now - heartbeat.seen_at) > LISTED_FOR_S])


def read_all(client: Client) -> list[HostHeartbeat]:
    """The heartbeats of all hosts that are listed, by host and home, in one round trip. Raises Unreachable or Refused.

    Entries that cannot be read are left out; `tasks.fleet.damaged_entries` names them.
    """
    now, heartbeats = _read(client)
    return _listed(heartbeats, now)


def listed(lines: Iterable[str], now: float) -> list[HostHeartbeat]:
    """The same of heartbeats as they are written, at a time by the server's clock."""
    return _listed(readable(decode, lines), now)


def _listed(heartbeats: Sequence[HostHeartbeat], now: float) -> list[HostHeartbeat]:
    found = [heartbeat for heartbeat in heartbeats if abs(now - heartbeat.seen_at) <= LISTED_FOR_S]
    return sorted(found, key=lambda heartbeat: (heartbeat.host, heartbeat.home))


def decode(line: str) -> HostHeartbeat:
    """A heartbeat; one of a newer version may have more fields. One of `UNREADABLE` when that is none."""
    fields = json.loads(line)
    gpus = fields.get("gpus")
    known = {**_known(HostHeartbeat, fields), "gpus": None if gpus is None else tuple(map(_gpu, gpus))}
    heartbeat = HostHeartbeat(**known)
    for seconds in (heartbeat.started_at, heartbeat.seen_at, heartbeat.clock_offset_s):
        if abs(finite_number(seconds)) > _LATEST:
            raise ValueError(f"{seconds} is no time")
    _check((heartbeat.host, heartbeat.home), str)
    _check((heartbeat.pid,), int)
    _check((heartbeat.version, heartbeat.store, heartbeat.store_error, heartbeat.gpus_error), str, None)
    _check((heartbeat.cores, heartbeat.memory_bytes, heartbeat.load_1m, heartbeat.store_free_bytes), float, int, None)
    return heartbeat


def _gpu(fields: dict[str, Any]) -> Gpu:
    processes = fields.get("processes")
    known = {**_known(Gpu, fields), "processes": None if processes is None else tuple(map(_process, processes))}
    gpu = Gpu(**known)
    _check((gpu.index, gpu.more_processes), int)
    _check((gpu.name, gpu.uuid, gpu.error), str, None)
    _check((gpu.memory_total, gpu.memory_free, gpu.instance, gpu.others_bytes), int, None)
    _check((gpu.utilisation, gpu.temperature, gpu.power), float, int, None)
    return gpu


def _process(fields: dict[str, Any]) -> CardProcess:
    process = CardProcess(**_known(CardProcess, fields))
    _check((process.pid,), int)
    _check((process.memory,), int, None)
    _check((process.user, process.command, process.job), str, None)
    return process


def _known(record: type, fields: dict[str, Any]) -> dict[str, Any]:
    return {field.name: fields[field.name] for field in dataclasses.fields(record) if field.name in fields}


def _check(values: Sequence[Any], *kinds: type | None) -> None:
    for value in values:
        if not any(value is None if kind is None else isinstance(value, kind) for kind in kinds):
            raise TypeError(f"{value!r} is of the wrong type")
        if isinstance(value, int | float):
            finite_number(value)


def _read(client: Client) -> tuple[float, list[HostHeartbeat]]:
    time_reply, found = client.batch([("TIME",), ("HGETALL", client.key(KEY))])
    for reply in (time_reply, found):
        if isinstance(reply, Refused):
            raise reply
    return _seconds(time_reply), readable(decode, pairs(found).values())


def _seconds(reply: Sequence[str]) -> float:
    seconds, micros = reply
    return int(seconds) + int(micros) / 1e6


def _clock_offset(reply: Any, sent_at: float, round_trip_s: float) -> float:
    """The server read its clock about half a round trip after it was asked. Raises the error it replied instead."""
    if isinstance(reply, Exception):
        raise reply
    return sent_at + round_trip_s / 2 - _seconds(reply)
