"""Printing the logs of jobs: their last lines, what is added until the job has ended, and each line as a record."""

from __future__ import annotations

import codecs
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from mistudio_cli.errors import NotFound
from mistudio_cli.jobs.log_sources import JobLog
from mistudio_cli.jobs.wait_reasons import Reasons
from mistudio_cli.jobs.waiting import LOOK_EVERY_S, watch, why
from mistudio_cli.terminal import output
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.parsing.documents import Malformed, parse_json_object
from tasks.parsing.redact import redact, redactor
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.storage.store import is_name

#: How long the rest of an attempt that is over is waited for, where its host is another one.
REST_PATIENCE_S = 5.0

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<logger>\S+)"
    r"( job=(?P<job>\S+))?( attempt=(?P<attempt>\d{1,9}))? (?P<message>.*)",
    re.ASCII,
)
_KEYS = ("time", "level", "logger", "job", "attempt", "worker", "queue", "event", "message")


def print_log(
    ledger: Ledger,
    places: Places,
    job: Job,
    last: int,
    *,
    attempt: int | None = None,
    follow: bool = False,
    as_json: bool = False,
) -> None:
    """Print the end of a job's log, or of one attempt's, and with `follow` what is added until it is over.

    `last` is how many lines that end has; standard error says where the whole log is when there is more, and what is
    missing. NotFound when there is no log, and for an attempt that there never was.
    """
    if attempt is not None and attempt > max(job.attempt, 1 if follow else 0):
        raise NotFound(
            f"Job {job.id} has had no attempt {attempt}; attempts: {job.attempt}.", f"See: mistudio jobs show {job.id}"
        )
    log, printer = JobLog(ledger, places, job.id, output.talk), _Printer(job.id, as_json=as_json)
    attempts = range(attempt or 1, (attempt or max(job.attempt, 1)) + 1)
    if is_cut := log.skip_to_last(attempts[-1], last, is_only=job.attempt <= 1):
        attempts = attempts[-1:]
    else:
        log.skip_to(attempts[0])
    lines = _lines(log, attempts, lambda number: not follow or _is_over(job, number))
    if not _print_end(log, printer, lines, last, is_cut=is_cut) and (job.state.ended or not follow):
        raise NotFound(f"Job {job.id} has no log on this machine{_why_none(job)}.", f"See: mistudio jobs show {job.id}")
    for number in attempts if not follow else ():
        if number not in log.found:
            log.report_absence(number)
    if follow:
        _follow(ledger, log, printer, job, attempts[-1], only=attempt is not None)
    printer.finish()


def print_forgotten_log(
    ledger: Ledger, places: Places, job_id: str, last: int, *, attempt: int | None = None, as_json: bool = False
) -> bool:
    """Print what this home and the store have of the log of a job without a record; False when they have nothing."""
    if not is_name(job_id):
        return False
    log, printer = JobLog(ledger, places, job_id, output.talk), _Printer(job_id, as_json=as_json)
    known = log.last_attempt()
    if not known or (attempt or 0) > known:
        return False
    output.talk(f"Job {job_id} has no record any more; this is left of its log.")
    attempts = range(attempt or 1, (attempt or known) + 1)
    log.skip_to(attempts[0])
    is_there = _print_end(log, printer, _lines(log, attempts, lambda _: True), last)
    printer.finish()
    return is_there


def _lines(log: JobLog, attempts: range, is_over: Callable[[int], bool]) -> Iterator[bytes]:
    for number in attempts:
        yield from log.read(number, is_over=is_over(number))


def _print_end(log: JobLog, printer: _Printer, lines: Iterator[bytes], last: int, *, is_cut: bool = False) -> bool:
    """Print the last of these lines, and say where the others are; whether there were any.

    `is_cut` when there are lines before these.
    """
    count, kept = 0, deque[bytes](maxlen=last)
    for count, line in enumerate(lines, 1):  # noqa: B007 - the count is what is wanted
        kept.append(line)
    if last and (is_cut or count > last):
        output.talk(f"The last {last} lines of {', '.join(log.sources)}")
    for line in kept:
        printer.add(line)
    return bool(count or log.sources)


def _follow(ledger: Ledger, log: JobLog, printer: _Printer, job: Job, number: int, *, only: bool) -> None:
    """Print what attempts add, that one's and later ones' unless `only`, until the job or that attempt is over."""
    reasons = Reasons(ledger)
    for (latest,) in watch(ledger, [job.id]):
        reasons.look([latest])
        while not only and number < latest.attempt:
            _print_rest(log, printer, number)
            number += 1
        if _is_over(latest, number):
            _print_rest(log, printer, number)
            if only and not latest.state.ended:
                return
        else:
            _print_added(log, printer, number, is_over=False)
        if latest.state.ended:
            output.talk(f"{job.id} {latest.state}{why(latest)}")


def _print_added(log: JobLog, printer: _Printer, number: int, *, is_over: bool) -> None:
    with suppress(Unreachable, Refused):  # `watch` says so; what was added is read later
        for line in log.read(number, is_over=is_over):
            printer.add(line)


def _print_rest(log: JobLog, printer: _Printer, number: int) -> None:
    """Print the rest of an attempt that is over, for which its host may need a moment."""
    deadline = time.monotonic() + REST_PATIENCE_S
    while True:
        _print_added(log, printer, number, is_over=True)
        if log.is_complete(number):
            return
        if time.monotonic() > deadline:
            log.give_up(number)
        time.sleep(LOOK_EVERY_S)


def _is_over(job: Job, number: int) -> bool:
    return job.state is not State.RUNNING if number == job.attempt else number < job.attempt or job.state.ended


def as_record(line: str, job_id: str, mask: Callable[[str], str] = redact) -> dict[str, Any]:
    """A line of a job's log as JSON: what wrote it and when, where the line says so, and always the message.

    Secrets are masked: what a library prints past logging is in the file as it was printed.
    """
    line = mask(line)
    nothing: dict[str, Any] = {**dict.fromkeys(_KEYS), "job": job_id}
    if line.startswith("{"):
        try:
            record = parse_json_object(line)
        except Malformed:
            return {**nothing, "message": line}
        if record.get("message") is not None:
            return {**nothing, **{key: record[key] for key in _KEYS if key in record}}
    if not (found := _LINE.fullmatch(line)):
        return {**nothing, "message": line}
    record = found.groupdict()
    try:
        record["time"] = _utc(record["time"])
    except (ValueError, OverflowError):  # no day of any calendar
        return {**nothing, "message": line}
    record["attempt"] = record["attempt"] and int(record["attempt"])
    return {**nothing, **record, "job": record["job"] or job_id}


class _Printer:
    """Prints bytes of a log as text, or its lines as records; a line may come in parts."""

    def __init__(self, job_id: str, *, as_json: bool) -> None:
        self._job_id, self._as_json, self._mask = job_id, as_json, redactor()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def add(self, chunk: bytes) -> None:
        """Print the whole lines among what has come by now."""
        *lines, self._rest = (self._rest + self._decode(chunk)).split("\n")
        for line in lines:
            self._put(line)

    def finish(self) -> None:
        """Print what comes after the last end of a line."""
        if self._rest:
            self._put(self._rest)

    def _put(self, line: str) -> None:
        if self._as_json:
            output.styled(output.json_text(as_record(line.rstrip("\r"), self._job_id, self._mask)))
        else:
            # Progress bars go back to the start of their line: each of their states is a line of its own.
            output.data(self._mask(line).rstrip("\r").replace("\r", "\n"))


def _utc(local: str) -> str:
    """A time as the text format has it, of this machine's time zone, as ISO 8601 in UTC."""
    at = datetime.strptime(local, "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _why_none(job: Job) -> str:
    if job.state in (State.QUEUED, State.WAITING):
        return ": it has not started"
    return f": it ran on {job.worker.partition('@')[2]} or wrote nothing" if job.worker else ""
