"""What TAB offers for values: from tables, from files, and from Redis if it answers at once; never an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.queues import QUEUE_NAMES

if TYPE_CHECKING:
    from tasks.ledger.client import Ledger

#: Redis has so long to answer; TAB must not wait for one that does not.
PATIENCE_S = 0.5

_MOST_JOBS = 100

T = TypeVar("T")


def of(values: Callable[[], Sequence[Any]] | None) -> Callable[[str], list[Any]] | None:
    """What completes a word to one of these values, or the last of several with commas between them."""
    if values is None:
        return None

    def complete(incomplete: str) -> list[Any]:
        before, comma, word = incomplete.rpartition(",")
        found: list[Any] = []
        with suppress(Exception):  # whatever is wrong, the command itself will say it better
            found = [value for value in values() if _text(value).startswith(word)]
        return [_after(before + comma, value) for value in found]

    return complete


def queues() -> Sequence[str]:
    """Names of queues."""
    return QUEUE_NAMES


def profiles() -> Sequence[str]:
    """Names of profiles."""
    from mistudio_cli.profile.rules import profile_names

    return profile_names()


def artifacts(family: str) -> Callable[[], Sequence[str]]:
    """Names of the artifacts of a family in the store."""

    def names() -> Sequence[str]:
        from mistudio_cli import session
        from tasks.storage.store import Store

        return Store(session.current_settings().places.store).names(family)

    return names


def jobs() -> Sequence[tuple[str, str]]:
    """Ids of the newest jobs, each with its kind, name and state; `last` is the newest."""
    found = _newest_jobs()
    return [
        *((job.id, f"{job.kind} {job.name} {job.state}") for job in found),
        *[("last", "the newest job")] * bool(found),
    ]


def names() -> Sequence[str]:
    """Names of the newest jobs."""
    return list(dict.fromkeys(job.name for job in _newest_jobs()))


def tags() -> Sequence[str]:
    """Tags of the newest jobs."""
    return list(dict.fromkeys(tag for job in _newest_jobs() for tag in job.tags))


def scales() -> Sequence[str]:
    """Queues with the sign after which a number of workers is typed."""
    return [f"{queue}=" for queue in QUEUE_NAMES]


def logs() -> Sequence[str]:
    """Names of the workers and daemons whose logs are here."""
    from mistudio_cli import session

    return sorted(path.stem for path in session.current_settings().places.logs.glob("*.log"))


def workers() -> Sequence[str]:
    """Names of the workers that run here, or ran here."""
    return [name for name in logs() if name not in ("supervisor", "redis")]


def hosts() -> Sequence[str]:
    """Names of the hosts of the fleet."""
    from mistudio_cli.monitor.hosts import read_fleet

    return [row.name for row in _from_ledger(read_fleet).hosts]


def _newest_jobs() -> Sequence[Any]:
    return _from_ledger(lambda ledger: ledger.page(limit=_MOST_JOBS).jobs)


def _from_ledger(read: Callable[[Ledger], T]) -> T:
    """What is read from the ledger; nothing is started for that."""
    from mistudio_cli import session
    from mistudio_cli.redis import redis_server
    from tasks.ledger.client import Ledger
    from tasks.redis_client import redis_connection

    settings = session.current_settings()
    client = redis_connection.connect(settings.broker_url or redis_server.own_url(settings.places), PATIENCE_S)
    try:
        return read(Ledger(client))
    finally:
        client.close()


def _text(value: Any) -> str:
    return value[0] if isinstance(value, tuple) else value


def _after(before: str, value: Any) -> Any:
    if not before:
        return value
    return (before + value[0], value[1]) if isinstance(value, tuple) else before + value
