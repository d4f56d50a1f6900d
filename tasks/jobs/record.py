"""A job's record and its states.

Commands that list jobs read records by the thousand and need no kinds, so those are imported where they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks.queues import DEFAULT_PRIORITY, Limits, Resource, queue_named

#: What a job can make; each is a folder of the store.
FAMILIES = ("datasets", "tokens", "models", "activations", "saes", "features")

#: How often a job may lose its process, unless its kind says another number.
DEFAULT_ATTEMPTS = 3

#: The `gpu` option for no GPU.
NO_GPU = "none"


class State(StrEnum):
    """A job's state. docs/design/jobs.md has the diagram; only tasks/ledger/lua/3_transitions.lua changes a state."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether no arrow leads on."""
        return self in ENDED


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True)
class Progress:
    """How far a running job is: `done` of `total` (None: unknown) `unit`s of `phase`, at `rate` units a second."""

    phase: str
    done: int
    total: int | None
    unit: str
    rate: float | None = None


@dataclass(frozen=True)
class MetricPoint:
    """What a job measured of its work when it was at `at`, by name; None is a value that is no number."""

    at: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Job:
    """One job's record. Times are seconds since the epoch by the Redis server's clock.

    `gpu` says which devices it may use: "any", "none", or the indices of those it may have, such as "0,1". `retry_of`
    is the job of which this one is another try, `from_checkpoint` the one whose checkpoint it takes over when it
    begins. `limits` are those set for this job; None: those of its kind. `owner` is who submitted it, None where that
    is not known: see `tasks.fleet.job_owner`. `digest` is that of its kind's parameters where it was submitted
    (`tasks.jobs.kind_digest`), "" by older versions, and `submitted_by` names that version and host. `artifact` is what
    it makes, as "family/name", and `more_artifacts` what it makes besides. `metrics` are the newest values of what the
    job measures of its work. `estimate_s` is how long it was estimated to run when it was submitted,
    `progress_at` when its progress last changed.
    """

    id: str
    kind: str
    name: str
    queue: str
    params: dict[str, Any]
    priority: int = DEFAULT_PRIORITY
    state: State = State.QUEUED
    reason: str = ""
    attempt: int = 0
    max_attempts: int = DEFAULT_ATTEMPTS
    parents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    retry_of: str | None = None
    from_checkpoint: str | None = None
    gpu: str = "any"
    limits: Limits | None = None
    digest: str = ""
    submitted_by: str = ""
    artifact: str | None = None
    more_artifacts: tuple[str, ...] = ()
    progress: Progress | None = None
    metrics: dict[str, float | None] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    worker: str | None = None
    worker_pid: int | None = None
    device: str | None = None
    cancel_requested: bool = False
    created_at: float | None = None
    queued_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    owner: str | None = None
    estimate_s: float | None = None
    progress_at: float | None = None

    @property
    def may_use_gpu(self) -> bool:
        """Whether its kind can use GPUs and it was not submitted with `--gpu none`."""
        from tasks.jobs.kind import kinds

        kind = kinds().get(self.kind)
        return kind is not None and queue_named(kind.queue).resource is Resource.GPU and self.gpu != NO_GPU

    @property
    def holds_gpu(self) -> bool:
        """Whether it counts for its owner's quota of GPUs: it runs, and uses one or may get one yet."""
        return self.state is State.RUNNING and self.may_use_gpu and self.device != "cpu"

    @property
    def limits_in_force(self) -> Limits:
        """The limits set for this job, else those of its kind."""
        from tasks.jobs.kind import kind_named

        return self.limits or kind_named(self.kind).effective_limits

    @property
    def artifacts(self) -> tuple[str, ...]:
        """All that it makes."""
        return (self.artifact, *self.more_artifacts) if self.artifact else ()

    @property
    def left_s(self) -> float | None:
        """How long a running job's phase will take at its rate until now; None where that is not known."""
        progress = self.progress
        if self.state is not State.RUNNING or progress is None or not progress.total or not progress.rate:
            return None
        return max(0, progress.total - progress.done) / progress.rate
