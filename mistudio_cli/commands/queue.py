"""`mistudio queue`: what waits and runs in each queue, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.error_messages import unread_as_json
from mistudio_cli.monitor.snapshot import read_queues
from mistudio_cli.terminal import output
from mistudio_cli.terminal.humanize import count_of
from mistudio_cli.views import json_shapes, tables
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.queues import QUEUE_NAMES
from tasks.settings import current

app = typer.Typer(help="Inspect, pause, purge and reorder queues", no_args_is_help=True)

_complete_queues = completion.of(completion.queues)

Json = Annotated[bool, typer.Option("--json", help="As JSON")]
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue's name", autocompletion=_complete_queues)]
Queues = Annotated[
    list[str] | None, typer.Argument(metavar="QUEUE...", help="Queues' names", autocompletion=_complete_queues)
]
Wide = Annotated[bool, typer.Option("--wide", help="Show owners too")]
All = Annotated[bool, typer.Option("--all", help="All queues")]


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List queues, most urgent first."""
    with unread_as_json({"queues": None}, as_json=as_json):
        read = read_queues(_ledger())
    if as_json:
        output.data_json(json_shapes.queues(read))
        return
    output.table(*tables.queues(read.queues or ()))
    rows = read.queues or ()
    if paused := [row.name for row in rows if row.state == "paused"]:
        output.talk(f"No job starts on {', '.join(paused)} (paused): mistudio queue resume {' '.join(paused)}")
    if deserted := [row.name for row in rows if row.pending and not row.consumers]:
        from mistudio_cli.monitor.consumer_command import consumer_command

        command = consumer_command(deserted, read.workers or ())
        output.talk(f"No worker consumes {', '.join(deserted)}: {command}")


@app.command("peek")
def peek(
    queue: Queue,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of jobs")] = 20,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """List queued jobs in the order they will start."""
    (name,) = _checked([queue])
    with unread_as_json({"queue": name, "pending": None, "jobs": None}, as_json=as_json):
        ledger = _ledger()
        jobs = [job for job in ledger.many(ledger.queues.order(name, limit)) if job]
        now, pending = ledger.now(), ledger.queues.counts()[name].pending
    if as_json:
        output.data_json({**json_shapes.peek(now, name, pending, jobs), "errors": []})
        return
    output.table(*tables.peek(jobs, now, wide=wide))
    if pending > len(jobs):
        output.talk(f"{pending - len(jobs)} more: --limit")
    if not jobs:
        output.talk(f"Nothing is queued in {name}.")


@app.command("pause")
def pause(queues: Queues = None, every: All = False) -> None:
    """Stop starting jobs from a queue until it is resumed; survives restarts. Running jobs continue."""
    from mistudio_cli.jobs import job_actions

    names = _named(queues, every=every)
    ledger = _ledger(start=True)
    for name in names:
        output.talk(job_actions.pause_queue(ledger, name))


@app.command("resume")
def resume(queues: Queues = None, every: All = False) -> None:
    """Resume a paused queue."""
    from mistudio_cli.jobs import job_actions

    names = _named(queues, every=every)
    ledger = _ledger(start=True)
    for name in names:
        output.talk(job_actions.resume_queue(ledger, name))


@app.command("purge")
def purge(
    queue: Queue,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")] = False,
    as_json: Json = False,
) -> None:
    """Cancel all queued jobs of a queue and the jobs that wait for them. Running jobs continue."""
    (name,), ledger = _checked([queue]), _ledger()
    pending = ledger.queues.counts()[name].pending
    if pending and not yes:
        output.ask(f"Cancel {count_of(pending)} queued in {name}, and those that wait for them?", "--yes")
    purged = ledger.queues.purge(name)
    if as_json:
        output.data_json({"queue": name, "cancelled": purged})
    else:
        output.talk(f"{count_of(purged)} of {name} {'was' if purged == 1 else 'were'} cancelled.")


@app.command("move")
def move(
    job_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A job's id, the start of one, its name, or `last`",
            autocompletion=completion.of(completion.jobs),
        ),
    ],
    to: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="Move the job to this queue", autocompletion=_complete_queues)
    ] = None,
    top: Annotated[bool, typer.Option("--top", help="Move the job to the front of its queue")] = False,
) -> None:
    """Move a job that has not started to another queue or to the front."""
    if to is None and not top:
        raise UserError("No destination given.", "Say --to QUEUE, --top, or both")
    ledger = _ledger()
    from mistudio_cli.jobs.lookup import find_job
    from tasks.jobs.record import State

    job = find_job(ledger, job_id)
    ledger.queues.move(job.id, _checked([to])[0] if to else None, top=top)
    moved = ledger.need(job.id)
    place = ledger.queues.place(moved.queue, moved.id)
    if place is None:
        where = "when its parents are done" if moved.state is State.WAITING else "when its owner's quota has room"
    else:
        where = f"after {count_of(place)}" if place else "next"
    output.talk(f"{job.id} is in {moved.queue}, and starts {where}.")


def _ledger(*, start: bool = False) -> Ledger:
    settings = session.current_settings()
    if start:
        return session.connect_ledger(settings, supervise=True)
    return session.connect_ledger(settings, timeout_s=current("read_patience"))


def _checked(words: Sequence[str]) -> list[str]:
    names = [name.strip() for word in words for name in word.split(",")]
    if unknown := [name for name in names if name not in QUEUE_NAMES]:
        raise UserError(f"There is no queue {unknown[0]!r}.", f"Queues: {', '.join(QUEUE_NAMES)}")
    return list(dict.fromkeys(names))


def _named(names: Sequence[str] | None, *, every: bool) -> list[str]:
    if every and names:
        raise UserError("--all means every queue, and some are named.", "Leave out the names, or --all")
    if not every and not names:
        raise UserError("No queues given.", f"Name some of {', '.join(QUEUE_NAMES)}, or say --all")
    return list(QUEUE_NAMES) if every else _checked(names or ())
