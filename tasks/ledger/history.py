"""What queues and GPUs were like in the last hour and the last day, as the ledger's maintenance records it.

Workers that maintain the ledger write a row each FINE.step_s, and from these one each minute (`lua/7_history.lua`):
of a queue the largest values of the minute, of a GPU the mean ones. A time at which nobody wrote has None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.ledger.records import finite_number, pairs, readable
from tasks.redis_client.redis_connection import Client, Refused


@dataclass(frozen=True)
class Resolution:
    """A bounded list of rows in Redis: the seconds between two of them, and how many are kept."""

    suffix: str
    step_s: int
    rows: int


FINE, COARSE = Resolution("5s", 5, 720), Resolution("1m", 60, 1440)

#: Rows have no more GPUs than this; how many are left out is in the row.
MOST_DEVICES = 64

#: GPUs of a host without a heartbeat for this long are left out.
DEVICE_FRESH_S = 15

#: What there is a history of, and the values of each, in the order of a row; memory is in MiB there.
PARTS: Mapping[str, tuple[str, ...]] = {
    "queues": ("pending", "running", "paused"),
    "devices": ("utilisation", "memory_used", "power", "temperature"),
}

#: The names of spans, with their resolution and number of rows.
SPANS: Mapping[str, tuple[Resolution, int]] = {"15m": (FINE, 180), "1h": (FINE, 720), "24h": (COARSE, 1440)}

#: The hash of GPUs by the names that rows have for them, after the prefix.
NAMES_KEY = "history:devices"

_LEFT_OUT = "left_out"
_NUMBERS = ("index", "instance")
_MIB = 1 << 20

Row = tuple[int, dict[str, list[float | None]]]


@dataclass(frozen=True)
class DeviceName:
    """Which GPU a history is of."""

    host: str | None = None
    uuid: str | None = None
    index: int | None = None
    instance: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class History:
    """The series of one part: for each name a list of each value, `count` entries, every `step_s` from `start` on.

    `start` and `read_at` are seconds since the epoch by the server's clock; memory is in bytes, utilization in percent,
    power in watts, temperature in degrees Celsius. None: nobody wrote then, or it could not be read. `devices` says
    which GPU a name is, `left_out` how many GPUs the newest row has no room for.
    """

    read_at: float
    start: int
    step_s: int
    count: int
    series: Mapping[str, Mapping[str, Sequence[float | None]]]
    devices: Mapping[str, DeviceName]
    left_out: int = 0


def key(part: str, resolution: Resolution) -> str:
    """The list of a part's rows, after the prefix."""
    return f"history:{part}:{resolution.suffix}"


def keys(part: str) -> tuple[str, ...]:
    """All lists of a part."""
    return tuple(key(part, resolution) for resolution in (FINE, COARSE))


def read(client: Client, part: str, span: str, newest: int | None = None) -> History:
    """The history of "queues" or "devices" over one of SPANS, in one round trip. Raises Unreachable or Refused.

    With `newest`, only that many entries at its end. A Redis in which no worker has written one has no series.
    """
    resolution, count = SPANS[span]
    count = count if newest is None else min(count, newest)
    replies = client.batch(
        [
            ("TIME",),
            ("LRANGE", client.key(key(part, resolution)), -count, -1),
            ("HGETALL", client.key(NAMES_KEY)),
        ]
    )
    for reply in replies:
        if isinstance(reply, Refused):
            raise reply
    (seconds, micros), lines, names = replies
    now, rows = int(seconds) + int(micros) / 1e6, _rows(lines)
    start = _start(now, rows, resolution.step_s, count)
    series = _series(rows, PARTS[part], start, resolution.step_s, count)
    devices = dict(readable(_device, pairs(names).items())) if part == "devices" else {}
    left_out = rows[-1][1].get(_LEFT_OUT, [0])[0] if rows else 0
    return History(now, start, resolution.step_s, count, series, devices, int(left_out or 0))


def _rows(lines: Sequence[str]) -> list[Row]:
    """All rows at once, which is much faster than each by itself; if that fails, those that can be read."""
    try:
        return _checked(json.loads(f"[{','.join(lines)}]"))
    except ValueError:
        return _checked(readable(json.loads, lines))


def _checked(rows: Iterable[Any]) -> list[Row]:
    return [
        (row[0], row[1])
        for row in rows
        if isinstance(row, list) and len(row) == 2 and isinstance(row[0], int) and isinstance(row[1], dict)
    ]


def _start(now: float, rows: Sequence[Row], step_s: int, count: int) -> int:
    """The time of the first entry. The newest steps may not be written yet: that is no gap."""
    current = int(now) // step_s * step_s
    written = [at for at, _ in rows[-1:] if current - 2 * step_s < at <= current]
    end = written[0] if written else current - 2 * step_s
    return end - (count - 1) * step_s


def _series(
    rows: Sequence[Row], values: Sequence[str], start: int, step_s: int, count: int
) -> dict[str, dict[str, list[float | None]]]:
    steps: list[dict[str, Any]] = [{}] * count
    for at, cells in rows:
        if start <= at < start + count * step_s:
            steps[(at - start) // step_s] = cells
    names = dict.fromkeys(name for cells in steps for name in cells if name != _LEFT_OUT)
    return {name: _columns([cells.get(name) for cells in steps], values) for name in names}


def _columns(steps: Sequence[Any], values: Sequence[str]) -> dict[str, list[float | None]]:
    """The cells of one name as a list for each value; all at once, since a day has tens of thousands."""
    unknown = [None] * len(values)
    whole = [step if isinstance(step, list) and len(step) == len(values) else unknown for step in steps]
    columns = {value: _numbers(column) for value, column in zip(values, zip(*whole, strict=True), strict=True)}
    if (used := columns.get("memory_used")) is not None:
        columns["memory_used"] = [None if mib is None else mib * _MIB for mib in used]
    return columns


def _numbers(column: Sequence[Any]) -> list[float | None]:
    """None in place of what is no finite number."""
    if {*map(type, column)} <= {int, type(None)}:
        return list(column)
    return [value if isinstance(value, (int, float)) and math.isfinite(value) else None for value in column]


def _device(entry: tuple[str, str]) -> tuple[str, DeviceName]:
    """One of `UNREADABLE` for what is no name of a GPU."""
    name, line = entry
    fields = json.loads(line)
    host, uuid, model = (fields.get(key) for key in ("host", "uuid", "name"))
    if not all(text is None or isinstance(text, str) for text in (host, uuid, model)):
        raise TypeError("not a text")
    index, instance = (None if (number := fields.get(key)) is None else int(finite_number(number)) for key in _NUMBERS)
    return name, DeviceName(host, uuid, index, instance, model)
