"""Celery workers that are none of mistudio's, as rows beside its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mistudio_cli.monitor.snapshot import WorkerRow

if TYPE_CHECKING:
    from mistudio_cli.monitor.celery_workers import CeleryWorker, CeleryWorkers

FOREIGN = "foreign"


def foreign_rows(found: CeleryWorkers | None) -> Iterator[WorkerRow]:
    """A row for each foreign worker. Its replies are somebody else's: what is not as Celery writes it is unknown."""
    for worker in found.workers if found is not None else ():
        if worker.foreign:
            yield _row(worker)


def _row(worker: CeleryWorker) -> WorkerRow:
    stats = _dict(worker.replies.get("stats"))
    pid, slots = stats.get("pid"), _dict(stats.get("pool")).get("max-concurrency")
    active, queues = worker.replies.get("active"), worker.replies.get("queues")
    names = [str(_dict(queue).get("name")) for queue in queues] if isinstance(queues, list) else []
    return WorkerRow(
        name=worker.name,
        state=FOREIGN,
        pid=pid if isinstance(pid, int) else None,
        queues=tuple(names),
        slots=slots if isinstance(slots, int) else 0,
        busy=len(active) if isinstance(active, list) else None,
        pss_bytes=None,
        jobs_pss_bytes=None,
        cpu_percent=None,
        restarts=None,
        started_at=None,
        last_exit=None,
        seen_age_s=None,
        loop_age_s=None,
        refusal=None,
    )


def _dict(reply: Any) -> dict[str, Any]:
    return reply if isinstance(reply, dict) else {}
