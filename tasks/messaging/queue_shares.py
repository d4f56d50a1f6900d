"""How a worker's queues share its slots: it asks for no more jobs of a queue than that queue's concurrency allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from celery.worker import state as celery_state
from kombu.utils.scheduling import priority_cycle

from tasks.messaging.held_messages import held
from tasks.queues import share

_shares: dict[str, int] = {}


def divide(queues: Sequence[str], slots: int) -> None:
    """Make this process a worker of these queues with `slots` slots, from now on."""
    _shares.clear()
    _shares.update({queue: share(queue, queues, slots) for queue in queues})


class OpenQueues(priority_cycle):
    """The queues by rank, without those whose share of the slots is taken: kombu's `queue_order_strategy`."""

    def consume(self, n: int) -> list[str]:
        """The queues to ask for a message now: not those of which enough is held for other workers."""
        taken = Counter((request.delivery_info or {}).get("routing_key") for request in celery_state.reserved_requests)
        open_ones = [queue for queue in self.items[:n] if queue not in _shares or taken[queue] < _shares[queue]]
        return [queue for queue in open_ones if not held.is_full(queue)]
