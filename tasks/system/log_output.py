"""The lines a process writes to its log: all set-up of logging is here.

Each line is one write to the process's own standard error, so lines of several processes never mix. A log is rotated by
renaming its file; each process that finds its file renamed reopens the path, in place of its standard output and
error, so that whatever it writes follows. A full disk loses lines and nothing else. Secrets are masked, and control
characters made visible.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.parsing.redact import redact
from tasks.parsing.safe_text import visible_lines
from tasks.settings import current

#: Names the file behind a worker's standard error, for those whose supervisor opened one.
VARIABLE = "MISTUDIO_LOG_FILE"

#: A supervisor of an earlier version names it here, where the format of lines is now.
_FORMER_VARIABLE = "MISTUDIO_LOG"

_FORMAT = "%(asctime)s %(levelname)s %(name)s%(job)s %(message)s"
_STDOUT, _STDERR = 1, 2


@dataclass(frozen=True)
class _Subject:
    """What the lines of this process are about."""

    job: str | None = None
    attempt: int | None = None
    queue: str | None = None


_subject = _Subject()
_worker: str | None = None


def log_to_stderr(path: Path | None = None) -> None:
    """Log to standard error from now on; with a `path`, to whatever file is at it.

    What is printed past logging then may meet a full disk too.
    """
    if path is not None:
        sys.stdout = sys.__stdout__ = Forgiving(_STDOUT)  # type: ignore[misc, assignment]
        sys.stderr = sys.__stderr__ = Forgiving(_STDERR)  # type: ignore[misc, assignment]
    root = logging.getLogger()
    root.handlers[:] = [_formatted(Lines(path))]
    root.setLevel(current("log_level").upper())
    logging.captureWarnings(current("log_format") == "json")  # which Python prints as text


def path_from_environment() -> Path | None:
    """The file behind this process's standard error, if somebody said so."""
    if os.environ.get(_FORMER_VARIABLE, "").startswith("/"):
        os.environ[VARIABLE] = os.environ.pop(_FORMER_VARIABLE)
    path = os.environ.get(VARIABLE)
    return Path(path) if path else None


def name_worker(name: str | None) -> None:
    """Every line of this process, and of those that it forks, is that worker's from now on."""
    global _worker
    _worker = name


@contextmanager
def about(
    job_id: str, attempt: int | None = None, log: Path | None = None, *, queue: str | None = None
) -> Iterator[None]:
    """Every line of this process names the job meanwhile, and goes to the file `log` too: a slot works at one job.

    Its queue is that of the job named before, if it is the same.
    """
    global _subject
    before = _subject
    _subject = _Subject(job_id, attempt, queue or (before.queue if before.job == job_id else None))
    copy = None if log is None else _formatted(Copy(log))
    root = logging.getLogger()
    try:
        if copy is not None:
            root.addHandler(copy)
        yield
    finally:
        _subject = before
        if copy is not None:
            root.removeHandler(copy)


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time (UTC), level, logger, job, attempt, worker, queue, event, message.

    The event is a word for programs, where the record has one (`extra={"event": …}`). `tasks.logs.log_parts` knows how
    a line begins.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if record.stack_info:
            message += "\n" + self.formatStack(record.stack_info)
        line: dict[str, str | int | None] = {"time": at, "level": record.levelname, "logger": record.name}
        line |= {"job": _subject.job, "attempt": _subject.attempt, "worker": _worker, "queue": _subject.queue}
        event = getattr(record, "event", None)
        return json.dumps({**line, "event": None if event is None else str(event), "message": message})


class _TextFormatter(logging.Formatter):
    """A record as text. The lines after its first are indented: none of them can pass for a record of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several."""
        job, attempt = _subject.job, _subject.attempt
        record.job = "" if job is None else f" job={job}" + ("" if attempt is None else f" attempt={attempt}")
        return visible_lines(super().format(record)).replace("\n", "\n    ")


def _formatted(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(JsonFormatter() if current("log_format") == "json" else _TextFormatter(_FORMAT))
    return handler


class Forgiving(io.TextIOBase):
    """Standard output or error whose writes never fail: each goes out at once, or is lost."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, text: str) -> int:
        """Write it, if it can be written. Returns the number of characters."""
        with suppress(OSError):
            os.write(self._number, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The number of the file behind it."""
        return self._number

    def isatty(self) -> bool:
        """Whether a person reads along."""
        return os.isatty(self._number)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """How text becomes bytes."""
        return "utf-8"


class Lines(logging.Handler):
    """Writes records as lines; see above."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. Never disturbs the work: what cannot be written is lost."""
        try:
            line = redact(self.format(record)) + "\n"
        except Exception:  # noqa: BLE001 - a record that cannot be worded is reported as logging does
            self.handleError(record)
            return
        with suppress(OSError):
            self._put(line.encode("utf-8", "backslashreplace"))

    def _put(self, line: bytes) -> None:
        if self._path is not None:
            _follow(self._path)
        os.write(_STDERR, line)


class Copy(Lines):
    """Writes records as lines to a file besides."""

    def _put(self, line: bytes) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)


def _follow(path: Path) -> None:
    try:
        if os.path.samestat(path.stat(), os.fstat(_STDERR)):
            return
    except FileNotFoundError:
        pass  # renamed, and no process has reopened it
    reopened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (_STDOUT, _STDERR):
        os.dup2(reopened, standard)
    os.close(reopened)
