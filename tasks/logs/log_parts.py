"""Which part of a job's log is of which attempt: lines of mistudio name it; what is printed between belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_TEXT = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+ job=(\S+) attempt=(\d{1,9}) "
_JSON = rb'\{"time": "[^"]*", "level": "[A-Z]+", "logger": "[^"]*", "job": "([^"]*)", "attempt": (\d{1,9}), '
_NAMES_ATTEMPT = re.compile(rb"%b|%b" % (_TEXT, _JSON))


def attempt_of(line: bytes, job_id: str) -> int | None:
    """The attempt at that job which a line names, in either format of `tasks.system.log_output`; None when it names
    none.
    """
    found = _NAMES_ATTEMPT.match(line)
    if found is None or (found[1] or found[3]) != job_id.encode():
        return None
    return int(found[2] or found[4])


def read_part(path: Path, start: int, job_id: str, attempt: int) -> Iterator[bytes]:
    """The lines from the byte `start` of a job's log up to those of a later attempt. Raises OSError."""
    with path.open("rb") as log:
        log.seek(start)
        for line in log:
            if (attempt_of(line, job_id) or 0) > attempt:
                return
            yield line
