"""`mistudio workers`: start, watch and stop the processes that do the work."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.error_messages import unread_as_json
from mistudio_cli.errors import Code, NotFound
from mistudio_cli.fleet import start_stop, supervisor_client, worker_names
from mistudio_cli.log_files import follow, last_lines
from mistudio_cli.monitor.snapshot import read_workers
from mistudio_cli.profile.profile_keys import LEAST_MEMORY_PER_CHILD, MOST_SLOTS
from mistudio_cli.profile.rules import (
    MOST_WORKERS,
    OTHER_LOGS,
    WorkerSpec,
    bounded,
    load_profile,
    named,
    worker_for,
    workers_of,
)
from mistudio_cli.redis import redis_server
from mistudio_cli.settings import Settings
from mistudio_cli.supervisor import worker_events
from mistudio_cli.supervisor.states import TERM_GRACE_S
from mistudio_cli.terminal import output
from mistudio_cli.terminal.numbers import Timeout, no_nan
from mistudio_cli.views import json_shapes, tables
from tasks.errors import UserError
from tasks.fleet.celery_inspect import WAIT_S, Topic
from tasks.fleet.clock_offset import CLOCK_FIX, CLOCK_WARNING_S, describe_offset
from tasks.fleet.host_heartbeat import measure_clock_offset
from tasks.ledger.client import Ledger
from tasks.parsing.safe_text import shown
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.settings import current
from tasks.worker.slot_locks import living_workers

app = typer.Typer(help="Start, inspect, scale and stop workers", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Only these workers", autocompletion=completion.of(completion.workers)),
]

Slots = Annotated[int | None, typer.Option(min=1, max=MOST_SLOTS, help="Concurrent jobs per worker")]


@app.command("start")
def start(
    profile: Annotated[
        str | None,
        typer.Argument(
            help="Which workers: minimal (the default), full, datasets, jetson, or your own",
            autocompletion=completion.of(completion.profiles),
        ),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(
            help="Start one worker for these queues instead of a profile",
            autocompletion=completion.of(completion.queues),
        ),
    ] = None,
    concurrency: Slots = None,
    name: Annotated[str | None, typer.Option(help="Name of that worker")] = None,
    max_tasks_per_child: Annotated[
        int | None, typer.Option(min=1, help="Recycle a worker process after N jobs")
    ] = None,
    max_memory_per_child: Annotated[
        int | None,
        typer.Option(min=LEAST_MEMORY_PER_CHILD, help="Recycle a worker process above N KiB after its job"),
    ] = None,
    job_memory_gb: Annotated[
        float | None, typer.Option(callback=no_nan, min=0.001, help="Fail a job whose processes use more memory, in GB")
    ] = None,
    new_store: Annotated[
        bool, typer.Option("--new-store", help="Use this store although earlier workers on this Redis used another")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if the machine does not meet the requirements")
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Run in the foreground (for containers and systemd)")
    ] = False,
    grace: Annotated[
        float, typer.Option(callback=no_nan, min=0, help="With --foreground: seconds running jobs get after SIGTERM")
    ] = TERM_GRACE_S,
    timeout: Timeout = start_stop.START_PATIENCE_S,
) -> None:
    """Start the workers of a profile, or one worker; returns when all are ready."""
    settings = session.current_settings()
    wanted = profile or "minimal" if queues is None else None
    if queues is not None and profile:
        raise typer.BadParameter("give a profile or --queues, not both")
    bounds = {
        "slots": concurrency,
        "max_tasks_per_child": max_tasks_per_child,
        "max_memory_per_child": max_memory_per_child,
        "job_memory_gb": job_memory_gb,
    }
    specs = [bounded(spec, bounds) for spec in _specs(wanted, queues, name)]
    short = _shortfalls(f"The profile {wanted}" if wanted else specs[0].name, specs, strict)
    if new_store:
        _forget_store_of_others(session.connect_ledger(settings, supervise=True))
    if not foreground:
        ledger = session.connect_ledger(settings, supervise=True)  # at once, before anything is started
        session.check_rights(ledger)
        _report_clock(ledger)
    for sentence in short:
        output.talk(sentence)
    if foreground:
        supervisor_client.run_in_foreground(settings, wanted, specs, grace)
    with _answers_awaited(f"Starting {wanted or specs[0].name} …"):
        ran = start_stop.start(settings, wanted, specs, _print_step, timeout)
    names = ", ".join(spec.name for spec in specs)
    already = " already" if len(ran) == len(specs) else ""
    output.talk(f"The profile {wanted} runs{already}: {names}." if wanted else f"{names} runs{already}.")
    if already and not wanted:
        output.talk("For one more give it a --name, or: mistudio workers scale QUEUE=2")


@app.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False) -> None:
    """Show workers: state, jobs, memory, restarts."""
    settings = session.current_settings()
    seen = read_workers(_ledger_if_there(settings), settings.places)
    if as_json:
        output.data_json(json_shapes.workers(seen))
    elif seen.workers:
        output.table(*tables.workers(seen.workers, seen.read_at or 0.0))
    for row in () if as_json else seen.workers or ():
        if row.state in ("fatal", "backoff"):
            output.talk(f"{row.name}: {row.last_exit}. See: mistudio workers logs {start_stop.short_name(row.name)}")
            for line in last_lines(settings.places.worker_log(start_stop.short_name(row.name)), 3):
                output.talk(f"  | {line}")
        if row.refusal:
            output.talk(f"{row.name} does not consume: {row.refusal}.")
    if not as_json and seen.workers == ():
        output.talk("No workers run. Start some: mistudio workers start")
    for trouble in () if as_json else seen.errors:
        output.talk(f"{trouble.part} could not be read: {trouble.message}")
    if any(trouble.part in ("ledger", "supervisor") for trouble in seen.errors):
        raise typer.Exit(int(Code.UNREACHABLE))


@app.command("inspect")
def inspect(
    topic: Annotated[Topic, typer.Argument(help="What to ask")] = Topic.ACTIVE,
    worker: Annotated[str | None, typer.Option(metavar="NAME", help="Only this worker")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
) -> None:
    """Ask every Celery worker on this Redis, also foreign ones, what it does. Shows no arguments of tasks."""
    from mistudio_cli.monitor import celery_workers
    from mistudio_cli.views import celery_view

    name = worker if worker is None or "@" in worker else f"{worker}@{socket.gethostname()}"
    unread = {"topic": topic, "receivers": None, "unnamed": None, "workers": None}
    with unread_as_json(unread, as_json=as_json):
        ledger = session.connect_ledger(session.current_settings(), timeout_s=WAIT_S + current("read_patience"))
        seen = celery_workers.inspect(ledger.client, [topic], name)
    if as_json:
        output.data_json(celery_view.as_json(seen, topic))
        return
    output.table(*celery_view.rows(seen, topic), wrap=True)
    for note in celery_view.notes(seen):
        output.talk(note)


@app.command("stop")
def stop(
    names: Names = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for running jobs: requeue them at once")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Wait for running jobs without limit")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Stop the supervisor and the home's own Redis too")] = False,
    grace: Annotated[
        float | None,
        typer.Option(
            callback=no_nan,
            min=0,
            help="Seconds running jobs get before they are requeued",
            show_default=f"{TERM_GRACE_S:g}",
        ),
    ] = None,
) -> None:
    """Stop workers. A job that does not finish in time is checkpointed and requeued; the next worker resumes it."""
    if everything and names:
        raise typer.BadParameter("--all stops every worker; leave out the names")
    if now and drain:
        raise typer.BadParameter("--now and --drain are opposites")
    if grace is not None and (now or drain):
        raise typer.BadParameter(f"--grace is how long to wait, {'--now not at all' if now else '--drain for ever'}")
    usual_s = TERM_GRACE_S if grace is None else grace
    _stop(names or [], None if drain else 0.0 if now else usual_s, everything)


@app.command("drain")
def drain(names: Names = None) -> None:
    """Stop workers once their running jobs have finished, without a time limit. Same as `stop --drain`."""
    _stop(names or [], None, everything=False)


@app.command("restart")
def restart(
    names: Names = None,
    concurrency: Slots = None,
    timeout: Timeout = start_stop.START_PATIENCE_S,
) -> None:
    """Rolling restart: replacements take new jobs while running jobs finish in the old workers."""
    settings = session.current_settings()
    here, elsewhere = _divided(settings, names or [])
    if elsewhere:
        slots = {} if concurrency is None else {"slots": concurrency}
        ledger = session.connect_ledger(settings)
        worker_names.ask(ledger, "restart", elsewhere, _print_step, "has been replaced", timeout, **slots)
    if elsewhere and not here:
        return
    try:
        with _answers_awaited("Restarting …"), _continuing_in_background():
            done = start_stop.restart(settings, here, concurrency, _print_step, timeout)
    except supervisor_client.NotRunning:
        output.talk("No workers run. Start some: mistudio workers start")
        return
    output.talk(f"Restarted: {', '.join(done)}.")


@app.command("scale")
def scale(
    counts: Annotated[
        list[str],
        typer.Argument(
            metavar="QUEUE=N...", help="Number of workers per queue", autocompletion=completion.of(completion.scales)
        ),
    ],
    timeout: Timeout = start_stop.START_PATIENCE_S,
) -> None:
    """Set the number of workers per queue. Idle workers are removed first; busy ones finish their jobs."""
    wanted = dict(given := [_count(word) for word in counts])
    if len(wanted) < len(given):
        raise typer.BadParameter("a queue is given twice")
    settings = session.current_settings()
    session.check_rights(session.connect_ledger(settings, supervise=True))
    with _answers_awaited("Scaling …"), _continuing_in_background():
        more, fewer = start_stop.scale(settings, wanted, _print_step, timeout)
    for said, names in (("New", more), ("Leaving, after their last jobs", fewer)):
        if names:
            output.talk(f"{said}: {', '.join(names)}.")
    if not more and not fewer:
        output.talk("Nothing to change.")


@app.command("events")
def events(
    count: Annotated[int, typer.Option("-n", min=1, help="Number of events from the end")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
) -> None:
    """Show events of this home's workers: starts, exits, restarts, with reasons."""
    changes = worker_events.read(session.current_settings().places, count)
    if as_json:
        output.data_json({"events": [asdict(change) for change in changes]})
    elif changes:
        output.table(*tables.events(changes), wrap=True)
    else:
        output.talk("Nothing has happened to workers here yet.")


@app.command("logs")
def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A worker, `supervisor` or `redis`; else all workers", autocompletion=completion.of(completion.logs)
        ),
    ] = None,
    lines: Annotated[int, typer.Option("-n", min=0, help="Number of lines from the end")] = 50,
    forever: Annotated[bool, typer.Option("--follow", "-f", help="Follow until Ctrl-C")] = False,
) -> None:
    """Print logs of workers."""
    settings = session.current_settings()
    places = settings.places
    if name is not None and (elsewhere := worker_names.divide(settings, [name])[1]):
        _print_log_from_elsewhere(session.connect_ledger(settings), elsewhere[0], lines, forever=forever)
        return
    found = _logs_of(places, start_stop.short_name(name) if name is not None else None)
    width = max(map(len, found))
    for writer, line in follow(found, lines, forever=forever):
        output.data(f"{writer:<{width}} | {line}" if len(found) > 1 else line)


def _print_log_from_elsewhere(ledger: Ledger, name: str, count: int, *, forever: bool) -> None:
    """Print what Redis has of the log of a worker on another host. NotFound when it has none."""
    from mistudio_cli.jobs.worker_tails import WorkerTail

    tail = WorkerTail(ledger, name)
    if not tail.is_there:
        worker_names.check(ledger, [name])
        short, _, host = name.partition("@")
        raise NotFound(f"The log of {name} is on {host}.", f"Type there: mistudio workers logs {short}")
    for line in tail.lines(count, forever=forever):
        output.data(line)


def _logs_of(places: Places, name: str | None) -> dict[str, Path]:
    there = {path.stem: path for path in sorted(places.logs.glob("*.log"))}
    found = {stem: path for stem, path in there.items() if (stem == name if name else stem not in OTHER_LOGS)}
    if not found:
        what = f"no log of {name!r}" if name else "no log of a worker"
        raise NotFound(f"There is {what} on this machine.", f"Logs: {', '.join(there) or 'none yet'}")
    return found


def _ledger_if_there(settings: Settings) -> Ledger | None:
    """The ledger, without starting anything; None when the home's own Redis does not run."""
    if settings.broker_url is None and not redis_server.takes_connections(settings.places):
        return None
    return session.connect_ledger(settings, timeout_s=current("read_patience"), must_answer=False)


def _print_step(step: str) -> None:
    if sys.stderr.isatty():
        output.talk_over(step)
    else:
        output.talk(step)


def _specs(profile: str | None, queues: str | None, name: str | None) -> list[WorkerSpec]:
    """The workers that were asked for. UserError when there is no such profile or queue."""
    specs = [worker_for(queues.split(","))] if queues is not None else list(workers_of(load_profile(profile or "")))
    if name is None:
        return specs
    if len(specs) > 1:
        raise typer.BadParameter(f"--name is for one worker; {profile} has {len(specs)}")
    return [named(specs[0], name)]


def _report_clock(ledger: Ledger) -> None:
    """Warn of a clock that differs from that of Redis. Raises Unreachable or Refused."""
    offset_s = measure_clock_offset(ledger.client)
    if abs(offset_s) > CLOCK_WARNING_S:
        output.talk(f"The clock here is {describe_offset(offset_s)} that of Redis. To set it: {CLOCK_FIX}")


def _forget_store_of_others(ledger: Ledger) -> None:
    if (living := ledger.forget_fleet()) != "ok":
        raise UserError(f"{living} works with the other store.", f"First: mistudio workers stop {living}")


def _shortfalls(who: str, specs: Sequence[WorkerSpec], strict: bool) -> list[str]:
    """What this machine has too little of, in sentences; `strict` makes it a UserError."""
    from mistudio_cli.profile.resources import read_machine, shortfalls

    short = [missing.sentence for missing in shortfalls(who, specs, read_machine())]
    if short and strict:
        raise UserError(" ".join(short), "Start fewer (mistudio profiles ls), or leave out --strict")
    return short


def _count(word: str) -> tuple[str, int]:
    queue, mark, count = word.partition("=")
    if queue not in QUEUE_NAMES:
        raise typer.BadParameter(f"there is no queue {queue!r}; queues: {', '.join(QUEUE_NAMES)}")
    if not mark or not (count.isdecimal() and count.isascii() and len(count) <= len(str(MOST_WORKERS))):
        raise typer.BadParameter(f"{shown(word)} is not like {queue}=2, or is more than {MOST_WORKERS}")
    return queue, int(count)


def _divided(settings: Settings, names: list[str]) -> tuple[list[str], list[str]]:
    """Short names of this home's workers and full names of those elsewhere. NotFound for one that is nowhere."""
    here, elsewhere = worker_names.divide(settings, names)
    if elsewhere:
        worker_names.check(session.connect_ledger(settings), elsewhere)
    return here, elsewhere


def _stop(names: list[str], grace_s: float | None, everything: bool) -> None:
    settings = session.current_settings()
    places = settings.places
    here, elsewhere = _divided(settings, names)
    if elsewhere:
        worker_names.ask(session.connect_ledger(settings), "stop", elsewhere, _print_step, "has ended", grace_s=grace_s)
    if elsewhere and not here:
        return
    if supervisor_client.status(places) is None and living_workers(places):  # workers that outlived their supervisor
        supervisor_client.ensure_supervisor(settings)
    stopped_before: list[str] = []
    try:
        if everything:
            start_stop.shutdown(places, _print_step, grace_s)
        else:
            stopped_before = start_stop.stop(places, here, _print_step, grace_s)
    except supervisor_client.NotRunning:
        output.talk_over("")
        output.talk("No workers run.")
        return
    finally:
        output.talk_over("")
    for name in stopped_before:
        output.talk(f"{name} has stopped already.")
    if here and set(here) == set(stopped_before):
        return
    output.talk("All is stopped." if everything else "The workers have stopped. What waits in the queues stays.")


@contextmanager
def _continuing_in_background() -> Iterator[None]:
    """Ctrl-C ends the command, and not what it has asked the supervisor to do."""
    try:
        yield
    except KeyboardInterrupt:
        output.talk("It continues in the background. See: mistudio workers status")
        raise


@contextmanager
def _answers_awaited(what: str) -> Iterator[None]:
    """Print a progress line until workers have answered, and the last log lines of one that does not."""
    output.talk_over(what)
    try:
        yield
    except start_stop.NeverAnswered as problem:
        output.talk_over("")
        for line in (problem.sentence, *(f"  | {line}" for line in problem.log_lines), f"  {problem.hint}"):
            output.talk(line)
        raise typer.Exit(int(Code.FAILED)) from problem
    finally:
        output.talk_over("")
