"""`mistudio join`: make this host one of those that share a Redis and a store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.commands import workers
from mistudio_cli.fleet import joined_settings, membership, supervisor_client
from mistudio_cli.profile.rules import load_profile
from mistudio_cli.terminal import output
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import connect
from tasks.redis_client.redis_url import with_prefix

app = typer.Typer()


@app.command(help="Join this host to a shared Redis and store")
def join(
    url: Annotated[
        str, typer.Argument(help="The shared Redis, redis://lab-server:6379/0 or sentinel://…, without a password")
    ],
    store: Annotated[
        str | None, typer.Option(help="Folder where this host sees the shared store; else the setting `store`")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="Profile of workers to start on this host", autocompletion=completion.of(completion.profiles)
        ),
    ] = "full",
    password_file: Annotated[Path | None, typer.Option(help="File with the Redis password; default: prompt")] = None,
) -> None:
    """Check Redis and store, save them in the settings, start workers. Safe to repeat."""
    load_profile(profile)  # one that does not exist is said before anything else
    place = None if store is None else membership.check_place_of_store(store)
    full_url = membership.resolve_url(url, password_file, lambda: typer.prompt("Password of Redis", hide_input=True))
    settings = session.current_settings()
    places, prefix = settings.places, settings.get("prefix")
    if prefix:
        full_url = with_prefix(full_url, prefix)
    with closing(Ledger(connect(full_url))) as ledger:
        session.check_rights(ledger)
        membership.check_store(ledger, place or places.store)
    wanted = membership.settings_to_write(full_url, place, prefix)
    supervisor_client.check_broker(places, full_url)
    with joined_settings.written(places, wanted):
        workers.start(profile)
    output.talk("This host has joined. All workers: mistudio workers status. To leave: mistudio leave")
