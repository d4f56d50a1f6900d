"""The ledger as JSON lines, written a page at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from mistudio_cli.monitor.job_context import surroundings_of
from mistudio_cli.terminal.output import json_text
from mistudio_cli.views import json_shapes
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.ledger.lua_script import SCHEMA

#: Jobs that are read, and held, at once.
PAGE = 500


def lines(ledger: Ledger, store: Path, wanted: Filter) -> Iterator[str]:
    """One line of JSON a job, the newest first; those submitted meanwhile are left out, so each is there once."""
    following: str | None = None
    while True:
        page = ledger.page(wanted, PAGE, following)
        histories = ledger.histories([job.id for job in page.jobs])
        for job, events, around in zip(page.jobs, histories, surroundings_of(ledger, page.jobs), strict=True):
            record = json_shapes.job_in_full(job, events, json_shapes.made_at(job, store), around)
            yield json_text({"schema": SCHEMA, **record})
        if (following := page.next) is None:
            return


def write(ledger: Ledger, store: Path, wanted: Filter, path: Path) -> int:
    """Write the lines to `path`, which appears whole or not at all, and return how many there were.

    A pipe or a device is written to as it is, and a link stays a link. Raises UserError when it cannot be written.
    """
    is_file = path.is_file() or not path.exists()
    target = draft = path.resolve() if is_file else path
    try:
        if is_file:
            draft = _draft_beside(target)
        with draft.open("w", encoding="utf-8") as file:
            count = sum(_written(file, line) for line in lines(ledger, store, wanted))
        if is_file:
            draft.replace(target)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be written: {reason}.", "Give another file") from error
    finally:
        if draft != target:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return count


def _draft_beside(target: Path) -> Path:
    """An empty file of a name of its own in the same folder, as readable for others as the one that it replaces,
    or any new file.
    """
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    os.close(handle)
    mask = os.umask(0)
    os.umask(mask)
    Path(name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~mask)
    return Path(name)


def _written(file: TextIO, line: str) -> int:
    file.write(line + "\n")
    return 1
