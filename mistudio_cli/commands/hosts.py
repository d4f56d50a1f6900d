"""`mistudio hosts`: the machines of the fleet, as their supervisors report them."""

from __future__ import annotations

from typing import Annotated

import typer

from mistudio_cli import completion, session
from mistudio_cli.error_messages import unread_as_json
from mistudio_cli.monitor import hosts
from mistudio_cli.monitor.hosts import clock_fault
from mistudio_cli.terminal import output
from mistudio_cli.views import host_json, host_tables, tables

app = typer.Typer(help="List the hosts on this Redis: workers, load, GPUs, store, clock", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="As JSON")]


@app.command("ls")
def ls(as_json: Json = False) -> None:
    """List the hosts. One without heartbeats is silent, and listed for 10 minutes."""
    with unread_as_json({"hosts": None}, as_json=as_json):
        fleet = hosts.read_fleet(session.connect_ledger(session.current_settings()))
    if as_json:
        output.data_json({**host_json.hosts(fleet), "errors": []})
        return
    output.table(*host_tables.hosts(fleet.hosts))
    for row in fleet.hosts:
        _report_clock(row)
    if not fleet.hosts:
        output.talk("No host sends heartbeats. Start workers on one: mistudio workers start")


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A host's name", autocompletion=completion.of(completion.hosts))
    ],
    as_json: Json = False,
) -> None:
    """Show one host: its supervisors, its workers, its GPUs with the jobs that lease them, its store."""
    fleet = hosts.read_fleet(session.connect_ledger(session.current_settings()))
    row = fleet.need(name)
    if as_json:
        output.data_json(host_json.host_in_full(fleet, row))
        return
    output.table(*host_tables.facts(row, fleet.read_at), wrap=True)
    if workers := fleet.workers_on(row):
        output.data("")
        output.table(*tables.workers(workers, fleet.read_at))
    if row.newest is not None and row.newest.gpus:
        output.data("")
        output.table(*host_tables.gpus(fleet, row, row.newest.gpus))
    _report_clock(row)


def _report_clock(row: hosts.HostRow) -> None:
    """Say on standard error what is wrong with the clock of a host."""
    fault = clock_fault(row.newest) if row.newest is not None else None
    if fault is not None:
        output.talk(fault)
