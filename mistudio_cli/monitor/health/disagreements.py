"""Where the ledger and a worker's replies to Celery disagree, and since when.

Both are read within a second of each other, in which jobs start and end. So a difference counts when the same jobs,
tasks or queues are on one side, and more than the other side ever had, in each reading since it began.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistudio_cli.monitor.celery_workers import CeleryWorker, CeleryWorkers

#: A difference is a cause when it has lasted for so long.
LASTING_S = 10.0

#: Nothing is known of what was between two readings that are further apart.
_LONGEST_GAP_S = 20.0


@dataclass(frozen=True)
class Disagreement:
    """A worker for which the two differ since `since` (server's clock): a sentence, and whether it does not reply."""

    worker: str
    sentence: str
    command: str
    since: float
    is_mute: bool = False


@dataclass(frozen=True)
class _Difference:
    """What one side has in each reading since `since`, and the most that the other side had of it."""

    has: frozenset[str]
    most: int
    since: float


@dataclass(frozen=True)
class _Comparison:
    """What one side has and how much of that the other has, in words and with the command that helps."""

    what: str
    has: Collection[str]
    others: int
    sentence: str
    command: str


class Disagreements:
    """The differences in a series of readings. Not for several threads at once."""

    def __init__(self) -> None:
        self._differences: dict[tuple[str, str], _Difference] = {}
        self._last_at = float("-inf")
        self.lasting: tuple[Disagreement, ...] = ()

    def update(self, seen: CeleryWorkers, configured: Mapping[str, Sequence[str]]) -> None:
        """Take one more reading; `configured` are the queues of workers by their supervisor, where it is known."""
        before = self._differences if seen.read_at - self._last_at <= _LONGEST_GAP_S else {}
        self._differences, self._last_at = {}, seen.read_at
        lasting = []
        for worker in seen.workers:
            for found in () if worker.foreign else _comparisons(worker, configured.get(worker.name)):
                key = worker.name, found.what
                difference = _next(before.get(key), found, seen.read_at)
                if difference is None:
                    continue
                self._differences[key] = difference
                if seen.read_at - difference.since >= LASTING_S:
                    is_mute = found.what == _MUTE
                    lasting.append(
                        Disagreement(worker.name, found.sentence, found.command, difference.since, is_mute=is_mute)
                    )
        self.lasting = tuple(lasting)


def _next(before: _Difference | None, found: _Comparison, now: float) -> _Difference | None:
    """The difference after one more reading; None where there is none now."""
    if len(found.has) <= found.others:
        return None
    if before is not None:
        has, most = before.has & frozenset(found.has), max(before.most, found.others)
        if len(has) > most:
            return _Difference(has, most, before.since)
    return _Difference(frozenset(found.has), found.others, now)


_MUTE = "mute"


def _comparisons(worker: CeleryWorker, configured: Sequence[str] | None) -> Iterator[_Comparison]:
    """All that is compared for one worker; what it did not reply is not."""
    name = worker.name
    if worker.mute:
        sentence = f"{name} sends heartbeats but does not reply to Celery"
        yield _Comparison(_MUTE, (name,), 0, sentence, f"mistudio workers logs {name}")
        return
    active = _named(worker.replies.get("active"), "id")
    if active is not None:
        sentence = f"Jobs of {name}: {len(worker.jobs)} running by the ledger, {len(active)} active by Celery"
        command = f"mistudio workers inspect active --worker {name}"
        yield _Comparison("jobs", worker.jobs, len(active), sentence, command)
        yield _Comparison("active", active, len(worker.jobs), sentence, command)
    consumed = _named(worker.replies.get("queues"), "name")
    if consumed is not None:
        wanted = worker.queues if configured is None else configured
        missing, extra = [queue for queue in wanted if queue not in consumed], consumed - set(wanted)
        sentence = f"Queues of {name}: {len(wanted)} configured, {len(consumed)} consumed by Celery"
        sentence += f": not {', '.join(missing)}" if missing else f": also {', '.join(sorted(extra))}" if extra else ""
        command = f"mistudio workers restart {name}"
        yield _Comparison("queues", wanted, len(wanted) - len(missing), sentence, command)
        yield _Comparison("consumed", consumed, len(consumed - extra), sentence, command)


def _named(reply: Any, key: str) -> set[str] | None:
    """What a list in a reply names; None for a reply that is missing or of another form."""
    if not isinstance(reply, list):
        return None
    return {str(each.get(key)) for each in reply if isinstance(each, dict)}
