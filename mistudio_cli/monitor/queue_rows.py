"""Rows of queues: what a queue holds, joined with the workers that consume it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mistudio_cli.monitor.snapshot import QueueRow
from tasks.ledger.overview import Overview
from tasks.ledger.queue_state import RATE_SPANS_S
from tasks.ledger.worker_heartbeat import HEARTBEAT_TTL_S, WorkerHeartbeat
from tasks.queues import QUEUE_NAMES, share


def consuming(heartbeats: Sequence[WorkerHeartbeat], now: float) -> list[WorkerHeartbeat]:
    """The workers that have consumed lately."""
    return [heartbeat for heartbeat in heartbeats if abs(now - heartbeat.consumed_at) <= HEARTBEAT_TTL_S]


def queue_rows(seen: Overview, live: Sequence[WorkerHeartbeat]) -> tuple[QueueRow, ...]:
    """One row for each queue, in the order of the table; `live` are the workers that consume."""
    rows, starts = [], _starts_of_last(seen, live)
    for name in QUEUE_NAMES:
        count, consumers = seen.counts[name], [heartbeat for heartbeat in live if name in heartbeat.queues]
        oldest = None if count.oldest_queued_at is None else max(0.0, seen.read_at - count.oldest_queued_at)
        rows.append(
            QueueRow(
                name=name,
                state="paused" if count.paused_at is not None else "ok" if consumers else "no worker",
                pending=count.pending,
                running=count.running,
                oldest_age_s=oldest,
                consumers=len(consumers),
                slots=sum(share(name, heartbeat.queues, heartbeat.slots) for heartbeat in consumers),
                per_minute=tuple(60 * n / span_s for n, span_s in zip(count.ended, RATE_SPANS_S, strict=True)),
                eta_s=starts[name],
                ended={"succeeded": count.succeeded, "failed": count.failed, "cancelled": count.cancelled},
                paused_at=count.paused_at,
            )
        )
    return tuple(rows)


def _starts_of_last(seen: Overview, live: Sequence[WorkerHeartbeat]) -> Mapping[str, float | None]:
    """Seconds until the last queued job of each queue starts; None where that is not known."""
    if not any(count.pending for count in seen.counts.values()):
        return dict.fromkeys(QUEUE_NAMES, 0.0)
    from mistudio_cli.monitor.queue_estimates import start_of_last

    return start_of_last(seen, live)
