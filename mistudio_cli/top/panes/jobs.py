"""The jobs: what runs, then what waits in the order in which it will start, then what has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mistudio_cli.terminal import output
from mistudio_cli.terminal.humanize import (
    NONE,
    bar,
    duration,
    measures,
    note,
    percent,
    progress,
    root_cause,
    rough_duration,
    took,
)
from mistudio_cli.top.frame.columns import Cell, Drop, LazyRows, Shorten, Shrink, Table
from mistudio_cli.top.frame.text import Span, clean
from mistudio_cli.top.panes.pane import Pane, chosen, note_of, ordered, sorting, style_of, summary_of
from mistudio_cli.top.reading import Parts
from mistudio_cli.top.view import View
from mistudio_cli.top.waiting_order import waiting_jobs
from tasks.jobs.record import Job, State

HEADERS = ("JOB", "KIND", "NAME", "QUEUE", "STATE", "DEVICE", "DURATION", "METRICS", "PROGRESS")

#: What a narrow screen gives up. The state and how far a job is are never dropped.
STEPS = (
    *(Shrink("NAME", 40), Shorten("PROGRESS"), Drop("QUEUE"), Shrink("NAME", 24), Drop("METRICS"), Drop("DURATION")),
    *(Shrink("NAME", 16), Shorten("PROGRESS"), Shorten("PROGRESS"), Shrink("NAME", 12), Drop("DEVICE"), Drop("KIND")),
    *(Shrink("NAME", 8), Shorten("PROGRESS"), Drop("NAME"), Shrink("JOB", 5)),
)

#: By what the rows of each group can be sorted.
KEYS: Mapping[str, Callable[[Job], Any]] = {
    "NAME": lambda job: job.name,
    "KIND": lambda job: job.kind,
    "QUEUE": lambda job: job.queue,
    "DEVICE": lambda job: job.device,
    "DURATION": lambda job: job.started_at and -job.started_at,
    "PROGRESS": percent,
}


def jobs_pane(parts: Parts, view: View) -> Pane:
    """The jobs, with their places in the order of their queues."""
    running, waiting, ended = groups(parts)
    places = _places(waiting) if parts.waiting.value is not None else {}
    text = view.filters.get("jobs", "")
    groups_shown = [ordered(chosen(group, words, text), KEYS, view, "jobs") for group in (running, waiting, ended)]
    shown = [job for group in groups_shown for job in group]
    states = {row.name: row.state for row in parts.queues.value or ()}
    is_measured = any(measures(job) for job in running)
    headers = tuple(name for name in HEADERS if is_measured or name != "METRICS")
    queued = sum(row.pending for row in parts.queues.value or ())
    unread = max(0, queued - sum(job.state is State.QUEUED for job in waiting))
    total = len(running) + len(waiting) + len(ended)
    ended_count = f"{len(ended)}{'+' * bool(parts.next)}"
    counts = (f"{len(running)} running", f"{len(waiting) + unread} waiting", f"{ended_count} ended")

    def make(job: Job) -> tuple[Cell, ...]:
        progress = _progress(job, places.get(job.id), states.get(job.queue, "ok"))
        cells = _row(job, parts.now, progress)
        return tuple(cell for name, cell in zip(HEADERS, cells, strict=True) if name in headers)

    loose = frozenset(number for number, job in enumerate(shown) if job.state is not State.RUNNING)
    table = Table(
        "jobs", headers, LazyRows(shown, make), STEPS, frozenset({"DURATION"}), loose, **sorting(view, "jobs")
    )
    return Pane(
        "jobs",
        summary_of(parts.jobs, "jobs", counts),
        table,
        tuple(job.id for job in shown),
        tuple(str(job.state) for job in shown),
        must=len(groups_shown[0]),
        active=tuple(range(len(groups_shown[0]) + len(groups_shown[1]))),
        unread=0 if text else unread,
        older=output.suggested("mistudio jobs ls") if parts.next else "",
        note=note_of(parts.jobs, "jobs", text, len(shown), total),
        is_stale=parts.jobs.is_stale,
        empty="no job matches" if text else output.suggested("no jobs yet: mistudio submit --help"),
    )


def groups(parts: Parts) -> tuple[list[Job], list[Job], list[Job]]:
    """The jobs that run, that wait and that have ended."""
    known = parts.jobs.value or ()
    running = [job for job in known if job.state is State.RUNNING]
    ended = sorted((job for job in known if job.state.ended), key=lambda job: -(job.finished_at or 0.0))
    return running, waiting_jobs(parts), ended


def words(job: Job) -> str:
    """What a filter looks at."""
    return " ".join((job.id, job.kind, job.name, job.queue, str(job.state), *job.tags))


def _places(waiting: Sequence[Job]) -> dict[str, int]:
    """The place of each queued job in its queue, from 1."""
    counts: dict[str, int] = {}
    places = {}
    for job in waiting:
        if job.state is State.QUEUED:
            places[job.id] = counts[job.queue] = counts.get(job.queue, 0) + 1
    return places


def _row(job: Job, now: float, progress: tuple[str, ...]) -> tuple[Cell, ...]:
    state = str(job.state)
    words = (job.id, job.kind, job.name, job.queue)
    return (
        *((Span(clean(word)),) for word in words),
        (Span(state, style_of(state)),),
        (Span(clean(job.device or NONE)),),
        (Span(took(job, now)),),
        (Span(clean(measures(job)) or NONE),),
        tuple(Span(clean(form)) for form in progress),
    )


def _progress(job: Job, place: int | None, queue_state: str) -> tuple[str, ...]:
    """How far the job is, the longest form first."""
    if job.state is State.QUEUED:
        return _turn(job, place, queue_state)
    if job.state is State.RUNNING and not job.cancel_requested:
        return _shares(job)
    text = root_cause(note(job))
    return (
        text,
        text,
        text,
        text,
        "stop" if job.state is State.RUNNING else "100 %" if job.state is State.SUCCEEDED else "",
    )


def _shares(job: Job) -> tuple[str, ...]:
    reached, share = job.progress, percent(job)
    if reached is None:
        return "starting", "starting", "starting", "starting", NONE
    if share is None and not reached.done:
        phase = reached.phase.partition(":")[0]
        return progress(job), phase, phase, phase.partition(" ")[0], NONE
    if share is None:
        count = f"{reached.done} {reached.unit}".rstrip()
        return progress(job), count, count, count, _short(reached.done)
    left = "" if job.left_s is None else f" {duration(job.left_s)} left"
    rough = "" if job.left_s is None else f" {rough_duration(job.left_s)} left"
    rate = f" {_short(reached.rate)}/s" if reached.rate else ""
    return (
        bar(job) + note(job),
        f"{bar(job)}{share:.0f} %{rate}{left}",
        f"{bar(job)}{share:.0f} %{rough}",
        f"{share:.0f} %{rough}",
        f"{share:.0f} %",
    )


def _turn(job: Job, place: int | None, queue_state: str) -> tuple[str, ...]:
    turn = "waits" if place is None else f"#{place}"
    blocked = "" if queue_state == "ok" else queue_state
    again = f": {note(job)}" if note(job) else ""
    long = f"{turn} in {job.queue}" + (f", {blocked}" if blocked else "") + again
    return long, long, long, f"{turn} {blocked}".rstrip(), "held" if blocked else turn


def _short(count: float) -> str:
    """A number in at most four columns."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}" if unit == "" else f"{count:.0f}{unit}"
        count /= 1000
    return f"{count:.0f}T"
