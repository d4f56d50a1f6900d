"""A home where nothing has been started: its ledger is known to be empty, and looking something up starts nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mistudio_cli import session
from mistudio_cli.redis import redis_server
from mistudio_cli.settings import Settings
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter, Page


class EmptyLedger(Ledger):
    """A ledger without jobs, for requests that are looked up and planned. It is not connected."""

    def many(self, job_ids: Sequence[str]) -> list[Job | None]:
        """None for each."""
        return [None] * len(job_ids)

    def page(self, wanted: Filter | None = None, limit: int = 50, after: str | None = None) -> Page:
        """No jobs."""
        return Page((), None)

    def find(self, prefix: str, limit: int = 10) -> list[str]:
        """No ids."""
        return []

    def producer_of(self, artifact: str) -> str | None:
        """No job makes it."""
        return None


def is_new(settings: Settings) -> bool:
    """Whether the home's own Redis is in force and was never started."""
    if settings.broker_url is not None or settings.places.redis.exists():
        return False
    return not redis_server.takes_connections(settings.places)  # one whose folder was removed has jobs


def ledger_to_read(settings: Settings, *, supervise: bool = True) -> Ledger:
    """The ledger of a command that looks something up before it changes anything, which may be refused by then.

    That of a new home is empty, and nothing is started. Raises as `session.connect_ledger` does.
    """
    if is_new(settings):
        return EmptyLedger(session.connect_ledger(settings, must_answer=False).client)
    return session.connect_ledger(settings, supervise=supervise)


def ledger_to_change(read: Ledger) -> Ledger:
    """The ledger for the changes of a command that has looked everything up in `read`; its home is new no more."""
    if isinstance(read, EmptyLedger):
        return session.connect_ledger(session.current_settings(), supervise=True)
    return read
