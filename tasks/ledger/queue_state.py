"""Queries and operations on whole queues: counts, order, pause, purge, and a job's place in its queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.ledger import lua_script
from tasks.ledger.records import finite
from tasks.queues import QUEUE_NAMES, redis_lists
from tasks.redis_client.redis_connection import Client, Refused

#: Spans over which the jobs that ended are counted, in seconds.
RATE_SPANS_S = (60, 300, 900)

_PURGED_AT_ONCE = 500


#: The sets of a queue's jobs that ended lately after they had run: all of them, then by outcome.
ENDED_SETS = ("ended", *(f"ended:{state}" for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)))


@dataclass(frozen=True)
class QueueCount:
    """What a queue holds. Times are by the server's clock.

    `ended` are the jobs that ended in the last minute, five minutes and fifteen minutes, whatever came of them;
    `succeeded`, `failed` and `cancelled` are those by outcome.
    """

    pending: int
    running: int
    waiting: int
    oldest_queued_at: float | None
    paused_at: float | None
    ended: tuple[int, ...]
    succeeded: tuple[int, ...] = (0,) * len(RATE_SPANS_S)
    failed: tuple[int, ...] = (0,) * len(RATE_SPANS_S)
    cancelled: tuple[int, ...] = (0,) * len(RATE_SPANS_S)


class QueueDesk:
    """All queues behind one connection. Every method raises `wire.Unreachable` when Redis cannot be reached."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def counts(self, now: float | None = None) -> dict[str, QueueCount]:
        """What each queue holds, in one round trip; `now` is the server's clock, if the caller has just read it."""
        now = float(self._client.call("TIME")[0]) if now is None else now
        sizes, ended = size_commands(self._client), ended_commands(self._client, now)
        replies = self._read([*sizes, *ended])
        return to_counts(replies[: len(sizes)], replies[len(sizes) :])

    def messages(self, queue: str) -> int:
        """How many messages are in the lists that workers read, over all priorities."""
        return sum(self._read([("LLEN", self._client.celery_key(name)) for name in redis_lists(queue)]))

    def order(self, queue: str, limit: int) -> list[str]:
        """Ids of the first queued jobs, in the order in which they will be served.

        Those whose owner's quota is reached come last: they wait for that, and no worker is offered them.
        """
        keys = [self._key(queue, what) for what in ("order", "over_quota")]
        ready, held_back = self._read([("ZRANGE", key, 0, limit - 1) for key in keys])
        return [*ready, *held_back][:limit]

    def place(self, queue: str, job_id: str) -> int | None:
        """How many queued jobs of the queue are served before that one; None when it is not, or over a quota."""
        return self._client.call("ZRANK", self._key(queue, "order"), job_id)

    def owners(self, queue: str) -> list[str]:
        """Owners with jobs in the queue's order; "" is that of jobs without one."""
        found = self._client.call("ZRANGE", self._key(queue, "owners"), 0, -1)
        if len(found) < 2:
            return found
        keys = [self._key(queue, f"ready:{need}:{owner}") for owner in found for need in ("cpu", "gpu")]
        counts = iter(self._read([("ZCARD", key) for key in keys]))
        return [owner for owner in found if next(counts) + next(counts)]

    def pause(self, queue: str) -> bool:
        """Start none of the queue's jobs until it is resumed, whatever is restarted. False: it was paused already."""
        return lua_script.evaluate(self._client, "pause", queue) == "ok"

    def resume(self, queue: str) -> bool:
        """Resume the queue. False: it was not paused."""
        return lua_script.evaluate(self._client, "resume", queue) == "ok"

    def purge(self, queue: str, reason: str = "purged by the user") -> int:
        """Cancel all queued jobs of the queue, and with them those that wait for them; returns how many were queued."""
        total = purged = int(lua_script.evaluate(self._client, "purge", queue, reason, _PURGED_AT_ONCE))
        while purged:
            purged = int(lua_script.evaluate(self._client, "purge", queue, reason, _PURGED_AT_ONCE))
            total += purged
        return total

    def move(self, job_id: str, to: str | None = None, *, top: bool = False) -> None:
        """Put a queued or waiting job into another queue, or before all others. UserError when it is neither."""
        self._replace(job_id, "move", to or "", "top" if top else "")

    def set_priority(self, job_id: str, priority: int) -> None:
        """Give a queued or waiting job another priority. UserError when it is neither."""
        self._replace(job_id, "set_priority", priority)

    def _replace(self, job_id: str, operation: str, *arguments: object) -> None:
        status = lua_script.evaluate(self._client, operation, job_id, *arguments)
        if status == "unknown":
            raise UserError(f"There is no job {job_id}.", "See: mistudio jobs ls")
        if status != "ok":
            raise UserError(
                f"Job {job_id} is {status}: only jobs that have not started can be moved.", "See: mistudio jobs ls"
            )

    def _key(self, queue: str, what: str) -> str:
        return self._client.key(f"queue:{queue}:{what}")

    def _read(self, commands: Sequence[tuple[object, ...]]) -> list:
        replies = self._client.batch(commands)
        for reply in replies:
            if isinstance(reply, Refused):
                raise reply
        return replies


def size_commands(client: Client) -> list[tuple[object, ...]]:
    """What is asked of each queue whatever the time is, in the order of the table."""
    commands: list[tuple[object, ...]] = []
    for name in QUEUE_NAMES:
        keys = {state: client.key(f"queue:{name}:{state}") for state in (State.QUEUED, State.RUNNING, State.WAITING)}
        commands += [("ZCARD", key) for key in keys.values()]
        commands += [("ZRANGE", keys[State.QUEUED], 0, 0, "WITHSCORES"), ("HGET", client.key("paused"), name)]
    return commands


def ended_commands(client: Client, now: float) -> list[tuple[object, ...]]:
    """The same for jobs that ended before `now`, by the server's clock: for each queue and set a count per span."""
    keys = [client.key(f"queue:{queue}:{name}") for queue in QUEUE_NAMES for name in ENDED_SETS]
    return [("ZCOUNT", key, f"{now - span_s:.6f}", "+inf") for key in keys for span_s in RATE_SPANS_S]


def to_counts(sizes: Sequence, ended: Sequence[int]) -> dict[str, QueueCount]:
    """The counts of each queue from the replies to `size_commands` and to `ended_commands`."""
    a_queue, a_set = len(sizes) // len(QUEUE_NAMES), len(RATE_SPANS_S)
    spans = [tuple(ended[start : start + a_set]) for start in range(0, len(ended), a_set)]
    counts = {}
    for place, name in enumerate(QUEUE_NAMES):
        pending, running, waiting, oldest, paused_at = sizes[place * a_queue : (place + 1) * a_queue]
        oldest_at = float(oldest[1]) if oldest else None
        outcomes = spans[place * len(ENDED_SETS) : (place + 1) * len(ENDED_SETS)]
        counts[name] = QueueCount(pending, running, waiting, oldest_at, _time(paused_at), *outcomes)
    return counts


def _time(text: str | None) -> float | None:
    """When a queue was paused; one whose time others made unreadable is paused all the same."""
    try:
        return finite(text) if text is not None else None
    except ValueError:
        return 0.0
