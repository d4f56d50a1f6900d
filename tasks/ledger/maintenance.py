"""Parameters of ledger maintenance: how long it waits before it recovers, and how long it keeps finished jobs.

Every worker asks for a round each second; Redis does one when the last is old enough (`lua/7_maintenance.lua`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.ledger.client import LEASE_TTL_S
from tasks.settings import current

DAY = 24 * 3600.0


@dataclass(frozen=True)
class MaintenanceSettings:
    """Times in seconds. What is done at once is bounded, because nobody else is served meanwhile.

    A queue with jobs that was not served for `served_within_s` has its first job served next of all. Records of ended
    jobs are kept for `keep_s`, and at most `keep_jobs` of them; `keep_checkpoint_bytes` is what the checkpoints of
    failed and cancelled jobs may take together, None for a share of their disk.
    """

    served_within_s: float = 600.0
    keep_s: float = 90 * DAY
    keep_jobs: int = 100_000
    keep_checkpoint_bytes: float | None = None
    every_s: float = 2.7
    lease_s: float = LEASE_TTL_S
    message_patience_s: float = 5.0  # a message younger than this may still be in transit
    unacked_patience_s: float = 60.0
    most_messages: int = 2000
    most_retired: int = 200


def maintenance_from_environment() -> MaintenanceSettings:
    """By the settings served_within, keep_jobs, keep_jobs_days and keep_checkpoints_gb. UserError for a wrong one."""
    checkpoints_gb = current("keep_checkpoints_gb")
    return MaintenanceSettings(
        served_within_s=current("served_within"),
        keep_s=current("keep_jobs_days") * DAY,
        keep_jobs=current("keep_jobs"),
        keep_checkpoint_bytes=None if checkpoints_gb is None else checkpoints_gb * 1e9,
    )
