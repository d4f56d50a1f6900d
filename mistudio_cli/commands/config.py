"""`mistudio config`: the settings in force, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import typer

from mistudio_cli import session
from mistudio_cli.fleet import settings_file
from mistudio_cli.redis.redis_server import own_url
from mistudio_cli.settings import Settings, redacted
from mistudio_cli.terminal import output
from tasks.jobs import kind_settings
from tasks.jobs.kind import kinds
from tasks.settings import KINDS, Value, config_file, setting_named, value_text

app = typer.Typer(help="Show and change settings", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Such as keep_jobs, or kinds.tokenize.priority")]
JsonFlag = Annotated[bool, typer.Option("--json", help="As JSON")]


@app.command("show")
def show(as_json: JsonFlag = False) -> None:
    """Show each setting, its value and its origin: flag, environment, file or default."""
    values = list(_all())
    if as_json:
        output.data_json({"file": str(config_file()), "settings": [_shape(value) for value in values]})
        return
    rows = [[value.name, value.origin, _text(value)] for value in values if _is_worth_a_row(value)]
    output.table(["SETTING", "ORIGIN", "VALUE"], rows, wrap=True)
    output.talk(f"Settings file: {config_file()}{'' if config_file().is_file() else ' (there is none)'}")
    output.talk(f"Settings of kinds that are not shown have their defaults. One: mistudio config get {KINDS}.KIND.KEY")


@app.command("get")
def get(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Print the value of one setting."""
    settings_file.type_of(name)
    value = next(value for value in _all() if value.name == name)
    if as_json:
        output.data_json(_shape(value))
    else:
        output.data(_text(value))


@app.command("set")
def set_(name: NameArgument, value: Annotated[str, typer.Argument(help="Its new value")]) -> None:
    """Write a setting into the settings file. Running workers keep their settings until they are restarted."""
    settings_file.set_value(name, value)
    output.talk(f"{name} is set in {config_file()}")


@app.command("unset")
def unset(name: NameArgument) -> None:
    """Remove a setting from the settings file."""
    was_there = settings_file.unset_value(name)
    output.talk(f"{name} is {'no longer' if was_there else 'not'} set in {config_file()}")


@app.command("path")
def path() -> None:
    """Print the path of the settings file."""
    output.data(str(config_file()))


def _all() -> Iterator[Value]:
    settings = session.current_settings()
    for value in settings.values:
        yield _effective(value, settings)
    for kind in kinds().values():
        yield from kind_settings.values_of(kind)


def _effective(value: Value, settings: Settings) -> Value:
    """The value with what an unset one amounts to, and of a folder the one that is meant."""
    if value.name in ("home", "store"):
        return replace(value, value=str(getattr(settings.places, value.name)))
    meant = {
        "broker_url": lambda: own_url(settings.places),
        "result_backend": lambda: settings.get("broker_url") or own_url(settings.places),
    }
    return replace(value, value=meant[value.name]()) if value.value is None and value.name in meant else value


def _is_worth_a_row(value: Value) -> bool:
    return not _is_of_a_kind(value) or value.origin != "default"


def _is_of_a_kind(value: Value) -> bool:
    return value.name.startswith(f"{KINDS}.")


def _text(value: Value) -> str:
    """A value as a person reads it: without passwords, and what happens where there is none."""
    if _is_of_a_kind(value):
        return kind_settings.value_text(value)
    setting = setting_named(value.name)
    if value.value is None:
        return setting.default_text
    if setting.is_secret:
        return "***"
    text = value_text(setting, value.value)
    return redacted(text) if "://" in text else text


def _shape(value: Value) -> dict[str, Any]:
    """Keys of docs/json.md."""
    return {"name": value.name, "value": None if value.value is None else _text(value), "origin": value.origin}
