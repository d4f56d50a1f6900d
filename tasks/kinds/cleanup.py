"""`cleanup`: remove what jobs that are over left behind. Never an artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.job import Context, JobKind, kinds, option

_HOUR, _DAY = 3600, 86_400


@dataclass(frozen=True)
class Params:
    """How old leftovers must be."""

    hours: float = option(24.0, help="Remove work folders and checkpoints of jobs that are over, this old", minimum=0)
    log_days: float = option(30.0, help="Remove job logs older than this", minimum=0)
    count_only: bool = option(False, help="Only count what would be removed")


KIND = JobKind(
    "cleanup",
    queue="low_priority",
    params=Params,
    summary="Remove work folders, checkpoints and logs of jobs that are over",
    module=__name__,
    in_slot=True,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Remove, or with `count_only` count: work folders and logs of jobs that are over, and the bytes they hold.

    Of the checkpoints that are too new for that, how many there are and what they hold.
    """
    from tasks.places import Places
    from tasks.store import remove, size_of

    now, live = time.time(), context.live_jobs()
    places = Places(context.home, context.store.root)
    folders = _over(places.store / ".tmp", live, now - params.hours * _HOUR)
    logs = _over(places.job_log("any").parent, live, now - params.log_days * _DAY, ".log")
    counts = {"work_folders": 0, "logs": 0, "bytes": 0}
    for what, paths in (("work_folders", folders), ("logs", logs)):
        for path in paths:
            counts["bytes"] += size_of(path)
            counts[what] += 1
            if not params.count_only:
                remove(path)
            context.progress("removing", counts["work_folders"] + counts["logs"], None, "entries")
    kept = list(_checkpoints(places.store / ".tmp", live, now - params.hours * _HOUR))
    told = {"checkpoints_kept": len(kept), "checkpoint_bytes_kept": sum(map(size_of, kept))}
    return {**counts, **told, "count_only": params.count_only}


def _over(folder: Path, live: set[str], before: float, suffix: str = "") -> Iterator[Path]:
    """Entries of jobs that are not live, in which nothing has changed since `before` (seconds since the epoch)."""
    for path in sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else ():
        if path.name.removesuffix(suffix) not in live and _newest(path) < before:
            yield path


def _checkpoints(folder: Path, live: set[str], since: float) -> Iterator[Path]:
    """Work folders of jobs that are not live from which another try can go on, changed since then."""
    resuming = [kind.goes_on_at for kind in kinds().values() if kind.goes_on_at]
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in live and _newest(path) >= since and any(goes_on_at(path) for goes_on_at in resuming):
            yield path


def _newest(path: Path) -> float:
    """When anything there was last changed; now, for what somebody else has just removed."""
    from tasks.store import stats

    return max((entry.st_mtime for entry in stats(path)), default=time.time())
