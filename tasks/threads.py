"""How many threads a job on the CPU may start: the only place that divides the cores among jobs.

A job that is alone has all of them. Where several run side by side, libraries that each start a thread for every core
make all of them slower than taking turns would.
"""

from __future__ import annotations

import os

from tasks.cgroups import usable_cpus, visible_cpus
from tasks.ledger import Ledger
from tasks.queues import QUEUES, Resource
from tasks.wire import Unreachable

#: What torch with its BLAS, and what the tokenizers, go by.
_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")

_HEAVY = [queue.name for queue in QUEUES if queue.resource in (Resource.GPU, Resource.CPU)]


def bounds(ledger: Ledger) -> dict[str, str]:
    """The variables for a runner's environment; empty when it may have all cores. A user's own stay as they are."""
    threads = max(1, int(usable_cpus() // _jobs_at_once(ledger)))
    if threads >= visible_cpus():
        return {}
    return {name: str(threads) for name in _VARIABLES if name not in os.environ}


def _jobs_at_once(ledger: Ledger) -> int:
    """Heavy jobs that run or are about to, but no more than this slot's worker runs at once; at least one."""
    slots = int(os.environ.get("MISTUDIO_SLOTS", "1"))
    try:
        counts = ledger.queues.counts()
    except Unreachable:
        return slots
    return max(1, min(slots, sum(counts[name].running + counts[name].pending for name in _HEAVY)))
