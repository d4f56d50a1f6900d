"""`mistudio config`: what is set, and who said so."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from mistudio_cli import output, session
from mistudio_cli.redis_server import own_url
from mistudio_cli.settings import SETTINGS, Settings, Value, config_file, redacted

app = typer.Typer(help="See which settings are in force", no_args_is_help=True)


@app.callback()
def noun() -> None:
    """Keep `show` a subcommand though it is the only one."""


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False) -> None:
    """Show each setting, its value and where it comes from: flag, environment, file or default."""
    settings = session.current_settings()
    values = [_effective(value, settings) for value in settings.values]
    if as_json:
        told = [{"name": v.name, "value": _shown(v), "origin": v.origin} for v in values]
        output.data_json({"file": str(config_file()), "settings": told})
        return
    variables = {setting.name: setting.variable for setting in SETTINGS}
    rows = [[value.name, value.origin, variables[value.name], _shown(value) or "-"] for value in values]
    output.table(["SETTING", "ORIGIN", "VARIABLE", "VALUE"], rows)
    output.talk(f"Settings file: {config_file()}{'' if config_file().is_file() else ' (there is none)'}")


def _effective(value: Value, settings: Settings) -> Value:
    """The value with what an unset one comes to."""
    if value.value is not None:
        return value
    own = settings.broker_url or own_url(settings.places)
    meant = {"store": str(settings.places.store), "broker_url": own, "result_backend": own}
    return replace(value, value=meant[value.name])


def _shown(value: Value) -> str | None:
    return redacted(value.value) if value.value and "://" in value.value else value.value
