"""Job lookup by id or name, and the full description of a job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_cli import session
from mistudio_cli.errors import NotFound
from mistudio_cli.terminal import humanize, output
from mistudio_cli.views import json_shapes
from tasks.errors import UserError
from tasks.jobs.record import FAMILIES, Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.parsing.safe_text import visible
from tasks.queues import Limits

if TYPE_CHECKING:  # what reads devices is imported where it is asked
    from mistudio_cli.monitor.device_holders import Holder
    from mistudio_cli.monitor.job_context import Surroundings
    from tasks.storage.store import Store

LAST = "last"
_SHOWN, _RELATIVES, _NAMED = 5, 20, 100


def find_job(ledger: Ledger, reference: str) -> Job:
    """The job of that id, of the only id that starts so, of that name, or the newest for `last`.

    A name is that of a job or of what it makes, with its family before it or without. NotFound for nothing of the kind,
    UserError for several ids.
    """
    if reference == LAST:
        newest = ledger.page(limit=1).jobs
        if not newest:
            raise NotFound("There are no jobs yet.", "Submit one: mistudio submit --help")
        return newest[0]
    job = ledger.get(reference)
    if job is not None:
        return job
    ids = ledger.find(reference, _SHOWN + 1) if reference else []
    if len(ids) != 1 and (named := _find_by_name(ledger, reference)) is not None:
        return named
    if len(ids) > 1:
        shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
        raise UserError(f"Several jobs start with {reference}: {shown}.", "Type more of the id")
    if not ids:
        raise NotFound(f"There is no job {reference!r}.", "See: mistudio jobs ls")
    return ledger.need(ids[0])


def _find_by_name(ledger: Ledger, name: str) -> Job | None:
    """The job of that name, one that has not ended before others; says when there are several."""
    family, _, last = name.rpartition("/")
    found = ledger.page(Filter(name=last), _NAMED).jobs if last else ()
    jobs = [job for job in found if not family or any(made.startswith(f"{family}/") for made in job.artifacts)]
    if not jobs:
        return _producer_of(ledger, family, last)
    chosen = next((job for job in jobs if not job.state.ended), jobs[0])
    if len(jobs) > 1:
        output.talk(f"Several jobs are called {name}; this is {chosen.id}, {chosen.state}.")
    return chosen


def _producer_of(ledger: Ledger, family: str, name: str) -> Job | None:
    """The job that makes, or has made, an artifact that is called otherwise than its job."""
    from tasks.storage.store import Store, is_name  # most commands are given ids

    store = Store(session.current_settings().places.store)
    if not is_name(name):
        return None
    for each in [family] if family in FAMILIES else FAMILIES if not family else ():
        if producer := ledger.producer_of(f"{each}/{name}") or _recorded_producer(store, each, name):
            return ledger.get(producer)
    return None


def _recorded_producer(store: Store, family: str, name: str) -> str | None:
    try:
        producer = (store.find_manifest(family, name) or {}).get("job")
    except (OSError, UserError):
        return None
    return producer if isinstance(producer, str) else None


def find_jobs(ledger: Ledger, references: Sequence[str]) -> list[Job]:
    """The jobs so named, each once."""
    found = [find_job(ledger, name) for name in references]
    return list({job.id: job for job in found}.values())


def show_lines(
    job: Job, events: Sequence[dict[str, Any]], path: str | None, around: Surroundings, now: float
) -> Iterator[str]:
    """All that is known of a job, for the eye."""
    facts = {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "queue": f"{job.queue}, priority {job.priority}",
        "state": str(job.state),
        "owner": job.owner or humanize.UNKNOWN,
        "reason": "" if job.state is State.RUNNING else humanize.one_line(job.reason),
        "progress": humanize.progress(job) if job.state is State.RUNNING else "",
        "took": humanize.took(job, now),
        "attempt": f"{job.attempt} of at most {job.max_attempts}" if job.attempt else "",
        "worker": job.worker or "",
        "device": _device(job, around.holder),
        "gpu": "" if job.gpu == "any" else job.gpu,
        "limits": _limits(job.limits),
        "tags": ", ".join(job.tags),
        "retry of": _retry_of(job),
        "artifact": "" if job.more_artifacts else path or job.artifact or "",
    }
    from mistudio_cli.views import sparklines

    yield from (f"{name:<10}{visible(value)}" for name, value in facts.items() if value)
    if job.more_artifacts:
        yield from ("", "artifacts", *(f"  {artifact}" for artifact in job.artifacts))
    yield from _relatives("parents", list(around.parents.items()))
    yield from _relatives("children", [(child.id, child) for child in around.children])
    yield from _section("metrics", sparklines.drawn(around.measured) or humanize.values(job.metrics or {}))
    yield from _section("parameters", job.params)
    yield from _section("result", job.result or {})
    if job.error:
        error = f"{job.error.get('type')}: {job.error.get('message')}"
        yield from ("", f"error     {humanize.one_line(error)}")
        yield from (f"  {line}" for line in job.error.get("traceback", "").splitlines())
    yield from ("", "history")
    for event in events:
        who = f" by {event['worker']}" if event.get("worker") else ""
        yield f"  {json_shapes.time(event['at'])}  {event['state']}{who}{_because(str(event['reason']))}"


def _because(reason: str) -> str:
    """The reason of a change of state; that a job runs since a worker claimed it goes without saying."""
    return "" if reason == "claimed" else f": {humanize.one_line(reason)}"


def _device(job: Job, holder: Holder | None) -> str:
    """The device, and what the job holds there and was expected to, as `top` shows it."""
    if holder is None:
        return job.device or ""
    return f"{job.device}, holds {humanize.size(holder.memory)}, expected {humanize.size(holder.expected)}"


def _limits(limits: Limits | None) -> str:
    """The limits that were set for the job; those of its kind are no news."""
    if limits is None:
        return ""
    from tasks.parsing.setting_types import duration_text

    spans = {"soft": limits.soft_s, "hard": limits.hard_s, "stall": limits.stall_s}
    return ", ".join(f"{name} {'none' if span is None else duration_text(span)}" for name, span in spans.items())


def _retry_of(job: Job) -> str:
    if not job.from_checkpoint:
        return job.retry_of or ""
    whose = "its checkpoint" if job.from_checkpoint == job.retry_of else f"the checkpoint of {job.from_checkpoint}"
    return f"{job.retry_of}, from {whose}"


def _relatives(title: str, found: Sequence[tuple[str, Job | None]]) -> Iterator[str]:
    """Other jobs, one a line; a long list is cut and says so."""
    if found:
        yield from ("", title)
        shown = [(job_id, *_relative(job)) for job_id, job in found[:_RELATIVES]]
        wide = [max(map(len, column)) for column in zip(*shown, strict=True)]
        for row in shown:
            yield "  " + "  ".join(cell.ljust(room) for cell, room in zip(row, wide, strict=True)).rstrip()
        if (more := len(found) - _RELATIVES) > 0:
            yield f"  … and {more} more: --json has them all"


def _relative(job: Job | None) -> tuple[str, str, str]:
    if job is None:
        return (humanize.UNKNOWN, humanize.UNKNOWN, "its record is removed")
    return (job.kind, job.name, str(job.state))


def _section(title: str, facts: dict[str, Any]) -> Iterator[str]:
    if facts:
        yield from ("", title)
        room = max(map(len, facts)) + 2
        yield from (f"  {visible(name):<{room}}{_word(value)}" for name, value in facts.items())


def _word(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
