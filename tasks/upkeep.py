"""What a round of mending in the ledger goes by: how patient it is, and how long it keeps what has ended.

Every worker asks for a round each second; Redis does one when the last is old enough (`lua/7_upkeep.lua`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tasks.problem import Problem

#: A lease lives this long without being renewed.
LEASE_TTL_S = 15.0

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Upkeep:
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
    bell_patience_s: float = 5.0  # a bell younger than this may still be on its way
    unacked_patience_s: float = 60.0
    most_bells: int = 2000
    most_retired: int = 200


def upkeep_from_environment() -> Upkeep:
    """By MISTUDIO_SERVED_WITHIN_S and MISTUDIO_KEEP_{JOBS_DAYS,JOBS,CHECKPOINTS_GB}. Problem for what is no number."""
    checkpoints_gb = os.environ.get("MISTUDIO_KEEP_CHECKPOINTS_GB")
    return Upkeep(
        served_within_s=_number("MISTUDIO_SERVED_WITHIN_S", Upkeep.served_within_s),
        keep_s=_number("MISTUDIO_KEEP_JOBS_DAYS", Upkeep.keep_s / DAY) * DAY,
        keep_jobs=int(_number("MISTUDIO_KEEP_JOBS", Upkeep.keep_jobs)),
        keep_checkpoint_bytes=_number("MISTUDIO_KEEP_CHECKPOINTS_GB", 10) * 1e9 if checkpoints_gb else None,
    )


def _number(variable: str, default: float) -> float:
    told = os.environ.get(variable)
    if not told:
        return default
    try:
        number = float(told)
    except ValueError:
        number = math.nan
    if 0 <= number < math.inf:
        return number
    raise Problem(f"{variable} is {told!r}, which is no number from 0.", f"Unset {variable}, or set it to {default:g}")
