"""`mistudio top`: everything at a glance, live."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from mistudio_cli import session
from mistudio_cli.errors import Code
from mistudio_cli.monitor.snapshot import Snapshot, read_all
from mistudio_cli.redis.probe import PATIENCE_S
from mistudio_cli.terminal import output
from mistudio_cli.views import json_shapes, live, tables

app = typer.Typer()

#: A live view takes figures of memory, which are slow to read, up to this old.
_MEMORY_AGE_S = 5.0


@app.command(help="Watch queues, jobs, workers and devices; q quits")
def top(
    once: Annotated[bool, typer.Option("--once", help="Print once and exit")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, once")] = False,
) -> None:
    """Watch queues, jobs, workers, devices and this machine; prints once if not on a terminal."""
    settings = session.current_settings()
    ledger = session.connect_ledger(settings, timeout_s=PATIENCE_S, must_answer=False)
    if not (once or as_json) and sys.stdout.isatty():
        live.show(lambda: read_all(ledger, settings.places, memory_age_s=_MEMORY_AGE_S))
        return
    seen = read_all(ledger, settings.places)
    if as_json:
        output.data_json(json_shapes.everything(seen))
    else:
        _print(seen)
    if seen.read_at is None:
        raise typer.Exit(int(Code.UNREACHABLE))


def _print(seen: Snapshot) -> None:
    if seen.host is not None:
        output.data(tables.host(seen.host))
    now = seen.read_at or time.time()
    if seen.queues is not None:
        output.data("")
        output.table(*tables.queues(seen.queues))
    if seen.workers:
        output.data("")
        output.table(*tables.workers(seen.workers, now))
    if seen.devices is not None and seen.devices.devices:
        output.data("")
        output.table(*live.devices_table(seen))
    if seen.devices is not None and (limit := seen.devices.limit or seen.devices.reason):
        output.data(f"\nGPU: {limit}")
    if seen.jobs:
        output.data("")
        output.table(*tables.live_jobs(tables.most_alive_first(seen.jobs), now))
    if seen.next:
        output.talk("There are older jobs: mistudio jobs ls")
    for trouble in seen.errors:
        output.talk(f"{trouble.part} could not be read: {trouble.message}")
