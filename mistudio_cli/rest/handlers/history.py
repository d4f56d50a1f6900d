"""History: what queues and GPUs were like over the last minutes, hour or day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_cli.rest.route import Answer, Call, param
from mistudio_cli.views import json_shapes
from tasks.ledger import history
from tasks.ledger.history import DeviceName, History


@dataclass(frozen=True)
class Span:
    """A history of what, and over which span."""

    part: str = param("queues", help="Queues or GPUs", choices=tuple(history.PARTS))
    span: str = param("15m", help="15 minutes, an hour or a day, until now", choices=tuple(history.SPANS))
    newest: int | None = param(None, help="Number of entries from the end", minimum=1, maximum=1440)


async def get_history(call: Call) -> Answer:
    """`GET /api/v1/history`, from one round trip to Redis."""
    wanted: Span = call.params
    return Answer(
        await call.services.read(
            lambda ledger: _json(history.read(ledger.client, wanted.part, wanted.span, wanted.newest), wanted)
        )
    )


def _json(found: History, wanted: Span) -> dict[str, Any]:
    return {
        "read_at": json_shapes.time(found.read_at),
        "part": wanted.part,
        "span": wanted.span,
        "start": json_shapes.time(found.start),
        "step_s": found.step_s,
        "count": found.count,
        "queues": _queues(found) if wanted.part == "queues" else None,
        "devices": _devices(found) if wanted.part == "devices" else None,
        "left_out": found.left_out,
    }


def _queues(found: History) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "pending": values["pending"],
            "running": values["running"],
            "paused": [None if value is None else bool(value) for value in values["paused"]],
        }
        for name, values in found.series.items()
    ]


def _devices(found: History) -> list[dict[str, Any]]:
    names = {key: found.devices.get(key, DeviceName()) for key in found.series}
    return [_device(name, found.series[key]) for key, name in sorted(names.items(), key=_place)]


def _place(entry: tuple[str, DeviceName]) -> tuple[str, int, int, str]:
    """By host and index; a GPU whose name was lost comes first."""
    key, name = entry
    return name.host or "", name.index or 0, name.instance or 0, key


def _device(name: DeviceName, values: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    return {
        "host": name.host,
        "uuid": name.uuid,
        "index": name.index,
        "instance": name.instance,
        "name": name.name,
        "utilisation_percent": values["utilisation"],
        "memory_used_bytes": values["memory_used"],
        "power_w": values["power"],
        "temperature_c": values["temperature"],
    }
