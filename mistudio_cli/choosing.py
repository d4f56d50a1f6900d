"""Which jobs a command means: the flags that choose them, the only place that checks these and reads times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from tasks.job import State, kinds
from tasks.listing import Filter
from tasks.problem import Problem
from tasks.queues import QUEUE_NAMES

StateFlag = Annotated[list[str] | None, typer.Option("--state", help="Only jobs in this state; may be repeated")]
KindFlag = Annotated[str | None, typer.Option("--kind", help="Only jobs of this kind")]
QueueFlag = Annotated[str | None, typer.Option("--queue", help="Only jobs of this queue")]
NameFlag = Annotated[str | None, typer.Option("--name", help="Only jobs of this name")]
TagFlag = Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag")]
SinceFlag = Annotated[str | None, typer.Option("--since", help="Only jobs submitted since: 2h, 3d, 2026-11-24T08:00")]
UntilFlag = Annotated[str | None, typer.Option("--until", help="Only jobs submitted until then")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def which(
    state: Sequence[str] | None,
    kind: str | None,
    queue: str | None,
    name: str | None,
    tag: str | None,
    since: str | None,
    until: str | None,
) -> Filter:
    """The jobs that these flags mean. Raises Problem for a state, kind, queue or time that there is not."""
    for told in state or ():
        _check("--state", told, [str(known) for known in State])
    if kind is not None:
        _check("--kind", kind, list(kinds()))
    if queue is not None:
        _check("--queue", queue, list(QUEUE_NAMES))
    now = datetime.now(UTC)
    first, last = _moment("--since", since, now), _moment("--until", until, now)
    if first is not None and last is not None and first > last:
        raise Problem(f"--since {since} is later than --until {until}.", "Exchange them")
    return Filter(tuple(state or ()), kind, queue, name, tag, first, last)


def _moment(flag: str, told: str | None, now: datetime) -> float | None:
    """Seconds since the epoch: of an age before `now`, or of an ISO 8601 time, local where it names no zone."""
    if told is None:
        return None
    if age := _AGE.fullmatch(told):
        return now.timestamp() - float(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(told).timestamp()
    except (ValueError, OverflowError):
        raise Problem(
            f"{flag} {told!r} is neither an age nor a time.", f"{flag} 2h, or {flag} 2026-11-24T08:00"
        ) from None


def _check(flag: str, told: str, known: list[str]) -> None:
    if told not in known:
        raise Problem(f"{flag} {told!r} is none of: {', '.join(known)}.", "See: mistudio jobs ls --help")
