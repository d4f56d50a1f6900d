"""`cleanup`: remove what jobs that are over left behind. Never an artifact."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tasks.jobs.kind import Context, JobKind, kinds, option

_HOUR, _DAY = 3600, 86_400
#: How long what was read of live jobs is believed: removing may take minutes, and a retry may come meanwhile.
_LIVE_FOR_S = 1.0


@dataclass(frozen=True)
class Params:
    """How old leftovers must be."""

    hours: float = option(
        24.0, help="Remove work folders and checkpoints of ended jobs older than this many hours", minimum=0
    )
    log_days: float = option(30.0, help="Remove job logs older than this many days", minimum=0)
    count_only: bool = option(False, help="Only count what would be removed")


KIND = JobKind(
    "cleanup",
    queue="low_priority",
    params=Params,
    summary="Remove work folders, checkpoints and logs of ended jobs",
    module=__name__,
    in_slot=True,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Remove, or with `count_only` count: work folders and logs of jobs that are over, and the bytes they hold.

    Of the checkpoints that are too new for that, how many there are and what they hold.
    """
    from tasks.paths import Places
    from tasks.storage.log_archive import archives
    from tasks.storage.store import remove, size_of

    read_at = time.monotonic()
    live, places = context.live_jobs(), Places(context.home, context.store.root)
    folders = dict(_over(context, live, places.store / ".tmp"))
    logs = dict(_over(context, live, places.job_log("any").parent, ".log"))
    logs |= dict(_over(context, live, archives(places.store)))
    counts = {"work_folders": 0, "logs": 0, "bytes": 0}
    for what, ages, least_s in (
        ("work_folders", folders, params.hours * _HOUR),
        ("logs", logs, params.log_days * _DAY),
    ):
        for path in [path for path, age_s in ages.items() if age_s > least_s]:
            if time.monotonic() - read_at > _LIVE_FOR_S:
                live, read_at = context.live_jobs(), time.monotonic()
            if path.name.partition(".")[0] in live:  # a retry takes it over since
                continue
            size = size_of(path)
            if params.count_only or remove(path):
                counts["bytes"] += size
                counts[what] += 1
            context.progress("removing", counts["work_folders"] + counts["logs"], None, "entries")
    newer = [path for path, age_s in folders.items() if age_s <= params.hours * _HOUR]
    kept = [path for path in newer if _can_be_resumed(path)]
    summary = {"checkpoints_kept": len(kept), "checkpoint_bytes_kept": sum(map(size_of, kept))}
    return {**counts, **summary, "count_only": params.count_only}


def _over(context: Context, live: set[str], folder: Path, suffix: str = "") -> Iterator[tuple[Path, float]]:
    """Entries of jobs that are not live, and for how many seconds: since the job ended, by the ledger's clock.

    Of a job that the ledger has forgotten, since anything there changed, by the clock of the disk.
    """
    paths = {path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))}
    over = {job_id: path for job_id, path in paths.items() if job_id not in live}
    if not over:
        return
    known, now = context.seconds_since_end(list(over)), _clock_of_disk(folder)
    for job_id, path in over.items():
        age_s = known[job_id] if job_id in known else now - _newest(path, now)
        if age_s is not None:  # else it has begun since the live ones were read
            yield path, age_s


def _can_be_resumed(work_folder: Path) -> bool:
    from tasks.storage.attempts import newest

    left = newest(work_folder)
    resuming = [kind.resume_point for kind in kinds().values() if kind.resume_point]
    return left is not None and any(resume_point(left) for resume_point in resuming)


def _clock_of_disk(folder: Path) -> float:
    """The time that a file gets there now: another machine may write it. Where none can be made, of the newest one."""
    try:
        with TemporaryFile(dir=folder) as probe:
            os.utime(probe.fileno())
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return _newest(folder, 0.0)


def _newest(path: Path, now: float) -> float:
    """When anything there was last changed; now, for what somebody else has just removed."""
    from tasks.storage.store import stats

    return max((entry.st_mtime for entry in stats(path)), default=now)
