"""Paths in a job's parameters that the host it runs on does not have, though the one it was submitted on may."""

from __future__ import annotations

import socket
from pathlib import Path

from tasks.jobs.record import Job


def describe_missing_paths(job: Job) -> str:
    """Which path of a job that was submitted on another host is not on this one, in a sentence; "" when none is."""
    here = socket.gethostname()
    if not job.submitted_by or job.submitted_by.endswith(f" on {here}"):
        return ""
    for value in job.params.values():
        if isinstance(value, str) and Path(value).is_absolute() and not Path(value).exists():
            return f"{value} is not on {here}, where the job ran; it was submitted by {job.submitted_by}."
    return ""
