"""What is read of one row for its details; what fails is said there, beside the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_cli.terminal import output
from mistudio_cli.terminal.humanize import UNKNOWN, one_line
from mistudio_cli.terminal.layout import lay_out
from mistudio_cli.top.details.charts import Chart
from mistudio_cli.top.details.lines import Block, Details, text_block
from mistudio_cli.top.details.processes import describe_job_processes, describe_process
from mistudio_cli.top.foreign_workers import foreign_rows
from mistudio_cli.views import host_tables, tables
from tasks.jobs.record import Job, MetricPoint
from tasks.ledger.client import Ledger

if TYPE_CHECKING:
    from mistudio_cli.jobs.log_sources import JobLog
    from mistudio_cli.top.reading import Parts
    from tasks.accelerators.card_processes import CardProcess
    from tasks.paths import Places

_LOG_LINES, _PEEKED, _CHARTS = 200, 200, 3

#: The curves that are drawn before others.
_CURVES = ("loss", "l0", "fvu")


class DetailsSource:
    """Reads details over a connection of its own, which is opened when the first are."""

    def __init__(self, connect: Callable[[bool], Ledger], places: Places) -> None:
        self._connect, self._places = connect, places
        self._ledger: Ledger | None = None
        self._log: JobLog | None = None
        self._log_lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._attempt = 0

    def read(self, pane: str, row: str, parts: Parts) -> Details:
        """The details of that row. Raises nothing: errors are part of them."""
        from mistudio_cli.error_messages import explain

        readers = {"jobs": self._job, "queues": self._queue, "workers": self._worker}
        try:
            if self._ledger is None:
                self._ledger = self._connect(False)
            blocks = readers[pane](self._ledger, row, parts) if pane in readers else _others(pane, row, parts)
            return Details(pane, row, f"{pane.removesuffix('s')} {row}", tuple(blocks))
        except Exception as error:  # noqa: BLE001 - shown on the screen
            self._ledger = self._log = None
            return Details(pane, row, f"{pane.removesuffix('s')} {row}", error=explain(error).sentence)

    def _job(self, ledger: Ledger, row: str, _: Parts) -> Iterator[Block]:
        from mistudio_cli.jobs.lookup import show_lines
        from mistudio_cli.monitor.explain import explain, look_around
        from mistudio_cli.monitor.job_context import surroundings_of
        from mistudio_cli.views.json_shapes import made_at

        job = ledger.need(row)
        (around,) = surroundings_of(ledger, [job])
        causes = explain(job, look_around(ledger, job))
        said = [output.suggested(one_line(c.sentence) + (f"  ({c.command})" if c.command else "")) for c in causes]
        yield Block("why", tuple(said))
        if charts := charts_of(around.measured):
            yield Block("curves", charts=charts)
        path = made_at(job, self._places.store)
        yield Block("record", tuple(show_lines(job, ledger.events(job.id), path, around, ledger.now())))
        if processes := describe_job_processes(job):
            yield Block("processes", tuple(processes))
        yield text_block(f"log, the last {_LOG_LINES} lines", self._job_log(ledger, job), "nothing is logged yet")

    def _job_log(self, ledger: Ledger, job: Job) -> list[str]:
        """The last lines of the job's last attempts; of a log that was read before only what was added is read."""
        from mistudio_cli.jobs.log_sources import JobLog

        if self._log is None:
            self._log_lines.clear()
            self._attempt = max(1, job.attempt)
            self._log = JobLog(ledger, self._places, job.id, self._log_lines.append)
            if not self._log.skip_to_last(self._attempt, _LOG_LINES, is_only=job.attempt <= 1):
                self._attempt = max(1, job.attempt - 1)
                self._log.skip_to(self._attempt)
        while True:
            for line in self._log.read(self._attempt, is_over=job.state.ended or self._attempt < job.attempt):
                self._log_lines.extend(line.decode("utf-8", "replace").rstrip("\r\n").split("\r"))
            if self._attempt >= job.attempt:
                return list(self._log_lines)
            self._attempt += 1

    def _queue(self, ledger: Ledger, row: str, parts: Parts) -> Iterator[Block]:
        found = [queue for queue in parts.queues.value or () if queue.name == row]
        yield _table_block("queue", tables.queues(found))
        yield from (Block("", (queue.eta_unknown,)) for queue in found if queue.eta_unknown)
        jobs = [job for job in ledger.many(ledger.queues.order(row, _PEEKED)) if job]
        heading = "queued jobs, in the order in which they will start"
        peeked = tables.peek(jobs, ledger.now(), wide=True)
        yield _table_block(heading, peeked) if jobs else Block(heading, ("none",))
        more = (found[0].pending if found else len(jobs)) - len(jobs)
        if more > 0:
            peek = output.suggested(f"mistudio queue peek {row} --limit {len(jobs) + more}")
            yield Block("", (f"… {more} more: {peek}",))

    def _worker(self, ledger: Ledger, row: str, parts: Parts) -> Iterator[Block]:
        known = (*(parts.workers.value or ()), *foreign_rows(parts.celery.value))
        found = [worker for worker in known if worker.name == row]
        headers, rows = tables.workers(found, parts.now)
        yield Block("worker", tuple(f"{name:<10} {cell}" for name, cell in zip(headers, *rows[:1], strict=False)))
        holding = [job for job in parts.jobs.value or () if job.worker == row and not job.state.ended]
        slots = [f"{job.id}  {job.kind} {job.name}" for job in holding]
        free = found[0].slots - len(slots) if found else 0
        yield Block("slots", (*slots, *["free"] * max(0, free)))
        lines = self._worker_log(ledger, row)
        yield text_block(f"log, the last {_LOG_LINES} lines", lines, "its log is on its own host")

    def _worker_log(self, ledger: Ledger, name: str) -> Sequence[str]:
        import socket

        from mistudio_cli.jobs.worker_tails import WorkerTail
        from mistudio_cli.log_files import last_lines

        short, _, host = name.partition("@")
        if host == socket.gethostname() and (lines := last_lines(self._places.logs / f"{short}.log", _LOG_LINES)):
            return lines
        tail = WorkerTail(ledger, name)
        return list(tail.lines(_LOG_LINES, forever=False)) if tail.is_there else []


def charts_of(points: Sequence[MetricPoint]) -> tuple[Chart, ...]:
    """The curves of a job: loss, L0 and FVU where it has them, else its first metrics."""
    names = list(dict.fromkeys(name for point in points for name in point.values))
    wanted = [name for name in _CURVES if name in names] or names[:_CHARTS]
    values = {name: [(point.at, point.values.get(name)) for point in points] for name in wanted}
    return tuple(
        Chart(name, tuple((float(at), value) for at, value in pairs if value is not None))
        for name, pairs in values.items()
    )


def _others(pane: str, row: str, parts: Parts) -> Iterator[Block]:
    """What is known of a GPU or a host without asking anybody."""
    from mistudio_cli.monitor.hosts import jobs_on
    from tasks.accelerators.card_processes import processes_of

    if pane == "hosts":
        for found in parts.hosts.value or ():
            if found.name == row:
                yield _table_block("", host_tables.facts(found, parts.now))
        return
    for card in parts.devices.value.devices if parts.devices.value is not None else ():
        if card.key == row:
            yield _facts("GPU", {"index": card.label, "name": card.name, "uuid": card.uuid, "problem": card.problem})
            held = [job for job, lease in (parts.leases.value or {}).items() if lease.key == card.key]
            yield text_block("jobs", held, "none")
            yield _processes_block(processes_of(card))
    for host in parts.hosts.value or ():
        for gpu in (host.newest.gpus if host.newest is not None else None) or ():
            if row == f"{gpu.index}@{host.name}":
                yield _facts("GPU", {"index": gpu.index, "name": gpu.name, "uuid": gpu.uuid, "problem": gpu.error})
                yield text_block("jobs", jobs_on(parts.leases.value or {}, host.name, gpu), "none")
                yield _processes_block(gpu.processes, gpu.more_processes)


def _processes_block(processes: Sequence[CardProcess] | None, more: int = 0) -> Block:
    """The processes on a GPU; None when they could not be read. `more` are not among them."""
    lines = [describe_process(process) for process in processes or ()]
    if more:
        lines.append(f"{more} more that hold less memory")
    return text_block("processes", lines, "none" if processes is not None else UNKNOWN)


def _facts(heading: str, facts: dict[str, Any]) -> Block:
    return Block(heading, tuple(f"{name:<10} {value}" for name, value in facts.items() if value is not None))


def _table_block(heading: str, table: tables.Table) -> Block:
    return Block(heading, tuple(lay_out(*table, None, colour=False).splitlines()))
