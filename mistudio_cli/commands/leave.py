"""`mistudio leave`: have this host share no Redis any more."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import session
from mistudio_cli.commands import workers
from mistudio_cli.fleet import joined_settings
from mistudio_cli.settings import redacted
from mistudio_cli.terminal import output

app = typer.Typer()


@app.command(help="Leave the shared Redis after running jobs have finished")
def leave(
    now: Annotated[bool, typer.Option("--now", help="Do not wait for running jobs: requeue them at once")] = False,
) -> None:
    """Drain and stop the workers of this home and restore the settings from before `join`. Safe to repeat."""
    places = session.current_settings().places
    if joined_settings.read(places) is None:
        output.talk("This host had not joined.")
        return
    workers.stop(now=now, drain=not now, everything=True)
    joined_settings.restore(places)
    url = session.current_settings().get("broker_url")  # where only a prefix was set before, there is none
    left = (
        "This host shares no Redis any more." if url is None else f"This host has left; its Redis is {redacted(url)}."
    )
    output.talk(f"{left} What its jobs have made stays in the shared store.")
