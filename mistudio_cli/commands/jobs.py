"""`mistudio jobs`: list, inspect, wait for and cancel jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.error_messages import unread_as_json
from mistudio_cli.errors import Code, NotFound
from mistudio_cli.jobs.lookup import find_job, find_jobs, show_lines
from mistudio_cli.jobs.selection import Selection, both_given, selecting, selecting_all
from mistudio_cli.terminal import humanize, output
from mistudio_cli.terminal.numbers import Timeout, TimeoutOrNone
from mistudio_cli.views import json_shapes, tables
from tasks.errors import UserError
from tasks.jobs.record import Job, State
from tasks.queues import HIGHEST_PRIORITY, LOWEST_PRIORITY
from tasks.settings import current

_PAGE = re.compile(r"\d+\.\d+-[\w-]+")

app = typer.Typer(help="List, inspect, wait for and cancel jobs", no_args_is_help=True)

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A job's id, the start of one, its name, or `last`",
        autocompletion=completion.of(completion.jobs),
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID...]",
        help="Ids of jobs, starts of ids, names, or `last`",
        autocompletion=completion.of(completion.jobs),
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")]
Json = Annotated[bool, typer.Option("--json", help="As JSON")]
Wide = Annotated[bool, typer.Option("--wide", help="Show owners too")]


@app.command("ls")
@selecting
def ls(
    chosen: Selection,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of jobs")] = 50,
    page: Annotated[str | None, typer.Option("--next", help="Continue a list from its `next` token")] = None,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    wanted = chosen.filter()
    if page is not None and not _PAGE.fullmatch(page):
        raise UserError(f"--next {page!r} is not what a list ended with.", "Take `next` of: mistudio jobs ls --json")
    with unread_as_json({"jobs": None, "next": None}, as_json=as_json):
        ledger = session.connect_ledger(session.current_settings(), timeout_s=current("read_patience"))
        now, found = ledger.now(), ledger.page(wanted, limit, page)
    if as_json:
        output.data_json(json_shapes.listed(now, found.jobs, found.next))
        return
    output.table(*tables.jobs(found.jobs, now, wide=wide))
    if not found.jobs:
        output.talk("No such jobs.")
    if found.next is not None:
        output.talk(f"There are more: --limit, or --next {found.next}")


@app.command("export")
@selecting
def export(
    chosen: Selection,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Output file; default: standard output")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists")] = False,
) -> None:
    """Export job records as JSON lines, newest first."""
    from mistudio_cli.jobs import export_jobs

    if file is not None and str(file) != "-" and file.is_file() and not force:
        output.ask(f"{file} exists. Replace it?", "--force")

    wanted = chosen.filter()
    settings = session.current_settings()
    ledger, store = session.connect_ledger(settings), settings.places.store
    if file is None or str(file) == "-":
        for line in export_jobs.lines(ledger, store, wanted):
            output.styled(line)
    else:
        output.talk(f"{export_jobs.write(ledger, store, wanted, file)} jobs are in {file}.")


@app.command("set-priority")
def set_priority(
    job_id: Id,
    priority: Annotated[int, typer.Argument(min=LOWEST_PRIORITY, max=HIGHEST_PRIORITY, help="0 (low) to 10 (high)")],
) -> None:
    """Change the priority of a job that has not started."""
    from mistudio_cli.jobs import job_actions

    ledger = session.connect_ledger(session.current_settings())
    job = find_job(ledger, job_id)
    output.talk(job_actions.set_priority(ledger, job, priority))


@app.command("rm")
@selecting_all
def rm(chosen: Selection, job_ids: Ids = None, yes: Yes = False) -> None:
    """Remove records, logs and checkpoints of ended jobs. Their artifacts stay."""
    from tasks.logs.log_tails import remove_tails
    from tasks.storage.log_archive import remove_archives
    from tasks.storage.store import Store

    settings = session.current_settings()
    ledger, store = session.connect_ledger(settings), Store(settings.places.store)
    jobs = chosen.jobs(ledger, job_ids or ())
    if chosen.is_given:
        jobs = [job for job in jobs if job.state.ended]
    if live := [job.id for job in jobs if not job.state.ended]:
        raise UserError(f"{live[0]} has not ended.", f"Cancel it first: mistudio jobs cancel {live[0]}")
    if not _any(jobs):
        return
    ledger.check_rights()
    chosen.confirm(f"Remove {_count(jobs)}?", yes=yes)
    for job in jobs:
        settings.places.job_log(job.id).unlink(missing_ok=True)
        remove_archives(store.root, job.id)
        remove_tails(ledger.client, job.id, job.attempt)
        if ledger.remove(job.id) == "ok":
            output.talk(f"{job.id} is removed.")
            if job.id not in ledger.awaited_checkpoints():  # a retry may have come meanwhile
                store.discard(job.id)


@app.command("show")
def show(job_id: Id, as_json: Json = False) -> None:
    """Show a job in full: parameters, progress, metrics, events."""
    from mistudio_cli.monitor.job_context import surroundings_of

    settings = session.current_settings()
    ledger = session.connect_ledger(settings)
    job = find_job(ledger, job_id)
    events, now = ledger.events(job.id), ledger.now()
    (around,) = surroundings_of(ledger, [job])
    path = json_shapes.made_at(job, settings.places.store)
    if as_json:
        output.data_json(json_shapes.job_in_full(job, events, path, around))
    else:
        output.data("\n".join(show_lines(job, events, path, around, now)))


@app.command("explain")
def explain(job_id: Id, as_json: Json = False) -> None:
    """Explain why a job is not running, what it is doing, or how it ended."""
    from mistudio_cli.monitor.explain import explain as causes_of
    from mistudio_cli.monitor.explain import look_around

    ledger = session.connect_ledger(session.current_settings())
    job = find_job(ledger, job_id)
    causes = causes_of(job, look_around(ledger, job))
    if as_json:
        output.data_json(json_shapes.explained(job, causes))
        return
    verb = "was" if job.state is State.CANCELLED else "has" if job.state.ended else "is"
    output.data(f"{job.id} ({job.kind} {job.name}) {verb} {job.state}.")
    for cause in causes:
        command = f"  ({output.suggested(cause.command)})" if cause.command else ""
        output.data(f"- {output.suggested(humanize.one_line(cause.sentence))}{command}")


@app.command("retry")
@selecting
def retry(
    chosen: Selection,
    job_ids: Ids = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed jobs that were not retried")] = False,
    from_checkpoint: Annotated[
        bool | None,
        typer.Option(
            "--from-checkpoint/--from-scratch",
            help="Resume from its checkpoint or start over; default: resume if there is a checkpoint",
        ),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Retry ended jobs with the same parameters; --failed includes the parents that made them fail."""
    from mistudio_cli.fleet import replication
    from mistudio_cli.jobs import job_actions, new_home
    from mistudio_cli.submission import retrying
    from mistudio_cli.submission.options import submitted_all_the_same

    if failed and chosen.state not in (None, [str(State.FAILED)]):
        raise UserError("--failed means jobs in that state, whatever --state says.", "Leave one of them out")
    failed = failed or chosen.state == [str(State.FAILED)]
    if job_ids and (failed or chosen.is_given):
        raise both_given()
    if not job_ids and not failed:
        raise UserError(
            "No jobs selected.",
            "Name some, or say --failed, with --kind, --queue, --name, --tag, --owner, --since or --until",
        )
    settings = session.current_settings()
    ledger = new_home.ledger_to_read(settings)
    if failed:
        wanted = replace(chosen, state=[str(State.FAILED)]).filter()
        begun = retrying.try_failed(
            ledger, settings.places.store, wanted, from_checkpoint=from_checkpoint, must_confirm=not yes
        )
    else:
        jobs = find_jobs(ledger, job_ids or [])
        begun = retrying.try_again(ledger, settings.places.store, jobs, from_checkpoint=from_checkpoint)
    replication.warn_if_unreplicated(ledger, begun.jobs)
    with submitted_all_the_same(begun.jobs):
        if as_json:
            output.data_json(json_shapes.retried(begun.jobs, begun.resume_point, ledger.replicated))
            return
        for sentence in job_actions.describe_retries(begun):
            output.data(sentence)


@app.command("logs")
def logs(
    job_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow until the job ends")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="Number of lines from the end")] = 100,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only this attempt")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON lines")] = False,
) -> None:
    """Print a job's log, from every host its attempts ran on."""
    from mistudio_cli.jobs.job_logs import print_forgotten_log, print_log

    settings = session.current_settings()
    ledger, places = session.connect_ledger(settings), settings.places
    try:
        job = find_job(ledger, job_id)
    except NotFound:
        if print_forgotten_log(ledger, places, job_id, lines, attempt=attempt, as_json=as_json):
            return
        raise
    print_log(ledger, places, job, lines, attempt=attempt, follow=follow, as_json=as_json)


@app.command("wait")
@selecting_all
def wait(
    chosen: Selection,
    job_ids: Ids = None,
    timeout: TimeoutOrNone = None,
    as_json: Json = False,
) -> None:
    """Wait until jobs end; fails unless all succeed. --all: all jobs that have not ended."""
    from mistudio_cli.jobs import waiting

    ledger = session.connect_ledger(session.current_settings())
    jobs = chosen.jobs(ledger, job_ids or ())
    if chosen.every and not chosen.state:
        jobs = [job for job in jobs if not job.state.ended]
    ended = waiting.wait_for(ledger, [job.id for job in jobs], timeout) if _any(jobs) else []
    _print_ends(ended, ledger.now(), as_json=as_json)
    if any(job.state is not State.SUCCEEDED for job in ended):
        raise typer.Exit(int(Code.FAILED))


@app.command("cancel")
@selecting_all
def cancel(
    chosen: Selection,
    job_ids: Ids = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Request cancellation and return at once")] = False,
    timeout: Timeout = 60.0,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Cancel jobs and wait until they stop."""
    from mistudio_cli.jobs import waiting

    ledger = session.connect_ledger(session.current_settings())
    jobs = chosen.jobs(ledger, job_ids or ())
    if chosen.is_given:
        jobs = [job for job in jobs if not job.state.ended]
    if _any(jobs):
        chosen.confirm(f"Cancel {_count(jobs)}?", yes=yes)
    requested = [waiting.ask_to_cancel(ledger, job) for job in jobs]
    ended = requested if no_wait else waiting.wait_for_stop(ledger, requested, timeout)
    if as_json:
        _print_ends(ended, ledger.now(), as_json=True)
    if any(job.state.ended and job.state is not State.CANCELLED for job in ended):
        raise typer.Exit(int(Code.FAILED))


def _any(jobs: Sequence[Job]) -> bool:
    """Whether there are any; says when not."""
    if not jobs:
        output.talk("No such jobs.")
    return bool(jobs)


def _count(jobs: Sequence[Job]) -> str:
    return "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"


def _print_ends(ended: list[Job], now: float, *, as_json: bool) -> None:
    if as_json:
        output.data_json(json_shapes.jobs(now, ended, None))
        return
    for job in ended:
        reason = f": {humanize.note(job)}" if job.state is not State.SUCCEEDED else ""
        output.data(f"{job.id} {job.kind} {job.name} {job.state} after {humanize.took(job, now)}{reason}")
