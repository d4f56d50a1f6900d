"""`mistudio queue`: what waits and runs in each queue."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import output, session, shapes, tables
from mistudio_cli.snapshot import read_queues

app = typer.Typer(help="See what waits and runs in each queue", no_args_is_help=True)


@app.callback()
def noun() -> None:
    """Keep `ls` a subcommand though it is the only one."""


@app.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False) -> None:
    """List the queues, the most urgent first."""
    read = read_queues(session.connect_ledger(session.current_settings()))
    if as_json:
        output.data_json(shapes.queues(read))
        return
    output.table(*tables.queues(read.queues or ()))
    deserted = [row.name for row in read.queues or () if row.pending and not row.consumers]
    if deserted:
        output.talk(f"Nobody works on {', '.join(deserted)}: mistudio workers start full")
