"""`cleanup`: remove what jobs that are over left behind. Never an artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.job import Context, JobKind, option

_HOUR, _DAY = 3600, 86_400


@dataclass(frozen=True)
class Params:
    """How old leftovers must be."""

    hours: float = option(24.0, help="Remove work folders of jobs that are over, untouched for this long", minimum=0)
    log_days: float = option(30.0, help="Remove job logs older than this", minimum=0)
    count_only: bool = option(False, help="Only count what would be removed")


KIND = JobKind(
    "cleanup",
    queue="low_priority",
    params=Params,
    summary="Remove work folders and logs of jobs that are over",
    module=__name__,
    in_slot=True,
)


def run(params: Params, context: Context) -> dict[str, Any]:
    """Remove, or with `count_only` count: work folders and logs of jobs that are over, and the bytes they hold."""
    from tasks.places import Places

    now, live = time.time(), context.live_jobs()
    places = Places(context.home, context.store.root)
    folders = _over(places.store / ".tmp", live, now - params.hours * _HOUR)
    logs = _over(places.job_log("any").parent, live, now - params.log_days * _DAY, ".log")
    counts = {"work_folders": 0, "logs": 0, "bytes": 0}
    for what, paths in (("work_folders", folders), ("logs", logs)):
        for path in paths:
            counts["bytes"] += _size(path)
            counts[what] += 1
            if not params.count_only:
                _remove(path)
            context.progress("removing", counts["work_folders"] + counts["logs"], None, "entries")
    return {**counts, "count_only": params.count_only}


def _over(folder: Path, live: set[str], before: float, suffix: str = "") -> Iterator[Path]:
    """Entries of jobs that are not live, in which nothing has changed since `before` (seconds since the epoch)."""
    for path in sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else ():
        if path.name.removesuffix(suffix) not in live and _newest(path) < before:
            yield path


def _tree(path: Path) -> Iterator[Path]:
    """The path and all below it, through no link."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for below in path.iterdir():
            yield from _tree(below)


def _newest(path: Path) -> float:
    return max(entry.lstat().st_mtime for entry in _tree(path))


def _size(path: Path) -> int:
    return sum(entry.lstat().st_size for entry in _tree(path) if entry.is_symlink() or entry.is_file())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
