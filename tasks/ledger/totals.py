"""Counters over all jobs that ever were, which the ledger counts in the step in which an attempt or a job ends.

They outlive the records of jobs and every process, and are the same wherever they are read. How long jobs waited and
ran is counted in classes by upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.ledger.records import finite, pairs
from tasks.redis_client.redis_connection import Client, Command, Refused

#: Upper bounds in seconds of the classes of durations, from a moment to a week, and of waits.
DURATION_BOUNDS_S = (1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 43200, 86400, 259200, 604800)
WAIT_BOUNDS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 604800)

#: The hashes, after the prefix and "metrics:".
NAMES = ("jobs", "attempts", "duration", "wait")

_SUM = "sum"


@dataclass(frozen=True)
class Distribution:
    """How many values are at most each upper bound (the last is infinite), and the sum of all."""

    counts: tuple[tuple[float, int], ...]
    sum: float


@dataclass(frozen=True)
class Totals:
    """Ended jobs by kind and outcome, attempts that started by kind; seconds that jobs ran and waited by kind.

    A duration is that of a job's last attempt; a wait is that in the queue before an attempt.
    """

    jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    durations: Mapping[str, Distribution] = field(default_factory=dict)
    waits: Mapping[str, Distribution] = field(default_factory=dict)


def commands(client: Client) -> list[Command]:
    """What reads the counters."""
    return [("HGETALL", client.key(f"metrics:{name}")) for name in NAMES]


def decode(replies: Sequence[Any]) -> Totals:
    """The counters from the replies to `commands`; what others have damaged is left out."""
    jobs, attempts, durations, waits = (_numbers(reply) for reply in replies)
    return Totals(
        jobs={(kind, outcome): int(number) for (kind, outcome), number in _split(jobs).items()},
        attempts={kind: int(number) for kind, number in attempts.items()},
        durations=_distributions(durations, DURATION_BOUNDS_S),
        waits=_distributions(waits, WAIT_BOUNDS_S),
    )


def _numbers(reply: Any) -> dict[str, float]:
    """The numbers of a hash, by field. None of one that is no hash."""
    found: dict[str, float] = {}
    for name, text in () if isinstance(reply, Refused) else pairs(reply).items():
        try:
            found[name] = max(0.0, finite(text))
        except ValueError:
            continue
    return found


def _split(numbers: Mapping[str, float]) -> dict[tuple[str, str], float]:
    parts = {name: name.rpartition(" ") for name in numbers}
    return {(kind, last): numbers[name] for name, (kind, _, last) in parts.items() if kind}


def _distributions(numbers: Mapping[str, float], bounds: Sequence[float]) -> dict[str, Distribution]:
    """By kind. A class of another version counts to the next bound above its own."""
    found = _split(numbers)
    classes: dict[str, list[tuple[float, int]]] = {}
    for (kind, bound), number in found.items():
        if bound != _SUM and (limit := _bound(bound)) is not None:
            classes.setdefault(kind, []).append((limit, int(number)))
    return {
        kind: Distribution(
            tuple((most, sum(number for limit, number in of_kind if limit <= most)) for most in (*bounds, math.inf)),
            found.get((kind, _SUM), 0.0),
        )
        for kind, of_kind in sorted(classes.items())
    }


def _bound(text: str) -> float | None:
    try:
        return math.inf if text == "+Inf" else finite(text)
    except ValueError:
        return None
