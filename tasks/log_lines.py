"""The lines a process writes to its log: the only place where logging is set up.

Each line is one write to the process's own standard error, so lines of several processes never mix. A log is rotated by
renaming its file; each process that finds its file renamed opens the path anew, in place of its standard output and
error, so that whatever it writes follows. A full disk loses lines and nothing else. Secrets are masked.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.redact import redact
from tasks.settings import current

#: Names the file behind a worker's standard error, for those whose supervisor opened one.
VARIABLE = "MISTUDIO_LOG"

_FORMAT = "%(asctime)s %(levelname)s %(name)s%(job)s %(message)s"
_STDOUT, _STDERR = 1, 2

_job = ""


def log_to_stderr(path: Path | None = None) -> None:
    """Log to standard error from now on; with a `path`, to whatever file is at it.

    What is printed past logging then may meet a full disk too.
    """
    if path is not None:
        sys.stdout = sys.__stdout__ = Forgiving(_STDOUT)  # type: ignore[misc, assignment]
        sys.stderr = sys.__stderr__ = Forgiving(_STDERR)  # type: ignore[misc, assignment]
    handler = Lines(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(current("log_level").upper())


def path_from_environment() -> Path | None:
    """The file behind this process's standard error, if somebody said so."""
    path = os.environ.get(VARIABLE)
    return Path(path) if path else None


@contextmanager
def about(job_id: str) -> Iterator[None]:
    """Every line of this process names the job meanwhile: a slot works at one at a time."""
    global _job
    _job = f" job={job_id}"
    try:
        yield
    finally:
        _job = ""


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
        record.job = _job
        try:
            line = redact(self.format(record)) + "\n"
        except Exception:  # noqa: BLE001 - a record that cannot be worded is reported as logging does
            self.handleError(record)
            return
        with suppress(OSError):
            if self._path is not None:
                _follow(self._path)
            os.write(_STDERR, line.encode("utf-8", "backslashreplace"))


def _follow(path: Path) -> None:
    try:
        if os.path.samestat(path.stat(), os.fstat(_STDERR)):
            return
    except FileNotFoundError:
        pass  # renamed, and nobody has opened it anew
    anew = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (_STDOUT, _STDERR):
        os.dup2(anew, standard)
    os.close(anew)
