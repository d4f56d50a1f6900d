"""A job's record as Redis holds it: the only place that knows how its fields are written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from tasks.job import Job, Progress, State
from tasks.queues import Limits

_JSON_FIELDS = ("params", "parents", "tags", "more_artifacts", "progress", "metrics", "result", "error", "limits")
_NUMBERS = ("priority", "attempt", "max_attempts", "worker_pid")
_TIMES = ("created_at", "queued_at", "started_at", "finished_at")

#: What a new job's record says is for the ledger to write.
_WRITTEN_BY_THE_LEDGER = ("state",)


def encode_new(job: Job) -> dict[str, str]:
    """The fields of a job that is to be submitted; those that say nothing are left out."""
    told = {}
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        says_nothing = value is None or value is False or value in ("", ())
        if not says_nothing and field.name not in _WRITTEN_BY_THE_LEDGER:
            told[field.name] = _encoded(field.name, value)
    return told


def _encoded(name: str, value: Any) -> str:
    if name == "limits":
        return json.dumps(dataclasses.asdict(value))
    return json.dumps(value) if name in _JSON_FIELDS else str(value)


def decode(flat: Sequence[str]) -> Job | None:
    """The job in what HGETALL answered; None when there was nothing."""
    if not flat:
        return None
    told = pairs(flat)
    values: dict[str, Any] = {field.name: told[field.name] for field in dataclasses.fields(Job) if told.get(field.name)}
    for names, read in ((_JSON_FIELDS, json.loads), (_TIMES, float), (_NUMBERS, int)):
        values.update({name: read(values[name]) for name in names if name in values})
    if "progress" in values:
        values["progress"] = Progress(**values["progress"])
    if "limits" in values:
        values["limits"] = Limits(**values["limits"])
    for name in ("parents", "tags", "more_artifacts"):
        values[name] = tuple(values.get(name, ()))
    values["state"] = State(values["state"])
    values["cancel_requested"] = told.get("cancel_requested") == "1"
    return Job(**values)


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Redis tells a hash as a list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
