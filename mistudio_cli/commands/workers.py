"""`mistudio workers`: start, watch and stop the processes that do the work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import control, fleet, output, redis_server, session, shapes, tables
from mistudio_cli.errors import Code, NotFound
from mistudio_cli.log_files import follow
from mistudio_cli.profile import load_profile, workers_of
from mistudio_cli.settings import Settings
from mistudio_cli.snapshot import read_workers
from mistudio_cli.states import TERM_GRACE_S
from tasks.ledger import Ledger
from tasks.places import Places
from tasks.wire import connect

app = typer.Typer(help="Start, watch and stop the processes that do the work", no_args_is_help=True)

#: Logs that are no worker's, and can be read by name.
_OTHER_LOGS = ("supervisor", "redis")


@app.command("start")
def start(
    profile: Annotated[
        str, typer.Argument(help="Which workers: minimal, full, datasets, jetson, or your own")
    ] = "minimal",
    timeout: Annotated[float, typer.Option(min=0, help="Wait at most so many seconds")] = fleet.START_PATIENCE_S,
) -> None:
    """Start the workers of a profile; returns when each has answered."""
    settings, wanted = session.current_settings(), load_profile(profile)
    session.connect_ledger(settings).now()  # a Redis that cannot be reached is said at once
    output.talk_over(f"Starting the profile {profile} …")
    try:
        ran = fleet.start(settings, wanted, _tell_step, timeout)
    except fleet.NeverAnswered as problem:
        output.talk_over("")
        for line in (problem.sentence, *(f"  | {line}" for line in problem.log_lines), f"  {problem.mend}"):
            output.talk(line)
        raise typer.Exit(int(Code.FAILED)) from problem
    finally:
        output.talk_over("")
    names = ", ".join(spec.name for spec in workers_of(wanted))
    already = " already" if len(ran) == len(workers_of(wanted)) else ""
    output.talk(f"The profile {profile} runs{already}: {names}.")


@app.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False) -> None:
    """Show the workers: whether they live, what they hold, what they do."""
    settings = session.current_settings()
    seen = read_workers(_ledger_if_there(settings), settings.places)
    if as_json:
        output.data_json(shapes.workers(seen))
    elif seen.workers:
        output.table(*tables.workers(seen.workers, seen.read_at or 0.0))
    for row in () if as_json else seen.workers or ():
        if row.state in ("fatal", "backoff"):
            output.talk(f"{row.name}: {row.last_exit}. See: mistudio workers logs {fleet.short_name(row.name)}")
    if not as_json and seen.workers == ():
        output.talk("No workers run. Start some: mistudio workers start")
    for trouble in () if as_json else seen.errors:
        output.talk(f"{trouble.part} could not be read: {trouble.message}")
    if seen.errors:
        raise typer.Exit(int(Code.UNREACHABLE))


@app.command("stop")
def stop(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these workers")] = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for running jobs: put them back at once")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also end the supervisor and the home's own Redis")] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for running jobs to finish before they are put back")
    ] = TERM_GRACE_S,
) -> None:
    """Stop workers. A job that does not finish in time is checkpointed and put back: the next worker resumes it."""
    if everything and names:
        raise typer.BadParameter("--all stops every worker; leave out the names")
    places, grace_s = session.current_settings().places, 0.0 if now else grace
    try:
        if everything:
            fleet.shutdown(places, _tell_step, grace_s)
        else:
            fleet.stop(places, [fleet.short_name(name) for name in names or ()], _tell_step, grace_s)
    except control.NotRunning:
        output.talk_over("")
        output.talk("No workers run.")
        return
    finally:
        output.talk_over("")
    output.talk("All is stopped." if everything else "The workers have stopped. What waits in the queues stays.")


@app.command("logs")
def logs(
    name: Annotated[str | None, typer.Argument(help="A worker, `supervisor` or `redis`; else all workers")] = None,
    lines: Annotated[int, typer.Option("-n", min=0, help="The last so many lines of each")] = 50,
    forever: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C")] = False,
) -> None:
    """Print what workers wrote."""
    places = session.current_settings().places
    found = _logs_of(places, fleet.short_name(name) if name is not None else None)
    width = max(map(len, found))
    for writer, line in follow(found, lines, forever=forever):
        output.data(f"{writer:<{width}} | {line}" if len(found) > 1 else line)


def _logs_of(places: Places, name: str | None) -> dict[str, Path]:
    there = {path.stem: path for path in sorted(places.logs.glob("*.log"))}
    found = {stem: path for stem, path in there.items() if (stem == name if name else stem not in _OTHER_LOGS)}
    if not found:
        what = f"no log of {name!r}" if name else "no log of a worker"
        raise NotFound(f"There is {what} on this machine.", f"Logs: {', '.join(there) or 'none yet'}")
    return found


def _ledger_if_there(settings: Settings) -> Ledger | None:
    """The ledger, without starting anything; None when the home's own Redis does not run."""
    if settings.broker_url is None and not redis_server.answers(settings.places):
        return None
    return Ledger(connect(settings.broker_url or redis_server.own_url(settings.places)))


def _tell_step(step: str) -> None:
    if sys.stderr.isatty():
        output.talk_over(step)
    else:
        output.talk(step)
