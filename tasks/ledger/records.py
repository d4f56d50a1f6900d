"""A job's record in Redis, its events and its metrics: no other module knows their format."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.queues import Limits

T = TypeVar("T")
R = TypeVar("R")

_OBJECTS = ("params", "progress", "metrics", "result", "error", "limits")
_LISTS = ("parents", "tags", "more_artifacts")
_JSON_FIELDS = (*_OBJECTS, *_LISTS)
_NUMBERS = ("priority", "attempt", "max_attempts", "worker_pid")
_TIMES = ("created_at", "queued_at", "started_at", "finished_at", "estimate_s", "progress_at")

#: What a new job's record says is for the ledger to write.
_WRITTEN_BY_THE_LEDGER = ("state",)


def encode_new(job: Job) -> dict[str, str]:
    """The fields of a job that is to be submitted; those that say nothing are left out."""
    fields = {}
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        says_nothing = value is None or value is False or value in ("", ())
        if not says_nothing and field.name not in _WRITTEN_BY_THE_LEDGER:
            fields[field.name] = _encoded(field.name, value)
    if job.may_use_gpu:
        fields["may_use_gpu"] = "1"
    return fields


#: What reading an entry raises that others have damaged.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError)


def _encoded(name: str, value: Any) -> str:
    if name == "limits":
        return json.dumps(dataclasses.asdict(value))
    return json.dumps(value) if name in _JSON_FIELDS else str(value)


def decode(flat: Sequence[str]) -> Job | None:
    """The job in what HGETALL answered; None when there was nothing, or nothing that can be read."""
    try:
        return decode_strictly(flat) if flat else None
    except UNREADABLE:
        return None


def decode_strictly(flat: Sequence[str]) -> Job:
    """The job in what HGETALL answered. One of `UNREADABLE` when that is no job's record."""
    fields = pairs(flat)
    values: dict[str, Any] = {
        field.name: fields[field.name] for field in dataclasses.fields(Job) if fields.get(field.name)
    }
    for names, read in ((_OBJECTS, _object), (_LISTS, _texts), (_TIMES, finite), (_NUMBERS, int)):
        values.update({name: read(values[name]) for name in names if name in values})
    if "progress" in values:
        values["progress"] = _progress(values["progress"])
    if "limits" in values:
        values["limits"] = _limits(values["limits"])
    values["state"] = State(values["state"])
    values["cancel_requested"] = fields.get("cancel_requested") == "1"
    return Job(**values)


def readable(read: Callable[[T], R], entries: Iterable[T]) -> list[R]:
    """What `read` makes of each entry; those that others have damaged are left out. `tasks.fleet.damaged_entries` names
    them.
    """
    found = []
    for entry in entries:
        try:
            found.append(read(entry))
        except UNREADABLE:
            continue
    return found


def finite(text: object) -> float:
    """A time or another number to calculate with. One of `UNREADABLE` for any other, infinities among them."""
    number = float(text)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no finite number")
    return number


def finite_number(value: object) -> float:
    """The same of what JSON has as a number already. One of `UNREADABLE` for anything else."""
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return finite(value)


def read_event(line: str) -> dict[str, Any]:
    """An entry of a job's history. One of `UNREADABLE` when that is none."""
    event = json.loads(line)
    return {**event, "at": finite(event["at"]), "state": str(event["state"]), "reason": str(event["reason"])}


def read_point(line: str) -> MetricPoint:
    """What a job measured. One of `UNREADABLE` when that is no measurement."""
    at, _, values = line.partition(" ")
    return MetricPoint(int(at), dict(json.loads(values).items()))


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError("not a JSON object")
    return found


def _texts(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise TypeError("not a JSON list of texts")
    return tuple(found)


def _limits(found: dict[str, Any]) -> Limits:
    limits = Limits(**found)
    if not all(span is None or isinstance(span, int | float) for span in found.values()):
        raise TypeError("limits without numbers")
    return limits


def _progress(found: dict[str, Any]) -> Progress:
    progress = Progress(**found)
    for number in (progress.done, progress.total or 0, progress.rate or 0):
        finite_number(number)
    return progress


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """The hash that Redis returned as a flat list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
