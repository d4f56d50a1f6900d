"""`mistudio submit KIND`: one command for each job kind, its flags derived from the kind's parameters."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mistudio_cli import completion
from mistudio_cli.fleet import replication
from mistudio_cli.jobs.new_home import EmptyLedger
from mistudio_cli.submission import options
from mistudio_cli.submission.options import FLAGS, RequestFault, SubmitFlags
from mistudio_cli.terminal import output
from mistudio_cli.views import json_shapes
from tasks.errors import UserError
from tasks.jobs.grid import Swept, can_be_swept
from tasks.jobs.kind import JobKind, flag_of, kinds, types_of
from tasks.jobs.record import Job
from tasks.parsing.parameters import read_number
from tasks.redis_client.redis_connection import Refused, Unable

if TYPE_CHECKING:
    from mistudio_cli.submission.bulk import PlannedLine

app = typer.Typer(help="Submit a job", no_args_is_help=True)

#: The flags of every kind.
_COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str | None, typer.Option(None, help="Name of the artifact; default: derived from the parameters")),
    **FLAGS,
}


@app.callback()
def noun() -> None:
    """Submit a job; each kind has its own flags (mistudio submit KIND --help).

    Numbers and choices may be several, with commas (--k 16,32,64): one job for each combination.
    """


def submit(kind: JobKind, values: dict[str, Any]) -> None:
    """Submit one job of that kind, or those of a sweep, with the flags as they were given."""
    from tasks.jobs.job_id import new_job_id
    from tasks.submission.plan import plan
    from tasks.submission.sweep import plan_sweep, put_together, swept_options

    name = values.pop("name")
    for option in _gathering(kind):
        values = put_together(values, option) if values.pop(option) else values
    flags = options.read_flags(values)
    known = flags.open()
    if not swept_options(values):
        jobs = plan(known, kind.name, values, name=name, submit_options=flags.submit_options(known))
        options.carry_out(known, jobs, flags)
        return
    tag = f"sweep:{new_job_id()}"
    jobs = plan_sweep(known, kind, values, name=name, submit_options=flags.submit_options(known, tag))
    options.carry_out(known, jobs, flags, tag)


def submit_pipeline(recipe: Path | None, settings: list[str] | None, example: bool, flags: SubmitFlags) -> None:
    """Submit the jobs of a pipeline file, or report all its errors."""
    from mistudio_cli.submission.pipeline import plan_recipe
    from mistudio_cli.submission.pipeline_example import example as text_of_example
    from mistudio_cli.submission.pipeline_file import read_recipe

    if example:
        output.data(text_of_example().rstrip("\n"))
        return
    if recipe is None:
        raise UserError("A pipeline needs a recipe.", "See one: mistudio submit pipeline --example")
    read = read_recipe(recipe, settings or ())
    known, tag = flags.open(), f"pipeline:{read.name}"
    planned = plan_recipe(known, read, flags.submit_options(known, tag))
    options.refuse(planned.faults)
    for artifact in planned.reused:
        output.talk(f"{artifact} is there, or on its way, as asked for.")
    options.carry_out(known, planned.jobs, flags, tag)


def submit_many(file: str, flags: SubmitFlags, *, again: bool = False) -> None:
    """Submit one job per line of a JSON Lines file, or report all its errors."""
    from mistudio_cli.submission.bulk import plan_lines, read_lines, submit_lines
    from tasks.ledger.quotas import refuse_beyond_quota
    from tasks.submission.fixed_ids import first_id, noted_id

    texts, known, done = read_lines(file), flags.open(), 0
    submit_options = flags.submit_options(known)
    is_new = isinstance(known.ledger, EmptyLedger)
    if is_new and not flags.dry_run:
        options.refuse(plan_lines(known, texts, file, submit_options)[1])  # before anything is started
        known = options.opened_to_change(known)
    if flags.dry_run:
        first = None if again or is_new else noted_id(known.ledger, texts, submit_options)
    else:
        first = first_id(known.ledger, texts, submit_options, again=again)
    lines, faults = plan_lines(known, texts, file, submit_options, first)
    options.refuse(faults)
    if flags.dry_run:
        options.carry_out(known, [job for line in lines if not line.is_there for job in line.jobs], flags)
        output.talk(_repeat(sum(line.is_there for line in lines), 0).strip())
        return
    refuse_beyond_quota(known.ledger.client, known.owner, sum(len(line.jobs) for line in lines if not line.is_there))
    late: list[RequestFault] = []
    unreplicated: list[Job] = []
    failure: Exception | None = None
    before = sum(line.is_there for line in lines)
    try:
        for batch in submit_lines(known, lines):
            accepted = [line for line, outcome in batch if outcome is None]
            late += [
                RequestFault(f"{file}:{line.number}", fault) for line, fault in batch if isinstance(fault, UserError)
            ]
            failure = next((fault for _, fault in batch if isinstance(fault, Unable | Refused)), None)
            done += len(accepted)
            replicated = known.ledger.replicated
            if replicated is False:
                unreplicated += [line.jobs[-1] for line in accepted if not line.is_there]
            output.styled("\n".join(_receipt(line, replicated, as_json=flags.json) for line in accepted))
    finally:
        if unreplicated:
            replication.warn(unreplicated)
        were = "line was" if len(lines) == 1 else "lines were"
        output.talk(f"{done} of {len(lines)} {were} submitted.{_repeat(before, len(lines) - done - len(late))}")
    options.refuse(late)
    if failure is not None:
        raise failure


def _repeat(before: int, missing: int) -> str:
    """What to know of a file that was submitted before, or in part."""
    if missing:
        return " The same command submits the rest, and no line twice."
    if not before:
        return ""
    return f" {before} of them had been before; --again submits {'it' if before == 1 else 'them'} once more."


def _receipt(line: PlannedLine, replicated: bool | None, *, as_json: bool) -> str:
    *before, job = line.jobs
    if as_json:
        return output.json_text(json_shapes.submitted_line(line.number, job, before, replicated))
    return f"{job.id} {job.kind} {job.name} in {job.queue}"


def _register_many() -> None:
    def command(**values: Any) -> None:
        file, again = values.pop("file"), values.pop("again")
        submit_many(file, options.read_flags({**values, "wait": False}), again=again)

    own: dict[str, tuple[Any, Any]] = {
        "file": (str, typer.Argument(metavar="FILE", help="JSON Lines file, one job per line; - for standard input")),
        "again": (bool, typer.Option(False, "--again", help="Submit lines that were submitted before too")),
    }
    flags = {name: flag for name, flag in FLAGS.items() if name != "wait"}
    options.give_flags(command, {**own, **flags, "json": (bool, typer.Option(False, "--json", help="As JSON lines"))})
    about = "Submit a job for each line of a file"
    app.command("many", help=about, short_help=about)(command)


def _register_pipeline() -> None:
    def command(**values: Any) -> None:
        recipe, settings, example = values.pop("recipe"), values.pop("set"), values.pop("example")
        submit_pipeline(recipe, settings, example, options.read_flags(values))

    own = {
        "recipe": (Path | None, typer.Argument(None, metavar="RECIPE", help="Pipeline file (TOML)")),
        "set": (list[str] | None, typer.Option(None, metavar="KEY=VALUE", help="Override a variable; may be repeated")),
        "example": (bool, typer.Option(False, "--example", help="Print an example pipeline")),
    }
    options.give_flags(command, {**own, **FLAGS})
    about = "Submit the steps of a recipe, each of which waits for what it needs"
    app.command("pipeline", help=about, short_help=about)(command)


def register(target: typer.Typer, kind: JobKind) -> None:
    """Make the kind a command of `target`, under its name, with a flag for each of its parameters."""

    def command(**values: Any) -> None:
        submit(kind, values)

    types = typing.get_type_hints(kind.params)
    derived = {spec.name: _parameter(spec, kind.params, types[spec.name]) for spec in dataclasses.fields(kind.params)}
    options.give_flags(command, {**derived, **_COMMON})
    target.command(kind.name, help=kind.summary, short_help=kind.summary)(command)


def _gathering(kind: JobKind) -> list[str]:
    """The options, one or none, that take those with several values."""
    return [name for name, types in types_of(kind.params).items() if dict in types]


def _parameter(spec: dataclasses.Field[Any], params: type, annotation: Any) -> tuple[Any, Any]:
    """Type and flag or argument of one parameter; its bounds are checked where all requests are, at submit."""
    metadata = spec.metadata
    default = ... if spec.default is dataclasses.MISSING else spec.default
    about: dict[str, Any] = {"help": _help(metadata), "autocompletion": _completion(metadata)}
    words = "|".join(metadata.get("choices") or ())
    if metadata.get("positional"):
        return annotation, typer.Argument(default, **{"metavar": spec.name.upper(), **about})
    flag = flag_of(spec.name, params)
    if dict in types_of(params)[spec.name]:
        return bool, typer.Option(False, flag, **about)
    if bool in types_of(params)[spec.name]:
        return annotation, typer.Option(default, f"{flag}/--no-{flag[2:]}", **about)
    if can_be_swept(spec, params):
        of = next(of for of in (float, int, str) if of in types_of(params)[spec.name])
        about |= {"metavar": f"{words or f'<{of.__name__}>'},...", "parser": _several(of)}
        return Any, typer.Option(default, flag, **about)
    of_number = next((of for of in (float, int) if of in types_of(params)[spec.name]), None)
    if of_number is not None:
        about |= {"metavar": f"<{of_number.__name__}>", "parser": _one(of_number)}
        return Any, typer.Option(default, flag, **about)
    return annotation, typer.Option(default, flag, metavar=words or None, **about)


def _completion(metadata: typing.Mapping[str, Any]) -> Callable[[str], list[Any]] | None:
    """What TAB offers: the words that a parameter may be, or the artifacts of the family that it names."""
    if metadata.get("choices"):
        return completion.of(lambda: metadata["choices"])
    return completion.of(completion.artifacts(metadata["artifact"])) if metadata.get("artifact") else None


def _one(of: type) -> Callable[[Any], Any]:
    """What reads a number of that type; a default is one already."""
    return lambda value: _read(value.strip(), of) if isinstance(value, str) else value


def _several(of: type) -> Callable[[Any], Any]:
    """What reads one value of that type, or several with commas."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):  # the default
            return value
        values = [_read(word.strip(), of) for word in value.split(",")]
        if len(set(values)) < len(values):
            raise typer.BadParameter(f"{value!r} names a value twice.")
        return Swept(values) if len(values) > 1 else values[0]

    return read


def _read(word: str, of: type) -> Any:
    try:
        return word if of is str else read_number(word, of)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is not a valid {of.__name__}.") from None


def _help(metadata: typing.Mapping[str, Any]) -> str:
    least, most = metadata.get("minimum"), metadata.get("maximum")
    if least is None:
        return metadata["help"]
    return metadata["help"] + (f" (at least {least:g})" if most is None else f" ({least:g} to {most:g})")


_register_pipeline()
_register_many()
for _kind in kinds().values():
    register(app, _kind)
