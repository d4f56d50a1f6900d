"""Settings of job kinds in `mistudio.toml`: a kind's default priority and its limits.

    [kinds.tokenize]
    priority = 7
    soft_limit = "30m"

They rule the jobs that are submitted from then on; a job keeps the limits it was submitted with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import JobKind, kinds
from tasks.parsing.setting_types import DURATION, Type, count, duration_text, optional
from tasks.queues import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY, Limits
from tasks.settings import KINDS, Value, place_of, read_file, read_from_file


@dataclass(frozen=True)
class KindSetting:
    """A key of `[kinds.KIND]`."""

    name: str
    type: Type
    help: str


PRIORITY = KindSetting(
    "priority", count(LOWEST_PRIORITY, HIGHEST_PRIORITY), "Priority of jobs submitted without --priority"
)
SOFT_LIMIT = KindSetting("soft_limit", optional(DURATION), "Working time after which a job is asked to stop")
HARD_LIMIT = KindSetting("hard_limit", optional(DURATION), "Working time after which a job is killed")
STALL_TIMEOUT = KindSetting("stall_timeout", optional(DURATION), "Time without progress after which a job is retried")
KIND_SETTINGS = (PRIORITY, SOFT_LIMIT, HARD_LIMIT, STALL_TIMEOUT)
_BY_NAME = {setting.name: setting for setting in KIND_SETTINGS}


def default_priority(kind: JobKind) -> int:
    """The priority of a job of this kind for which none was asked. UserError for a wrong one in the file."""
    found: int = _value(kind, PRIORITY, DEFAULT_PRIORITY).value
    return found


def limits_set(kind: JobKind) -> Limits | None:
    """The limits of this kind's jobs if the file sets any, else None. UserError for wrong ones."""
    values = list(_limits_of(kind))
    if all(value.origin == "default" for value in values):
        return None
    limits = Limits(*(value.value for value in values))
    _check(kind, limits)
    return limits


def values_of(kind: JobKind) -> Iterator[Value]:
    """The settings of a kind that are in force, by their full names."""
    yield _value(kind, PRIORITY, DEFAULT_PRIORITY)
    yield from _limits_of(kind)


def _limits_of(kind: JobKind) -> Iterator[Value]:
    """In the order of the fields of `Limits`."""
    own = kind.effective_limits
    yield _value(kind, SOFT_LIMIT, own.soft_s)
    yield _value(kind, HARD_LIMIT, own.hard_s)
    yield _value(kind, STALL_TIMEOUT, own.stall_s)


def value_text(value: Value) -> str:
    """A kind's setting as a person reads and writes it."""
    if value.name.endswith(PRIORITY.name):
        return str(value.value)
    return "none" if value.value is None else duration_text(value.value)


def check_kinds() -> None:
    """UserError for anything below `[kinds]` that is not a kind, not a setting of kinds, or wrong."""
    sections = read_file().get(KINDS, {})
    if not isinstance(sections, dict):
        raise UserError(f"{place_of(KINDS)} is not a table.", f"Write it as [{KINDS}.KIND]")
    for name, table in sections.items():
        if name not in kinds():
            raise UserError(f"{place_of(KINDS, name)} names no kind of job.", f"Kinds: {', '.join(kinds())}")
        if not isinstance(table, dict):
            raise UserError(f"{place_of(KINDS, name)} is not a table.", f"Write it as [{KINDS}.{name}]")
        for key in table.keys() - _BY_NAME.keys():
            known = ", ".join(_BY_NAME)
            raise UserError(f"{place_of(KINDS, name, key)} is not a setting of kinds.", f"Settings of kinds: {known}")
        default_priority(kinds()[name])
        limits_set(kinds()[name])


def _of_kind(name: str) -> dict[str, Any]:
    table = read_file().get(KINDS)
    found = table.get(name) if isinstance(table, dict) else None
    return found if isinstance(found, dict) else {}


def _value(kind: JobKind, setting: KindSetting, default: Any) -> Value:
    name = f"{KINDS}.{kind.name}.{setting.name}"
    if setting.name not in _of_kind(kind.name):
        return Value(name, default, "default")
    return Value(name, read_from_file(setting.type, KINDS, kind.name, setting.name), "file")


def _check(kind: JobKind, limits: Limits) -> None:
    if limits.soft_s and limits.hard_s and limits.soft_s > limits.hard_s:
        where = next(key for key in (SOFT_LIMIT.name, HARD_LIMIT.name) if key in _of_kind(kind.name))
        raise UserError(
            f"{place_of(KINDS, kind.name, where)}: the soft limit is {duration_text(limits.soft_s)}, "
            f"longer than the hard limit of {duration_text(limits.hard_s)}.",
            "Set a hard_limit that is at least as long",
        )
    own = kind.effective_limits.hard_s
    if kind.in_slot and own is not None and (limits.hard_s is None or limits.hard_s > own):
        raise UserError(
            f"{place_of(KINDS, kind.name, HARD_LIMIT.name)}: {kind.name} runs inside its worker, "
            f"so its hard limit is {duration_text(own)} at most.",
            "Set a shorter one",
        )
