"""Printing the logs of jobs: their last lines, what is added until the job has ended, and each line as a record."""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mistudio_cli import output
from mistudio_cli.errors import NotFound
from mistudio_cli.following import watch, why
from mistudio_cli.reasons import Reasons
from tasks.documents import Malformed, parse_json_object
from tasks.job import Job, State
from tasks.ledger import Ledger
from tasks.places import Places

_CHUNK = 1 << 16
_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<logger>\S+)"
    r"( job=(?P<job>\S+))?( attempt=(?P<attempt>\d+))? (?P<message>.*)"
)
_KEYS = ("time", "level", "logger", "job", "attempt", "message")


def print_log(
    ledger: Ledger, places: Places, job: Job, last: int, *, follow: bool = False, as_json: bool = False
) -> None:
    """Print the end of a job's log, and with `follow` what is added until the job has ended.

    `last` is how many lines that end has; standard error says where the whole log is when there is more. NotFound when
    there is no log.
    """
    path = places.job_log(job.id)
    if not path.is_file() and (job.state.ended or not follow):
        raise NotFound(f"Job {job.id} has no log on this machine{_why_none(job)}.", f"See: mistudio jobs show {job.id}")
    printer = _Printer(job, as_json=as_json)
    position = 0
    if path.is_file():
        with path.open("rb") as log:
            kept = b"".join(deque(log, last))
            position = log.tell()
        if last and len(kept) < position:
            output.talk(f"The last {last} lines of {path}")
        printer.add(kept)
    reasons = Reasons(ledger)
    for (latest,) in watch(ledger, [job.id]) if follow else ():
        reasons.look([latest])
        for chunk in _chunks(path, position):
            position += len(chunk)
            printer.add(chunk)
        if latest.state.ended:
            output.talk(f"{job.id} {latest.state}{why(latest)}")
    printer.finish()


def as_record(line: str, job: Job) -> dict[str, Any]:
    """A line of a job's log as JSON: what wrote it and when, where the line says so, and always the message."""
    nothing: dict[str, Any] = {**dict.fromkeys(_KEYS), "job": job.id}
    if line.startswith("{"):
        try:
            told = parse_json_object(line)
        except Malformed:
            return {**nothing, "message": line}
        if told.get("message") is not None:
            return {**nothing, **{key: told[key] for key in _KEYS if key in told}}
    if not (found := _LINE.fullmatch(line)):
        return {**nothing, "message": line}
    told = found.groupdict()
    told["time"] = _utc(told["time"])
    told["attempt"] = told["attempt"] and int(told["attempt"])
    return {**told, "job": told["job"] or job.id}


class _Printer:
    """Prints bytes of a log as text, or its lines as records; a line may come in parts."""

    def __init__(self, job: Job, *, as_json: bool) -> None:
        self._job, self._as_json = job, as_json
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
            output.styled(output.json_text(as_record(line.rstrip("\r"), self._job)))
        else:
            # Progress bars go back to the start of their line: each of their states is a line of its own.
            output.data(line.rstrip("\r").replace("\r", "\n"))


def _utc(local: str) -> str:
    """A time as the text format has it, of this machine's time zone, as ISO 8601 in UTC."""
    at = datetime.strptime(local, "%Y-%m-%d %H:%M:%S,%f").astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _why_none(job: Job) -> str:
    if job.state in (State.QUEUED, State.WAITING):
        return ": it has not started"
    return f": it ran on {job.worker.partition('@')[2]} or wrote nothing" if job.worker else ""


def _chunks(path: Path, start: int) -> Iterator[bytes]:
    """The bytes of a file from `start` to its end; none of one that is not there yet."""
    if path.is_file():
        with path.open("rb") as log:
            log.seek(start)
            while chunk := log.read(_CHUNK):
                yield chunk
