"""`mistudio submit KIND`: one command for each job kind, its flags derived from the kind's parameters."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import typer

from mistudio_cli import following, output, session, shapes
from mistudio_cli.errors import Code
from mistudio_cli.finding import find_jobs
from tasks.job import Job, JobKind, State, kinds
from tasks.queues import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY

app = typer.Typer(help="Submit a job", no_args_is_help=True)


@app.callback()
def noun() -> None:
    """Submit a job; each kind has its own flags (mistudio submit KIND --help)."""


#: The flags every kind has.
_COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str | None, typer.Option(None, help="Name of the artifact; by default it follows from the parameters")),
    "priority": (
        int,
        typer.Option(
            DEFAULT_PRIORITY, min=LOWEST_PRIORITY, max=HIGHEST_PRIORITY, help="The highest is served first in its queue"
        ),
    ),
    "after": (list[str] | None, typer.Option(None, metavar="ID", help="Start after this job; may be repeated")),
    "wait": (bool, typer.Option(False, "--wait", help="Wait until it has ended; fails unless it succeeded")),
    "json": (bool, typer.Option(False, "--json", help="As JSON")),
}


def submit(kind: JobKind, values: dict[str, Any]) -> None:
    """Submit one job of that kind, with the flags as they were given, and say what was submitted."""
    from tasks.store import Store
    from tasks.submit import submit as submit_job

    common = {name: values.pop(name) for name in _COMMON}
    settings = session.current_settings()
    ledger = session.connect_ledger(settings, supervise=True)
    after = [job.id for job in find_jobs(ledger, common["after"] or ())]
    *before, job = submit_job(
        ledger,
        Store(settings.places.store),
        kind.name,
        values,
        name=common["name"],
        priority=common["priority"],
        after=after,
    )
    if not common["json"]:
        _tell(job, before)
    if common["wait"]:
        (job,) = following.wait_for(ledger, [job.id])
        output.talk(f"{job.id} {job.state}{following.why(job)}")
    if common["json"]:
        output.data_json(shapes.submitted(job, before))
    if job.state.ended and job.state is not State.SUCCEEDED:
        raise typer.Exit(int(Code.FAILED))


def _tell(job: Job, before: list[Job]) -> None:
    for earlier in before:
        output.data(f"{earlier.id} {earlier.kind} {earlier.name} in {earlier.queue}, needed first")
    output.data(f"{job.id} {job.kind} {job.name} in {job.queue}")
    output.talk(f"Watch it: mistudio jobs wait {job.id}")


def _register(kind: JobKind) -> None:
    def command(**values: Any) -> None:
        submit(kind, values)

    types = typing.get_type_hints(kind.params)
    derived = {spec.name: (types[spec.name], _flag(spec, types[spec.name])) for spec in dataclasses.fields(kind.params)}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in {**derived, **_COMMON}.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(kind.name, help=kind.summary, short_help=kind.summary)(command)


def _flag(spec: dataclasses.Field[Any], annotation: Any) -> Any:
    """The flag or argument of one parameter; its bounds are checked where all requests are, at submit."""
    told = spec.metadata
    required = spec.default is dataclasses.MISSING
    default = ... if required else spec.default
    about: dict[str, Any] = {"help": _help(told)}
    if told.get("choices"):
        about["metavar"] = "|".join(told["choices"])
    if told.get("positional"):
        return typer.Argument(default, **{"metavar": spec.name.upper(), **about})
    flag = "--" + spec.name.replace("_", "-")
    if annotation is bool:
        return typer.Option(default, f"{flag}/--no-{flag[2:]}", **about)
    return typer.Option(default, flag, **about)


def _help(told: typing.Mapping[str, Any]) -> str:
    least = "" if told.get("minimum") is None else f" (at least {told['minimum']:g})"
    return told["help"] + least


for _kind in kinds().values():
    _register(_kind)
