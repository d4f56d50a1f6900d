"""How many jobs may share the processor, and how many threads each of them may start.

A job that is alone has all of them. Where several run side by side, libraries that each start a thread for every core
make all of them slower than taking turns would.
"""

from __future__ import annotations

import os

from tasks.ledger.client import Ledger
from tasks.queues import QUEUES, Resource, share
from tasks.redis_client.redis_connection import Unreachable
from tasks.settings import current
from tasks.system.cgroups import usable_cpus, visible_cpus

#: What torch with its BLAS, and what the tokenizers, go by.
_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")

_LEASED = [queue.name for queue in QUEUES if queue.resource is Resource.GPU]
_UNLEASED = [queue.name for queue in QUEUES if queue.resource is Resource.CPU]


def cpu_jobs() -> int:
    """How many jobs that would take a GPU elsewhere may share the processor, as this slot's worker was started."""
    return current("cpu_jobs")


def bounds(ledger: Ledger) -> dict[str, str]:
    """The variables for a runner's environment; empty when it may have all cores. A user's own stay as they are."""
    threads = max(1, int(usable_cpus() // _jobs_at_once(ledger)))
    if threads >= visible_cpus():
        return {}
    return {name: str(threads) for name in _VARIABLES if name not in os.environ}


def _jobs_at_once(ledger: Ledger) -> int:
    """Heavy jobs that run or are about to, but no more of each sort than this slot's worker runs; at least one."""
    queues = os.environ.get("MISTUDIO_QUEUES", "").split(",")
    slots = int(os.environ.get("MISTUDIO_SLOTS", "1"))
    most = {name: share(name, queues, slots) for name in (*_LEASED, *_UNLEASED)}
    leased = min(cpu_jobs(), sum(most[name] for name in _LEASED))
    try:
        counts = ledger.queues.counts()
    except Unreachable:
        return max(1, min(slots, leased + sum(most[name] for name in _UNLEASED)))
    there = {name: min(most[name], counts[name].running + counts[name].pending) for name in most}
    jobs = min(leased, sum(there[name] for name in _LEASED)) + sum(there[name] for name in _UNLEASED)
    return max(1, min(slots, jobs))
