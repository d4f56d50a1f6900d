"""`mistudio top`: everything at a glance, live."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import session
from mistudio_cli.errors import Code
from mistudio_cli.redis.probe import PATIENCE_S
from mistudio_cli.settings import Settings
from mistudio_cli.terminal import output
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.settings import current

if TYPE_CHECKING:
    from mistudio_cli.monitor.collector.collector import Collector
    from mistudio_cli.monitor.snapshot import Snapshot
    from mistudio_cli.top.actions import Actions
    from mistudio_cli.top.details.reader import ReadDetails

app = typer.Typer()

_SHORTEST_S, _LONGEST_S = 0.2, 60.0

#: A live view takes figures of memory, which are slow to read, up to this old.
_MEMORY_AGE_S = 5.0


@app.command(help="Watch queues, jobs, workers and GPUs, and act on them; ? lists the keys")
def top(
    once: Annotated[bool, typer.Option("--once", help="Print once and exit")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, once")] = False,
    as_lines: Annotated[bool, typer.Option("--jsonl", help="As one JSON object per interval, until Ctrl-C")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between readings (0.2 to 60)")] = 1.0,
    mouse: Annotated[bool, typer.Option("--mouse/--no-mouse", help="React to clicks and the mouse wheel")] = True,
) -> None:
    """Watch queues, jobs, workers, devices and this machine; prints once if not on a terminal."""
    if not _SHORTEST_S <= interval <= _LONGEST_S:  # nan is neither less nor more
        raise UserError(f"--interval must be {_SHORTEST_S:g} to {_LONGEST_S:g} seconds.", "For instance: --interval 2")
    settings = session.current_settings()
    is_live = not (once or as_json or as_lines) and sys.stdout.isatty()
    patience_s = PATIENCE_S if is_live else current("read_patience")
    ledger = session.connect_ledger(settings, timeout_s=patience_s, must_answer=False)
    if as_lines and not (once or as_json):
        _print_lines(ledger, settings, interval)
    elif is_live:
        _show(ledger, settings, interval, mouse=mouse)
    else:
        _print_once(ledger, settings, as_json=as_json or as_lines, indent=None if as_lines else 2)


def _show(ledger: Ledger, settings: Settings, interval_s: float, *, mouse: bool) -> None:
    """The live screen, or plain text again and again on a terminal without cursor addressing."""
    from mistudio_cli.top import live
    from mistudio_cli.top.tty.terminal import abilities

    def connect(lasts: bool) -> Ledger:
        return session.connect_ledger(settings, supervise=lasts, timeout_s=PATIENCE_S)

    @cache
    def collector() -> Collector:
        from mistudio_cli.monitor.collector.collector import LASTING_PARTS, Collector
        from mistudio_cli.monitor.collector.sources import JUDGED

        return Collector(lambda: ledger, settings.places, LASTING_PARTS, wanted=JUDGED, memory_age_s=_MEMORY_AGE_S)

    def read() -> Snapshot:
        return collector().collect()

    def open_actions() -> Actions:
        from mistudio_cli.top.actions import Actions

        return Actions(connect, settings.places.store)

    def open_details() -> ReadDetails:
        from mistudio_cli.top.details.read import DetailsSource

        return DetailsSource(connect, settings.places).read

    able = abilities(os.environ.get("TERM", ""), sys.stdout.fileno())
    if not able.is_addressed:
        from mistudio_cli.top.plain_text import show_plainly

        show_plainly(read, interval_s)
        return
    able = replace(able, has_mouse=able.has_mouse and mouse)
    live.show(read, open_details, open_actions, able, interval_s)


def _print_lines(ledger: Ledger, settings: Settings, interval_s: float) -> None:
    """Everything as one line of JSON at each interval, also when something cannot be read."""
    from mistudio_cli.monitor.collector.collector import Collector
    from mistudio_cli.views import json_shapes

    collector = Collector(lambda: ledger, settings.places)
    while True:
        began = time.monotonic()
        output.data_json(json_shapes.everything(collector.collect_once()), indent=None)
        time.sleep(max(0.0, interval_s - (time.monotonic() - began)))


def _print_once(ledger: Ledger, settings: Settings, *, as_json: bool, indent: int | None) -> None:
    """Everything once; UNREACHABLE is the exit code when the ledger could not be read."""
    from mistudio_cli.monitor.snapshot import read_all
    from mistudio_cli.views import json_shapes

    seen = read_all(ledger, settings.places, is_judged=not as_json)
    if as_json:
        output.data_json(json_shapes.everything(seen), indent=indent)
    else:
        _print(seen)
    if seen.read_at is None:
        raise typer.Exit(int(Code.UNREACHABLE))


def _print(seen: Snapshot) -> None:
    import socket

    from mistudio_cli.views import host_tables, tables

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
        output.table(*tables.devices_with_holders(seen))
    remote = host_tables.remote_gpus(seen.hosts or (), seen.leases, socket.gethostname())
    if remote[1]:
        output.data("")
        output.table(*remote)
    if seen.devices is not None and (limit := seen.devices.limit or seen.devices.reason):
        output.data(f"\nGPU: {limit}")
    if seen.jobs:
        output.data("")
        output.table(*tables.live_jobs(tables.most_alive_first(seen.jobs), now))
    if seen.next:
        output.talk("There are older jobs: mistudio jobs ls")
    for trouble in seen.errors:
        output.talk(f"{trouble.part} could not be read: {trouble.message}")
    _print_alarms(seen)


def _print_alarms(seen: Snapshot) -> None:
    """What is wrong by what was read; parts that could not be read have been named."""
    from mistudio_cli.monitor.health.causes import health_of

    for cause in health_of(seen).causes:
        if cause.part is None:
            output.talk(f"! {cause.sentence}" + (f" ({cause.command})" if cause.command else ""))
