"""Work folders of jobs that ended without a slot to clean up after them; any worker of the machine removes one every
ten seconds.

A slot tidies up the folder of the job it has seen to the end. A job that is cancelled while it waits for its next
attempt, or given up because its lease ran out, has no slot.
"""

from __future__ import annotations

from tasks.ledger.client import LEASE_TTL_S, Ledger
from tasks.storage.store import Store
from tasks.submission.checkpoints import tidy


def clear_away_one(ledger: Ledger, store: Store, patience_s: float = LEASE_TTL_S) -> str | None:
    """Discard the folder of one job that ended longer ago than that, and return its id; None when there is none.

    A folder from which another try can resume keeps its checkpoint.

    One at a time, because a folder may be large and a worker has more to do. Whoever still worked for the job has
    noticed by then. A folder of which the ledger has no record may be another ledger's, and is let alone.
    """
    there = store.work_folders()
    if not there:
        return None
    now = ledger.now()
    for job in ledger.many(there):
        is_over = job is not None and job.state.ended and now - (job.finished_at or now) > patience_s
        if job is not None and is_over and not tidy(store, job):
            return job.id
    return None
