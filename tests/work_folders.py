"""Work folders of jobs without a worker: each call begins the next attempt, as a worker's runner does."""

from __future__ import annotations

from pathlib import Path

from tasks.storage import attempts
from tasks.storage.store import Store


def next_attempt(store: Store, job_id: str) -> Path:
    """The folder of the next attempt at the job, with what the one before has left, and an empty output in it."""
    earlier = attempts.newest(store.work_folder(job_id))
    number = 1 + (int(earlier.name.partition("-")[0]) if earlier else 0)
    return attempts.begin(store, job_id, number, "7e57")


def left_by(store: Store, job_id: str) -> Path:
    """The folder that the newest attempt at the job has left."""
    found = attempts.newest(store.work_folder(job_id))
    assert found is not None, f"{job_id} has left nothing"
    return found
