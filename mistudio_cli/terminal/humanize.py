"""Numbers, ages, sizes and the progress of jobs in words, the same in tables, sentences and the live view."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.jobs.record import Job, State
from tasks.parsing.safe_text import visible

UNKNOWN = "n/a"
NONE = "-"

_BAR_CELLS, _MEASURES_SHOWN = 10, 3
_PARENTS = re.compile(r"^its parent (?:\S+ \(\S+\) (failed|cancelled): )+")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def note(record: Job) -> str:
    """How far a job is, why it ended, or why it is queued again."""
    if record.error:
        return one_line(record.error.get("message", ""))
    if record.state is State.RUNNING:
        return "stopping" if record.cancel_requested else progress(record)
    expected = {State.SUCCEEDED: 1, State.QUEUED: 0}  # attempts, where nothing went wrong
    return "" if record.attempt <= expected.get(record.state, -1) else one_line(record.reason)


def root_cause(reason: str) -> str:
    """A reason without the ids of the parents that it came through, for a place that has room for its beginning."""
    return _PARENTS.sub(r"a parent \1: ", reason).replace("a parent cancelled: ", "a parent was cancelled: ", 1)


def progress(record: Job) -> str:
    """How far a running job is."""
    state = record.progress
    if state is None:
        return "starting"
    rate = f", {number(state.rate)}/s" if state.rate else ""
    left = "" if record.left_s is None else f", {duration(record.left_s)} left"
    if not state.total:
        count = f" {state.done:,} {state.unit}" if state.done else ""
        return f"{state.phase}{count}{rate}"
    return f"{percent(record):.0f} % {state.phase} ({state.done:,}/{state.total:,} {state.unit}{rate}{left})"


def number(value: float) -> str:
    """A number with separators of thousands, with three digits where it is small: 56,100 or 13.5."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def percent(record: Job) -> float | None:
    """The share that is done, 0 to 100; only an ended job is at 100. None when the total is unknown."""
    if record.state is State.SUCCEEDED:
        return 100.0
    if record.progress is None or not record.progress.total:
        return None
    return min(99.0, 100.0 * record.progress.done // record.progress.total)


def bar(record: Job) -> str:
    """A running job's share that is done, as a bar."""
    share = percent(record) if record.state is State.RUNNING else None
    if share is None:
        return ""
    full = int(share * _BAR_CELLS / 100)
    return "█" * full + "░" * (_BAR_CELLS - full) + " "


def values(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Numbers that a job measured, as words."""
    return {name: UNKNOWN if value is None else f"{value:.4g}" for name, value in metrics.items()}


def took(record: Job, now: float) -> str:
    """How long the last attempt has run, or ran."""
    if record.started_at is None:
        return NONE
    if record.state is not State.RUNNING and not record.state.ended:
        return NONE
    return duration((record.finished_at or now) - record.started_at)


def duration(seconds: float) -> str:
    """Seconds in words: 7 s, 2 min 5 s, 3 h 10 min, 4 d 2 h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes} min {whole % 60} s"
    if not days:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def rough_duration(seconds: float) -> str:
    """Seconds in one unit, at least two of it: 119 s, 90 min, 47 h, 3 d."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def size(amount: float | None) -> str:
    """Bytes in words."""
    if amount is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def one_line(text: str) -> str:
    """The text on one line and without colors; what else would steer a terminal is made visible."""
    return visible(" ".join(_STYLE.sub("", text).split()))


def measures(record: Job) -> str:
    """The metrics of a running job that matter most."""
    if record.state is not State.RUNNING or not record.metrics:
        return ""
    parts = [f"{name} {'?' if value is None else f'{value:.3g}'}" for name, value in record.metrics.items()]
    return " ".join(parts[:_MEASURES_SHOWN])


def count_of(jobs: int) -> str:
    """A number of jobs in words."""
    return "1 job" if jobs == 1 else f"{jobs} jobs"
