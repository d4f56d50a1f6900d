"""The metrics that are exposed: one table of names, types, units and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "mistudio"

#: Units that Prometheus has at the end of a name.
_SUFFIXES = ("seconds", "bytes", "ratio", "celsius", "watts")


@dataclass(frozen=True)
class Family:
    """A metric: its name after the prefix, of a counter without `_total`; `unit` as people call it."""

    name: str
    type: Literal["gauge", "counter", "histogram"]
    about: str
    unit: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Its name as OpenMetrics has it."""
        return f"{PREFIX}_{self.name}"

    @property
    def help(self) -> str:
        """What it says, and in which unit."""
        return f"{self.about} ({self.unit})."

    @property
    def suffix(self) -> str:
        """The unit at the end of its name, or nothing."""
        last = self.name.rpartition("_")[2]
        return last if last in _SUFFIXES else ""

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series in a scrape."""
        ends = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(self.full_name + end for end in ends[self.type])


_QUEUE, _KIND, _WORKER, _DEVICE = ("queue",), ("kind",), ("worker", "host"), ("uuid", "index", "host")
_TRAINING = ("job", "name")

FAMILIES = (
    Family("queue_pending", "gauge", "Queued jobs that have not started", "jobs", _QUEUE),
    Family("queue_running", "gauge", "Running jobs of the queue", "jobs", _QUEUE),
    Family("queue_oldest_age_seconds", "gauge", "How long the queue's oldest job has waited", "seconds", _QUEUE),
    Family("queue_consumers", "gauge", "Workers that consume the queue", "workers", _QUEUE),
    Family("queue_slots", "gauge", "Jobs of the queue that its workers can run at a time", "jobs", _QUEUE),
    Family("queue_paused", "gauge", "Whether the queue is paused", "1 yes, 0 no", _QUEUE),
    Family("jobs", "counter", "Jobs that have ended, since the ledger began", "jobs", ("kind", "outcome")),
    Family("attempts", "counter", "Attempts at jobs that have started, since the ledger began", "attempts", _KIND),
    Family("job_duration_seconds", "histogram", "Duration of the last attempt of jobs that ended", "seconds", _KIND),
    Family("job_wait_seconds", "histogram", "Time in the queue before attempts that ended", "seconds", _KIND),
    Family("worker_up", "gauge", "Whether the worker runs and its heartbeat arrives", "1 yes, 0 no", _WORKER),
    Family("worker_slots", "gauge", "Jobs that the worker can run at a time", "jobs", _WORKER),
    Family("worker_busy", "gauge", "Jobs that the worker runs", "jobs", _WORKER),
    Family("worker_restarts", "counter", "Restarts of the worker by its supervisor", "restarts", _WORKER),
    Family("worker_memory_bytes", "gauge", "Memory of the worker with its jobs (PSS)", "bytes", _WORKER),
    Family("device_up", "gauge", "Whether the GPU could be read", "1 yes, 0 no", _DEVICE),
    Family("device_memory_bytes", "gauge", "Memory that the GPU has", "bytes", _DEVICE),
    Family("device_memory_used_bytes", "gauge", "Memory of the GPU that is in use", "bytes", _DEVICE),
    Family("device_utilization_ratio", "gauge", "Share of time in which a kernel ran", "parts of 1", _DEVICE),
    Family("device_temperature_celsius", "gauge", "Temperature of the GPU", "degrees Celsius", _DEVICE),
    Family("device_power_watts", "gauge", "Power draw of the GPU", "watts", _DEVICE),
    Family("device_jobs", "gauge", "Jobs that lease the GPU", "jobs", _DEVICE),
    Family("training_loss", "gauge", "Loss of a running training", "units of the loss", _TRAINING),
    Family("training_l0", "gauge", "Active features per token of a running training (L0)", "features", _TRAINING),
    Family("training_fvu", "gauge", "Fraction of variance unexplained of a running training", "parts of 1", _TRAINING),
    Family("training_tokens_per_second", "gauge", "Throughput of a running training", "tokens per second", _TRAINING),
    Family("training_progress_ratio", "gauge", "What is done of a running training", "parts of 1", _TRAINING),
    Family("health_causes", "gauge", "What is wrong, by the codes of the health report", "causes", ("code",)),
    Family("source_up", "gauge", "Whether the part could be read", "1 yes, 0 no", ("part",)),
    Family("source_age_seconds", "gauge", "Age of what was last read of the part", "seconds", ("part",)),
)
BY_NAME = {family.name: family for family in FAMILIES}
