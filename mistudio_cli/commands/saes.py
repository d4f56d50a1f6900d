"""`mistudio saes`: the SAEs of the store; short forms of the jobs that bring them in and send them out."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.commands import submit
from mistudio_cli.terminal import output
from mistudio_cli.views import sae_tables
from tasks.jobs.kind import kind_named
from tasks.storage.store import Store

app = typer.Typer(help="List, import, export, push and pull SAEs", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As JSON")]

#: Kinds of job that are verbs here as well, with the same flags.
SHORT_FORMS = ("import", "export", "push", "pull")


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List SAEs in the store."""
    found, damaged = sae_tables.listed(_store())
    if as_json:
        output.data_json(
            {"saes": found, "errors": [{"part": sae_tables.FAMILY, "message": str(one)} for one in damaged]}
        )
        return
    output.table(*sae_tables.table(found))
    for malformed in damaged:
        output.talk(str(malformed))
    if not found and not damaged:
        output.talk(
            "There are none. Train one: mistudio submit train --help; or take one in: mistudio saes import --help"
        )


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="An SAE's name", autocompletion=completion.of(completion.artifacts("saes"))
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show an SAE in full: configuration, provenance, evaluation, files."""
    details = sae_tables.shown(_store(), name)
    if as_json:
        output.data_json(details)
        return
    output.table(*sae_tables.facts(details), wrap=True)


def _store() -> Store:
    return Store(session.current_settings().places.store)


for _kind in SHORT_FORMS:
    submit.register(app, kind_named(_kind))
