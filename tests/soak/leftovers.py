"""What jobs that have ended may leave behind: counts it, in Redis and on the disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.storage.store import Store
from tests.soak.invariants import Life

#: All that is in Redis when no job is live. Anything else is left over: a lease, a message, a promise of an artifact.
_LASTING = re.compile(
    r"mistudio:((job|events|series):\w+|by:(all|(state|kind|queue|name|parent|retry_of):[\w.-]+)|queue:\w+:ended(:\w+)?|metrics:\w+"
    r"|ids|ended|schema|served_at|first_turn|last_turn|reaped_at|upkeep_at|history:.+|workers|fleet|hosts|log:[^:]+:\d+|worker-log:.+"
    r"|name:.+|nonces(:begun)?|nonce-writer)"
    r"|celery-task-meta-\w+|_kombu\.binding.+"
)


def left_in_redis(ledger: Ledger) -> list[str]:
    """Keys that say that something is still to be done."""
    return sorted(key for key in ledger.client.call("KEYS", "*") if not _LASTING.fullmatch(key))


def left_on_disk(ledger: Ledger, store: Store) -> list[str]:
    """Work folders of jobs that have ended."""
    live = ledger.live_jobs()
    return [job_id for job_id in store.work_folders() if job_id not in live]


def counts_askew(ledger: Ledger, lives: Mapping[str, Life]) -> Iterator[str]:
    """Indexes that do not hold exactly the jobs whose records say so."""
    expected: Counter[str] = Counter()
    for job in (life.job for life in lives.values()):
        names = f"by:state:{job.state}", f"by:queue:{job.queue}", f"by:kind:{job.kind}", f"by:name:{job.name}"
        expected.update((*names, "by:all", "ids", "ended"))
        expected.update(f"by:parent:{parent}" for parent in job.parents)
        expected.update([f"by:retry_of:{job.retry_of}"] if job.retry_of else [])
    keys = [*ledger.client.call("KEYS", "mistudio:by:*"), "mistudio:ids", "mistudio:ended"]
    sizes = dict(zip(keys, ledger.client.batch([("ZCARD", key) for key in keys]), strict=True))
    found = Counter({key.removeprefix("mistudio:"): size for key, size in sizes.items()})
    if found != expected:
        yield f"more in the indexes than in the records: {found - expected}, and less: {expected - found}"
    ended = sum(expected[f"by:state:{state}"] for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED))
    if ended != len(lives):
        yield f"{len(lives)} jobs, but {ended} of them have ended"
