"""What tests expect of the table of queues, added up from its rows: another row breaks none of them."""

from __future__ import annotations

from tasks.queues import QUEUES, Needs, Queue, Resource

#: The queues that were asked for: slots, priority, cores, GB and GPUs. The table has them in this order.
ASKED_FOR = {
    "high_priority": (8, 10, 2, 2, 0),
    "datasets": (4, 7, 2, 4, 0),
    "processing": (4, 7, 4, 8, 0),
    "training": (1, 5, 2, 16, 1),
    "extraction": (2, 5, 2, 8, 1),
    "low_priority": (2, 3, 1, 2, 0),
}

#: The queues that need no GPU.
WITHOUT_GPU = tuple(queue for queue in QUEUES if queue.resource is not Resource.GPU)


def needs_in_all(queues: tuple[Queue, ...] = QUEUES) -> Needs:
    """What one worker for each of these queues needs together."""
    needs = [queue.needs for queue in queues]
    return Needs(sum(n.cpus for n in needs), sum(n.memory_gb for n in needs), sum(n.gpus for n in needs))


def workers_by_name(queues: tuple[Queue, ...] = QUEUES) -> dict[str, tuple[tuple[str, ...], int]]:
    """One worker for each of these queues: which it serves, and with how many slots."""
    return {f"worker-{queue.name.replace('_', '-')}": ((queue.name,), queue.concurrency) for queue in queues}
