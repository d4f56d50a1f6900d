"""The table of keys in a profile's file: errors, `profiles export` and documentation follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.queues import QUEUE_NAMES, Resource, queue_named

ARRANGEMENTS = ("one", "per-queue")

#: KiB. A slot at rest holds 40 MB: a bound below this would replace it after every job.
LEAST_MEMORY_PER_CHILD = 100_000

#: A slot is a process; and with more than 65 535 messages at a time Celery takes as many as there are.
MOST_SLOTS = 999

#: The table of tables in which a queue's worker may differ from the rest.
QUEUES_KEY = "queues"

_LONGEST_SHOWN = 40


@dataclass(frozen=True)
class ProfileFault:
    """An error in a profile's file, to be printed after its path and before a full stop; and how to fix it."""

    what: str
    hint: str


@dataclass(frozen=True)
class Key:
    """One key: what its value must be, an example in TOML, and what it does."""

    name: str
    wanted: str
    example: str
    meaning: str
    is_sound: Callable[[Any], bool]
    of_queue: bool = False  # [queues.NAME] may set it too


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_slots(value: Any) -> bool:
    return _is_count(value) and value <= MOST_SLOTS


def _is_memory_per_child(value: Any) -> bool:
    return type(value) is int and value >= LEAST_MEMORY_PER_CHILD


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _are_resources(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(word in [*Resource] for word in value)


KEYS: tuple[Key, ...] = (
    Key("summary", "text", '"My workers"', "What `profiles ls` says of it", lambda value: isinstance(value, str)),
    Key(
        "workers",
        '"one" or "per-queue"',
        '"per-queue"',
        "One worker for all queues, or one for each",
        lambda value: value in ARRANGEMENTS,
    ),
    Key(
        "resources",
        f"a list of some of {', '.join(Resource)}",
        '["cpu", "gpu"]',
        "Only queues whose work is limited by these; unset: all queues",
        _are_resources,
    ),
    Key(
        "slots",
        f"a whole number from 1 to {MOST_SLOTS}",
        "4",
        "Jobs at once in each worker; unset: what the table of queues says",
        _is_slots,
        of_queue=True,
    ),
    Key("gpu_jobs", "a whole number from 1", "1", "Jobs that may share one GPU; unset: 1", _is_count),
    Key(
        "cpu_jobs",
        "a whole number from 1",
        "1",
        "Jobs of GPU queues that may share the processor where there is no GPU; unset: 1",
        _is_count,
    ),
    Key(
        "max_tasks_per_child",
        "a whole number from 1",
        "100",
        "Recycle a slot's process after N jobs; unset: never",
        _is_count,
        of_queue=True,
    ),
    Key(
        "max_memory_per_child",
        f"a whole number of KiB from {LEAST_MEMORY_PER_CHILD}",
        "2000000",
        "Recycle the process after a job if its peak RSS exceeded N KiB; unset: never",
        _is_memory_per_child,
        of_queue=True,
    ),
    Key(
        "job_memory_gb",
        "a number of GB above 0",
        "16",
        "Stop a job whose processes hold more than N GB; unset: never",
        _is_amount,
        of_queue=True,
    ),
)

_BY_NAME = {key.name: key for key in KEYS}
_OF_QUEUE = tuple(key.name for key in KEYS if key.of_queue)

_REMOVE = "Remove the line"

#: What Celery knows and a profile may not set, with the reason.
_REFUSED = {
    "pool": ("workers run the prefork pool, for solo and threads ignore time limits and cannot stop a job", _REMOVE),
    "concurrency": ("here it is called slots", "Write for instance: slots = 4"),
    "autoscale": ("a worker begins with one process and grows to its slots with the work", _REMOVE),
    "prefetch_multiplier": ("a worker takes a job only when a slot is free", _REMOVE),
    "time_limit": ("time limits belong to the kinds of job", _REMOVE),
    "soft_time_limit": ("time limits belong to the kinds of job", _REMOVE),
}


def faults_of(document: dict[str, Any]) -> Iterator[ProfileFault]:
    """All errors in the contents of a profile's file."""
    if "workers" not in document:
        yield ProfileFault("workers is missing", 'Write workers = "one" or workers = "per-queue"')
    for name, value in document.items():
        if name == QUEUES_KEY:
            yield from _faults_of_tables(value, document)
        else:
            yield from _faults_of_key(name, value, tuple(_BY_NAME))


def in_toml(value: Any) -> str:
    """A value as TOML writes it: text, numbers and lists of them."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(in_toml(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def near(word: str, known: Sequence[str]) -> str:
    """The known word that was perhaps meant, as a question; else nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1)
    return f"Did you mean {found[0]}? " if found else ""


def _faults_of_tables(tables: Any, document: dict[str, Any]) -> Iterator[ProfileFault]:
    """What is wrong in `[queues.NAME]`, the tables in which a queue's worker differs from the rest."""
    if not isinstance(tables, dict) or not all(isinstance(own, dict) for own in tables.values()):
        yield ProfileFault(
            "queues must be tables, for which queues are served follows from resources",
            "Write what differs for one queue below a line such as [queues.training]",
        )
        return
    if tables and document.get("workers") == "one":
        what = f"[queues.{next(iter(tables))}] has no effect, for the slots of one worker serve all its queues alike"
        yield ProfileFault(what, 'Remove the table or write: workers = "per-queue"')
    for queue, own in tables.items():
        yield from _faults_of_queue(queue, document)
        for name, value in own.items():
            yield from _faults_of_key(name, value, _OF_QUEUE, f" in [queues.{queue}]")


def _faults_of_queue(queue: str, table: dict[str, Any]) -> Iterator[ProfileFault]:
    resources = table.get("resources", [*Resource])
    if queue not in QUEUE_NAMES:
        yield ProfileFault(
            f"there is no queue {queue!r}", f"{near(queue, QUEUE_NAMES)}Queues: {', '.join(QUEUE_NAMES)}"
        )
    elif _are_resources(resources) and (needed := queue_named(queue).resource) not in resources:
        what = f"[queues.{queue}] has no effect, for resources leaves out {needed}"
        yield ProfileFault(what, f'Remove the table or add "{needed}" to resources')


def _faults_of_key(name: str, value: Any, allowed: Sequence[str], where: str = "") -> Iterator[ProfileFault]:
    if name in _REFUSED:
        reason, hint = _REFUSED[name]
        yield ProfileFault(f"{name} cannot be set{where}: {reason}", hint)
    elif name not in _BY_NAME:
        yield ProfileFault(f"there is no key {name!r}{where}", f"{near(name, allowed)}Keys: {', '.join(allowed)}")
    elif name not in allowed:
        yield ProfileFault(f"{name} stands{where} but is for the whole profile", "Move the line above the first table")
    elif not _BY_NAME[name].is_sound(value):
        key, shown = _BY_NAME[name], in_toml(value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "…"
        yield ProfileFault(
            f"{name}{where} must be {key.wanted}, not {shown}", f"Write for instance: {name} = {key.example}"
        )
