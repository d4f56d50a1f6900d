"""What happened to the workers of a home: one line of JSON for each change, in `logs/events.jsonl`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mistudio_cli.log_files import last_lines
from tasks.parsing.documents import parse_json_object
from tasks.paths import Places


@dataclass(frozen=True)
class Change:
    """A worker's step from one state to another; `at` is ISO 8601 UTC, `why` is how its last process ended."""

    at: str
    worker: str
    before: str
    after: str
    pid: int | None
    why: str | None


def record(places: Places, worker: str, before: str, after: str, pid: int | None, why: str | None) -> None:
    """Write down a change of now. A full disk loses it, and nothing else."""
    change = Change(datetime.now(UTC).isoformat(timespec="milliseconds"), worker, before, after, pid, why)
    line = json.dumps(asdict(change)).encode() + b"\n"
    with suppress(OSError):
        file = os.open(places.history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)


def read(places: Places, limit: int) -> list[Change]:
    """The last changes, newest last. A line that a full disk cut short is left out."""
    found = []
    for line in last_lines(places.history, limit):
        with suppress(ValueError, TypeError):
            found.append(Change(**parse_json_object(line)))
    return found
