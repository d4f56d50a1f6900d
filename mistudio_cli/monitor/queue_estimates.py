"""When the last queued job of each queue will start, by what its jobs say: simulates the order they are served in.

A running job ends after what is left of it by its own progress. How long another one takes is what it was estimated to
when it was submitted, times the ratio that the last runs of its kind took of theirs; without an estimate, the median of
these runs. Where a kind has neither, what waits behind its jobs is not known.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.jobs.record import Job
from tasks.ledger.overview import FinishedRun, Overview
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.queues import QUEUE_NAMES, share, wire_priority

#: How many of a kind's last runs count.
_LAST_RUNS = 10


@dataclass
class _Worker:
    """A worker's slots in the simulation, and how many jobs it runs of each queue."""

    queues: tuple[str, ...]
    slots: int
    running: Counter[str] = field(default_factory=Counter)

    def has_room(self, queue: str) -> bool:
        return self.running.total() < self.slots and self.running[queue] < share(queue, self.queues, self.slots)


@dataclass(frozen=True, order=True)
class _End:
    """When a job ends, in seconds from now; `number` makes the order definite."""

    at_s: float
    number: int
    worker: _Worker = field(compare=False)
    queue: str = field(compare=False)


def start_of_last(seen: Overview, live: Sequence[WorkerHeartbeat]) -> dict[str, float | None]:
    """Seconds until the last queued job of each queue starts; None where that is not known. `live` workers consume.

    Only the jobs in `seen.queued` are simulated; those behind them follow at the pace of these.
    """
    durations = Durations(seen.runs)
    workers = {heartbeat.name: _Worker(heartbeat.queues, heartbeat.slots) for heartbeat in live}
    ends: list[_End] = []
    for job in seen.running:
        if (worker := workers.get(job.worker or "")) is not None:
            worker.running[job.queue] += 1
            heapq.heappush(ends, _End(_left_s(job, durations, seen.read_at), len(ends), worker, job.queue))
    lines = {name: deque(jobs) for name, jobs in seen.queued.items() if seen.counts[name].paused_at is None}
    starts = _simulated(lines, list(workers.values()), ends, durations)
    return {name: _of_queue(name, seen, live, starts, durations) for name in QUEUE_NAMES}


class Durations:
    """How long jobs take, by the last runs of their kinds."""

    def __init__(self, runs: Sequence[FinishedRun]) -> None:
        self._runs: dict[str, list[FinishedRun]] = {}
        for run in runs:
            if len(known := self._runs.setdefault(run.kind, [])) < _LAST_RUNS:
                known.append(run)

    def of(self, job: Job) -> float | None:
        """Seconds that a job will take from its start; None where that is not known."""
        runs = self._runs.get(job.kind, [])
        if job.estimate_s is not None:
            ratios = [run.seconds / run.estimate_s for run in runs if run.estimate_s]
            return job.estimate_s * (_median(ratios) if ratios else 1.0)
        return _median([run.seconds for run in runs]) if runs else None


def _median(values: Sequence[float]) -> float:
    """The middle of these, as `statistics.median`, whose import costs a command more than all it reads."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _left_s(job: Job, durations: Durations, now: float) -> float:
    """How long a running job will run; infinite where that is not known."""
    if job.left_s is not None:
        return job.left_s
    takes = durations.of(job)
    return math.inf if takes is None else max(0.0, takes - (now - (job.started_at or now)))


def _simulated(
    lines: Mapping[str, deque[Job]], workers: Sequence[_Worker], ends: list[_End], durations: Durations
) -> dict[str, float]:
    """When each of these jobs starts, by its id, in seconds from now. Those of which that is not known are left out.

    `lines` are the queues' jobs in the order in which they are served, `ends` a heap of when running jobs end.
    """
    now, starts = 0.0, dict[str, float]()
    while any(lines.values()):
        while (found := _next_to_start(lines, workers)) is not None:
            worker, queue = found
            job = lines[queue].popleft()
            worker.running[queue] += 1
            takes = durations.of(job)
            starts[job.id] = now
            end_s = math.inf if takes is None else now + takes
            heapq.heappush(ends, _End(end_s, len(starts) + len(ends), worker, queue))
        if not ends or math.isinf(ends[0].at_s):
            break
        ended = heapq.heappop(ends)
        now = ended.at_s
        ended.worker.running[ended.queue] -= 1
    return starts


def _next_to_start(lines: Mapping[str, deque[Job]], workers: Sequence[_Worker]) -> tuple[_Worker, str] | None:
    """The first of all in line that a worker has room for: by its step, then by its queue's rank."""
    heads = sorted(
        (wire_priority(line[0].priority), rank, name)
        for rank, name in enumerate(QUEUE_NAMES)
        if (line := lines.get(name))
    )
    for *_, name in heads:
        for worker in workers:
            if worker.has_room(name):
                return worker, name
    return None


def _of_queue(
    name: str, seen: Overview, live: Sequence[WorkerHeartbeat], starts: Mapping[str, float], durations: Durations
) -> float | None:
    count, listed = seen.counts[name], seen.queued.get(name, ())
    if not count.pending:
        return 0.0
    slots = sum(share(name, heartbeat.queues, heartbeat.slots) for heartbeat in live)
    if count.paused_at is not None or not slots or any(job.id not in starts for job in listed) or not listed:
        return None
    last = max(starts[job.id] for job in listed)
    more = count.pending - len(listed)
    if more <= 0:
        return last
    takes = [seconds for job in listed if (seconds := durations.of(job)) is not None]
    return last + more * sum(takes) / len(takes) / slots if len(takes) == len(listed) else None
