"""Options shared by all submitting commands: flags, the report of planned and submitted jobs, the wait for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import typer

from mistudio_cli import completion, session
from mistudio_cli.errors import Code, Failed
from mistudio_cli.fleet.replication import warn_if_unreplicated
from mistudio_cli.jobs import new_home, waiting
from mistudio_cli.jobs.lookup import find_jobs
from mistudio_cli.terminal import humanize, output
from mistudio_cli.views import json_shapes, tables
from tasks.errors import UserError
from tasks.jobs.kind import Estimate, kind_named
from tasks.jobs.record import Job, State
from tasks.queues import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY
from tasks.submission.plan import ArtifactCatalog, SubmitOptions

#: Errors of a file printed at once.
MAX_FAULTS_SHOWN = 50

#: The flags of every way of submitting, as `SubmitFlags` takes them.
FLAGS: dict[str, tuple[Any, Any]] = {
    "priority": (
        int | None,
        typer.Option(
            None,
            min=LOWEST_PRIORITY,
            max=HIGHEST_PRIORITY,
            help="0 (low) to 10 (high)",
            show_default=f"the kind's setting, else {DEFAULT_PRIORITY}",
        ),
    ),
    "after": (
        list[str] | None,
        typer.Option(
            None,
            metavar="ID",
            help="Run after this job has succeeded; may be repeated",
            autocompletion=completion.of(completion.jobs),
        ),
    ),
    "tag": (list[str] | None, typer.Option(None, metavar="TAG", help="Tag; may be repeated")),
    "gpu": (
        str,
        typer.Option(
            "any",
            metavar="any|none|0,1",
            help="GPU indices the job may use, for example 0,1",
            autocompletion=completion.of(lambda: ("any", "none")),
        ),
    ),
    "owner": (str | None, typer.Option(None, metavar="NAME", help="Owner; default: the Redis user, else the OS user")),
    "dry_run": (
        bool,
        typer.Option(False, "--dry-run", help="Print what would be submitted and its estimate, without submitting"),
    ),
    "wait": (bool, typer.Option(False, "--wait", help="Wait until the job ends; fails unless it succeeds")),
    "json": (bool, typer.Option(False, "--json", help="As JSON")),
}


@dataclass(frozen=True)
class RequestFault:
    """An error in a file of requests: where, what, and how to fix it."""

    where: str
    problem: UserError


def give_flags(command: Callable[..., None], flags: Mapping[str, tuple[Any, Any]]) -> None:
    """Make these, each with its type, the flags of a command that takes them by name."""
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in flags.items()
        ]
    )
    command.__annotations__ = {name: annotation for name, (annotation, _) in flags.items()}


def refuse(faults: Sequence[RequestFault]) -> None:
    """Print all errors, if there are any, and end the command."""
    for fault in faults[:MAX_FAULTS_SHOWN]:
        output.talk(humanize.one_line(f"{fault.where}: {fault.problem.sentence}"))
        if fault.problem.hint:
            output.talk(f"  {humanize.one_line(fault.problem.hint)}")
    if more := len(faults[MAX_FAULTS_SHOWN:]):
        output.talk(f"… and {more} more faults")
    if faults:
        raise typer.Exit(int(Code.USAGE))


@dataclass(frozen=True)
class SubmitFlags:
    """How to submit and what to say of it: the values of FLAGS."""

    priority: int | None
    after: list[str] | None
    tag: list[str] | None
    gpu: str
    owner: str | None
    dry_run: bool
    wait: bool
    json: bool

    def open(self) -> ArtifactCatalog:
        """The ledger, and what it and the store know; in a new home an empty one, until something is submitted."""
        from tasks.storage.store import Store

        settings = session.current_settings()
        ledger = new_home.ledger_to_read(settings, supervise=not self.dry_run)
        owner = session.current_owner(self.owner)
        return ArtifactCatalog(ledger, Store(settings.places.store), owner=owner)

    def submit_options(self, known: ArtifactCatalog, *more_tags: str) -> SubmitOptions:
        """The options of each job. NotFound for a job to wait for that does not exist."""
        after = tuple(job.id for job in find_jobs(known.ledger, self.after or ()))
        return SubmitOptions(self.priority, after, (*more_tags, *(self.tag or ())), self.gpu)


def opened_to_change(known: ArtifactCatalog) -> ArtifactCatalog:
    """The same with a ledger that can be written to; it has planned nothing yet where that is another one."""
    ledger = new_home.ledger_to_change(known.ledger)
    return known if ledger is known.ledger else replace(known, ledger=ledger, planned={}, estimating_s=[])


def read_flags(values: dict[str, Any]) -> SubmitFlags:
    """Take the values of FLAGS out of those of all flags of a command."""
    return SubmitFlags(**{flag: values.pop(flag) for flag in FLAGS})


def carry_out(known: ArtifactCatalog, jobs: Sequence[Job], flags: SubmitFlags, tag: str | None = None) -> None:
    """Submit what was planned, or with `dry_run` say what it is. Jobs that belong together share a `tag`."""
    if flags.dry_run:
        _print_plan(known, jobs, flags, tag)
        return
    known = opened_to_change(known)
    jobs = known.ledger.submit_all(jobs)
    replicated = known.ledger.replicated
    if not flags.json:
        with submitted_all_the_same(jobs):
            _print_jobs(jobs, tag)
    warn_if_unreplicated(known.ledger, jobs)
    try:
        if flags.wait:
            requested = jobs if tag else jobs[-1:]
            ended = {job.id: job for job in waiting.wait_for(known.ledger, [job.id for job in requested])}
            jobs = [ended.get(job.id, job) for job in jobs]
            for job in ended.values():
                output.talk(f"{job.id} {job.state}{waiting.why(job)}")
    finally:  # also what was submitted before Ctrl-C
        if flags.json:
            together = json_shapes.submitted_together(jobs, tag, replicated) if tag else None
            with submitted_all_the_same(jobs):
                output.data_json(together or json_shapes.submitted(jobs[-1], jobs[:-1], replicated))
    if any(job.state.ended and job.state is not State.SUCCEEDED for job in jobs):
        raise typer.Exit(int(Code.FAILED))


@contextmanager
def submitted_all_the_same(jobs: Sequence[Job]) -> Iterator[None]:
    """Failed, and no fault of the request, where the ids cannot be printed: who submits again does it twice."""
    try:
        yield
    except OSError as error:
        last = f"{jobs[-1].id} was submitted" if jobs else "Nothing was left to submit"
        raise Failed(f"{last}, which cannot be printed: {error.strerror}.", "See: mistudio jobs ls") from error


def _print_jobs(jobs: Sequence[Job], tag: str | None) -> None:
    for job in jobs:
        needed_first = "" if tag or job is jobs[-1] else ", needed first"
        output.data(f"{job.id} {job.kind} {job.name} in {job.queue}{needed_first}")
    if tag:
        output.talk(f"{humanize.count_of(len(jobs))} with the tag {tag}" if jobs else "Nothing was left to submit.")
    else:
        output.talk(f"Watch it: mistudio jobs wait {jobs[-1].id}")


def _print_plan(known: ArtifactCatalog, jobs: Sequence[Job], flags: SubmitFlags, tag: str | None) -> None:
    estimates = [_estimate(known, job) for job in jobs]
    if flags.json:
        output.data_json(json_shapes.planned(jobs, estimates, tag))
        return
    output.table(*tables.planned(jobs, estimates))
    output.talk("Nothing was submitted.")


def _estimate(known: ArtifactCatalog, job: Job) -> Estimate:
    kind = kind_named(job.kind)
    return kind.estimate(kind.read_params(job.params), known) if kind.estimate else Estimate()
