"""The queue table: each queue is declared here, and nowhere else.

Routes, priorities, worker command lines, table rows, REST fields and generated deployment files all derive from
`QUEUES`. Its order is the rank in which a worker that serves several queues empties them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MINUTE, HOUR = 60, 3600

#: What a person may give as a priority; 10 is the most urgent.
LOWEST_PRIORITY, DEFAULT_PRIORITY, HIGHEST_PRIORITY = 0, 5, 10

#: The steps of the Redis transport, shared by producer and consumer: kombu serves step 0 first.
PRIORITY_STEPS = tuple(range(10))

#: Between the name of a queue and the step in the name of a Redis list (kombu's).
SEPARATOR = "\x06\x16"


class Resource(StrEnum):
    """What a queue's work is limited by."""

    LIGHT = "light"
    NETWORK = "network"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Needs:
    """What one worker of a queue should find on its machine."""

    cpus: int
    memory_gb: int
    gpus: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits of one job in seconds of work; None is no limit.

    After `soft_s` it is asked to stop, and killed when its kind's grace is over; after `hard_s` it is killed at once.
    Either way it has failed. One that makes no progress for `stall_s` is stopped the same way and put back.
    """

    soft_s: float | None = HOUR
    hard_s: float | None = 2 * HOUR
    stall_s: float | None = None


#: What may take days is bounded by its progress alone. The first thing it does, loading a model, may take minutes.
_FOR_DAYS = Limits(soft_s=None, hard_s=None, stall_s=30 * MINUTE)


@dataclass(frozen=True)
class Queue:
    """One row of the table."""

    name: str
    purpose: str
    concurrency: int
    priority: int
    resource: Resource
    needs: Needs
    limits: Limits = Limits()

    @property
    def worker(self) -> str:
        """The name of this queue's own worker, without the host."""
        return "worker-" + self.name.replace("_", "-")


QUEUES: tuple[Queue, ...] = (
    Queue("high_priority", "Quick metadata operations, user-facing updates", 8, 10, Resource.LIGHT, Needs(2, 2)),
    Queue("datasets", "Downloads, ingestion from the Hugging Face Hub", 4, 7, Resource.NETWORK, Needs(2, 4)),
    Queue("processing", "Tokenization, preprocessing", 4, 7, Resource.CPU, Needs(4, 8)),
    Queue("training", "SAE training, long-running", 1, 5, Resource.GPU, Needs(2, 16, 1), _FOR_DAYS),
    Queue(
        "extraction",
        "Activation collection, feature extraction",
        2,
        5,
        Resource.GPU,
        Needs(2, 8, 1),
        _FOR_DAYS,
    ),
    Queue("low_priority", "Cleanup, archival, maintenance", 2, 3, Resource.LIGHT, Needs(1, 2)),
)

QUEUE_NAMES: tuple[str, ...] = tuple(queue.name for queue in QUEUES)
_BY_NAME = {queue.name: queue for queue in QUEUES}


def queue_named(name: str) -> Queue:
    """The queue of that name; KeyError for any other."""
    return _BY_NAME[name]


def share(queue: str, queues: Sequence[str], slots: int) -> int:
    """How many jobs of one queue a worker of these queues runs at once.

    A worker of one queue has its slots for it; in one of several the queue's own concurrency holds.
    """
    if queue not in queues:
        return 0
    return slots if len(queues) == 1 else min(slots, queue_named(queue).concurrency)


def wire_priority(priority: int) -> int:
    """The Redis step (0 is served first) of a priority a person gave (10 is the most urgent).

    Eleven priorities share ten steps: 10 and 9 are both step 0.
    """
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise ValueError(f"priority {priority} is not between {LOWEST_PRIORITY} and {HIGHEST_PRIORITY}")
    return max(0, PRIORITY_STEPS[-1] - priority)


def redis_lists(queue: str) -> tuple[str, ...]:
    """The Redis lists that hold a queue's messages, most urgent first (kombu's naming)."""
    return (queue, *(f"{queue}{SEPARATOR}{step}" for step in PRIORITY_STEPS[1:]))
