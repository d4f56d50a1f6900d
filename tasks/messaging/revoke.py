"""Celery's `revoke` and `terminate`, as other tools send them: turns them into a cancel.

Celery would kill the slot, which reads as a shutdown: the job would run again. Or forget the revoke with the worker.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker import control

from tasks.jobs.record import Job
from tasks.messaging.app import open_ledger
from tasks.redis_client.redis_connection import Refused, Unreachable

log = logging.getLogger("mistudio.revoking")

REASON = "revoked through Celery"


def make_revoke_cancel() -> None:
    """From now on this process takes the revoke of a job for a request to cancel it."""
    info = {"variadic": "task_id", "signature": "[id1 [id2 [... [idN]]]]"}
    control.control_command(name="revoke", **info)(_revoke)
    control.control_command(name="terminate", **{**info, "args": [("signal", str)]})(_terminate)


def _revoke(state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **options: Any) -> Any:
    """Revoke tasks by id; of jobs, cancel them, running or not."""
    ids = set(maybe_list(task_id) or [])
    try:
        jobs = _cancel(state.app, ids)
    except (Unreachable, Refused) as error:
        log.warning("not revoked: %s", error)
        return control.nok(f"not revoked, Redis is away: {error}")
    alive = {job.id for job in jobs if not job.state.ended}
    log.info("revoked: asked to cancel %s", ", ".join(sorted(alive)) or "no job")
    if alive:  # their messages may be dropped unread
        control.revoke(state, sorted(alive), **options)
    if others := ids - {job.id for job in jobs}:
        return control.revoke(state, sorted(others), terminate=terminate, signal=signal, **options)
    return control.ok(f"cancel requested: {', '.join(sorted(alive)) or 'of none, all have ended'}")


def _terminate(state: Any, signal: str, task_id: Any, **options: Any) -> Any:
    """Terminate tasks by id; of jobs, cancel them."""
    return _revoke(state, task_id, terminate=True, signal=signal, **options)


def _cancel(app: Any, ids: set[str]) -> list[Job]:
    """Request it for those that are jobs, and return these as they were before."""
    with closing(open_ledger(app)) as ledger:
        jobs = [job for job in ledger.many(sorted(ids)) if job is not None]
        for job in jobs:
            ledger.request_cancel(job.id, REASON)
    return jobs
