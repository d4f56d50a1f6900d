"""What a worker last said of itself, and how old that may be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.jobs.record import Job
from tasks.ledger.records import finite_number

#: A worker without a heartbeat for this long does not count as a consumer.
HEARTBEAT_TTL_S = 10.0


@dataclass(frozen=True)
class WorkerHeartbeat:
    """What a worker last said of itself; `seen_at` is when it said it (server clock).

    `loop_at` is when its message loop had last run then: a worker whose loop waits for something receives no messages.
    """

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    started_at: float
    seen_at: float = 0.0
    loop_at: float = 0.0  # 0: an older worker, whose message loop itself sent this
    refused: str = ""  # why it may not consume; see tasks.worker.fleet_membership
    version: str = ""  # of mistudio
    kinds: Mapping[str, str] = field(default_factory=dict)  # digests; none: an older worker, which runs any

    def can_run(self, job: Job) -> bool:
        """Whether it has the job's kind with the parameters it was submitted with, as far as that is known."""
        return not job.digest or not self.kinds or self.kinds.get(job.kind) == job.digest

    @property
    def consumed_at(self) -> float:
        """When it last consumed, as far as that is known; 0 for one that may not."""
        return 0.0 if self.refused else self.loop_at or self.seen_at


def read_heartbeat(line: str) -> WorkerHeartbeat:
    """A worker's heartbeat; one of a newer worker may have more fields. One of `UNREADABLE` when that is none."""
    fields = json.loads(line)
    known = {spec.name: fields[spec.name] for spec in dataclasses.fields(WorkerHeartbeat) if spec.name in fields}
    heartbeat = WorkerHeartbeat(**{**known, "queues": tuple(fields["queues"])})
    times, counts, names = (
        (heartbeat.started_at, heartbeat.seen_at, heartbeat.loop_at),
        (heartbeat.pid, heartbeat.slots),
        (
            heartbeat.name,
            heartbeat.host,
            heartbeat.refused,
            heartbeat.version,
            *heartbeat.queues,
            *heartbeat.kinds.values(),
        ),
    )
    for time_s in times:
        finite_number(time_s)
    if not all(isinstance(count, int) for count in counts):
        raise TypeError("counts are no numbers")
    if not all(isinstance(name, str) for name in names):
        raise TypeError("names are no texts")
    return heartbeat
