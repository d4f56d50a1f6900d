"""`mistudio submit KIND`: one command for each job kind, its flags derived from the kind's parameters."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

import typer

from mistudio_cli import submitting
from mistudio_cli.submitting import FLAGS, Manner
from tasks.job import JobKind, kinds, types_of
from tasks.sweep import Swept, can_be_swept

app = typer.Typer(help="Submit a job", no_args_is_help=True)

#: The flags of every kind.
_COMMON: dict[str, tuple[Any, Any]] = {
    "name": (str | None, typer.Option(None, help="Name of the artifact; by default it follows from the parameters")),
    **FLAGS,
}


@app.callback()
def noun() -> None:
    """Submit a job; each kind has its own flags (mistudio submit KIND --help).

    Numbers and choices may be several, with commas (--k 16,32,64): one job for each combination.
    """


def submit(kind: JobKind, values: dict[str, Any]) -> None:
    """Submit one job of that kind, or those of a sweep, with the flags as they were given."""
    from tasks.ledger import new_job_id
    from tasks.submit import plan
    from tasks.sweep import plan_sweep, swept_options

    name = values.pop("name")
    manner = Manner(**{flag: values.pop(flag) for flag in FLAGS})
    known = manner.open()
    if not swept_options(values):
        jobs = plan(known, kind.name, values, name=name, wishes=manner.wishes(known))
        submitting.carry_out(known, jobs, manner)
        return
    tag = f"sweep:{new_job_id()}"
    jobs = plan_sweep(known, kind, values, name=name, wishes=manner.wishes(known, tag))
    submitting.carry_out(known, jobs, manner, tag)


def _register(kind: JobKind) -> None:
    def command(**values: Any) -> None:
        submit(kind, values)

    types = typing.get_type_hints(kind.params)
    derived = {spec.name: _parameter(spec, kind.params, types[spec.name]) for spec in dataclasses.fields(kind.params)}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in {**derived, **_COMMON}.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(kind.name, help=kind.summary, short_help=kind.summary)(command)


def _parameter(spec: dataclasses.Field[Any], params: type, annotation: Any) -> tuple[Any, Any]:
    """Type and flag or argument of one parameter; its bounds are checked where all requests are, at submit."""
    told = spec.metadata
    default = ... if spec.default is dataclasses.MISSING else spec.default
    about: dict[str, Any] = {"help": _help(told)}
    if told.get("positional"):
        return annotation, typer.Argument(default, **{"metavar": spec.name.upper(), **about})
    flag = "--" + spec.name.replace("_", "-")
    if annotation is bool:
        return annotation, typer.Option(default, f"{flag}/--no-{flag[2:]}", **about)
    if can_be_swept(spec, params):
        of = next(of for of in (float, int, str) if of in types_of(params)[spec.name])
        about |= {"metavar": f"{'|'.join(told.get('choices') or [f'<{of.__name__}>'])},...", "parser": _several(of)}
        return Any, typer.Option(default, flag, **about)
    return annotation, typer.Option(default, flag, **about)


def _several(of: type) -> Callable[[Any], Any]:
    """What reads one value of that type, or several with commas."""

    def read(told: Any) -> Any:
        if not isinstance(told, str):  # the default
            return told
        values = [_read(word.strip(), of) for word in told.split(",")]
        if len(set(values)) < len(values):
            raise typer.BadParameter(f"{told!r} names a value twice.")
        return Swept(values) if len(values) > 1 else values[0]

    return read


def _read(word: str, of: type) -> Any:
    try:
        return of(word)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is not a valid {of.__name__}.") from None


def _help(told: typing.Mapping[str, Any]) -> str:
    least = "" if told.get("minimum") is None else f" (at least {told['minimum']:g})"
    return told["help"] + least


for _kind in kinds().values():
    _register(_kind)
