"""The shapes of answers, as dataclasses: what OpenAPI and docs/rest.md say, and what the tests hold answers to.

Keys are added, never renamed or removed. Details are in docs/json.md, under the command that prints the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProgressJson:
    """How far a running job is."""

    phase: str
    done: int
    total: int | None
    unit: str


@dataclass(frozen=True)
class ActiveTask:
    """A running job, as the first version had it; `job_name` is the job's own name."""

    id: str
    name: str
    kind: str
    queue: str
    args: str
    started_at: str | None
    progress: ProgressJson | None
    priority: int
    attempt: int
    artifact: str | None
    artifacts: list[str]
    device: str | None
    metrics: dict[str, float | None] | None
    rate: float | None
    left_s: float | None
    job_name: str


@dataclass(frozen=True)
class WorkerStats:
    """What a worker says of itself."""

    queues: list[str]
    slots: int
    busy: int
    host: str
    pid: int
    started_at: str
    seen_at: str


@dataclass(frozen=True)
class QueueHealth:
    """A queue in the health report."""

    pending: int
    status: str


@dataclass(frozen=True)
class HealthCauseJson:
    """Why health is not good; `command` fixes or shows it. `queue`, `worker`, `since` are null where there is none."""

    code: str
    sentence: str
    command: str | None
    queue: str | None
    worker: str | None
    since: str | None


@dataclass(frozen=True)
class Health:
    """The health report; 503 has the same shape with null for what could not be read."""

    status: str
    workers_connected: int | None
    total_queued: int | None
    total_active: int | None
    queues: dict[str, QueueHealth] | None
    warnings: list[str]
    causes: list[HealthCauseJson]


@dataclass(frozen=True)
class JobJson:
    """A job in a list."""

    id: str
    kind: str
    name: str
    queue: str
    state: str
    attempt: int
    progress: ProgressJson | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    worker: str | None
    device: str | None
    error: dict[str, Any] | None
    metrics: dict[str, float | None] | None
    eta_s: float | None
    owner: str | None


@dataclass(frozen=True)
class JobPage:
    """Jobs, newest first; `next` continues the list."""

    read_at: str
    jobs: list[JobJson]
    next: str | None


@dataclass(frozen=True)
class JobInFull(JobJson):
    """A job with its parameters, events, relatives and metrics."""

    reason: str
    priority: int
    max_attempts: int
    parents: list[str]
    tags: list[str]
    retry_of: str | None
    gpu: str
    limits: dict[str, float | None]
    params: dict[str, Any]
    artifact: str | None
    path: str | None
    result: dict[str, Any] | None
    rate: float | None
    cancel_requested: bool
    queued_at: str | None
    events: list[dict[str, Any]]
    from_checkpoint: str | None
    parent_jobs: list[dict[str, Any]]
    children: list[dict[str, Any]]
    lease: dict[str, Any] | None
    series: dict[str, list[float | None]] | None
    artifacts: list[str]


@dataclass(frozen=True)
class CauseJson:
    """Why a job is in its state, and the command that fixes it."""

    sentence: str
    command: str | None


@dataclass(frozen=True)
class Explanation:
    """All causes, the most important first."""

    id: str
    state: str
    causes: list[CauseJson]


@dataclass(frozen=True)
class Series:
    """What a job has measured: a list for each metric, and where it was, `at`; null when nothing is known."""

    id: str
    state: str
    series: dict[str, list[float | None]] | None


@dataclass(frozen=True)
class LogLine:
    """A line of a log."""

    time: str | None
    level: str | None
    logger: str | None
    job: str | None
    attempt: int | None
    message: str | None


@dataclass(frozen=True)
class LogLines:
    """Lines of a log; `next` goes into `after`. `missing` are sentences on what is not here."""

    id: str
    state: str
    lines: list[LogLine]
    next: int
    is_over: bool
    missing: list[str]


@dataclass(frozen=True)
class Receipt:
    """A job that was accepted."""

    id: str
    kind: str
    queue: str
    state: str
    name: str


@dataclass(frozen=True)
class Submitted(Receipt):
    """The job, and those that were submitted because it needs them."""

    before: list[Receipt]
    replicated: bool | None


@dataclass(frozen=True)
class RetriedJob(Receipt):
    """Another try."""

    retry_of: str | None
    from_checkpoint: str | None
    continues_from: str | None


@dataclass(frozen=True)
class Retried:
    """All that was submitted."""

    jobs: list[RetriedJob]
    replicated: bool | None


@dataclass(frozen=True)
class Reprioritized(JobJson):
    """The job with its new priority."""

    priority: int


@dataclass(frozen=True)
class QueueJson:
    """A queue."""

    name: str
    state: str
    pending: int
    running: int
    oldest_age_s: float | None
    consumers: int
    slots: int
    per_minute: list[float]
    eta_s: float | None
    eta_unknown: str | None
    ended: dict[str, list[int]]


@dataclass(frozen=True)
class QueueList:
    """The queues, most urgent first."""

    read_at: str
    queues: list[QueueJson]
    errors: list[dict[str, Any]]


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits for its turn."""

    place: int
    id: str
    kind: str
    name: str
    priority: int
    queued_at: str | None
    tags: list[str]
    owner: str | None


@dataclass(frozen=True)
class QueuedJobs:
    """The first jobs of a queue in the order served."""

    read_at: str
    queue: str
    pending: int
    jobs: list[QueuedJob]


@dataclass(frozen=True)
class QueueChanged:
    """What became of a queue."""

    queue: str
    paused: bool
    message: str


@dataclass(frozen=True)
class Devices:
    """The accelerators of this machine, and those of other hosts by their heartbeats."""

    read_at: str | None
    devices: list[dict[str, Any]] | None
    devices_reason: str | None
    devices_limit: str | None
    errors: list[dict[str, Any]]
    remote_devices: list[dict[str, Any]] | None


@dataclass(frozen=True)
class Hosts:
    """The hosts of the fleet."""

    read_at: str
    hosts: list[dict[str, Any]]


@dataclass(frozen=True)
class QueueHistory:
    """What a queue held, an entry for each step."""

    name: str
    pending: list[float | None]
    running: list[float | None]
    paused: list[bool | None]


@dataclass(frozen=True)
class DeviceHistory:
    """What a GPU did, an entry for each step."""

    host: str | None
    uuid: str | None
    index: int | None
    instance: int | None
    name: str | None
    utilisation_percent: list[float | None]
    memory_used_bytes: list[float | None]
    power_w: list[float | None]
    temperature_c: list[float | None]


@dataclass(frozen=True)
class History:
    """What queues or GPUs were like: `count` entries, every `step_s` from `start` on; null where nobody wrote.

    The part that was not asked for is null. `left_out` GPUs of the fleet have no history, for lack of room.
    """

    read_at: str
    part: str
    span: str
    start: str
    step_s: int
    count: int
    queues: list[QueueHistory] | None
    devices: list[DeviceHistory] | None
    left_out: int


@dataclass(frozen=True)
class Profiles:
    """The profiles of workers."""

    profiles: list[dict[str, Any]]


@dataclass(frozen=True)
class ArtifactName:
    """An artifact of the store."""

    family: str
    name: str


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of the store."""

    artifacts: list[ArtifactName]


@dataclass(frozen=True)
class Manifest:
    """What an artifact is: docs/formats.md."""

    family: str
    name: str
    manifest: dict[str, Any]


@dataclass(frozen=True)
class ProbeStatus:
    """The answer of a probe."""

    status: str
