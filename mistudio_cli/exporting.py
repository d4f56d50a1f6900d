"""The ledger as JSON lines: the only place that writes it out, a page at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mistudio_cli import shapes
from mistudio_cli.output import speakable
from mistudio_cli.surroundings import surroundings_of
from tasks.ledger import Ledger
from tasks.listing import Filter
from tasks.problem import Problem
from tasks.script import SCHEMA

#: Jobs that are read, and held, at once.
PAGE = 500


def lines(ledger: Ledger, store: Path, wanted: Filter) -> Iterator[str]:
    """One line of JSON a job, the newest first; those submitted meanwhile are left out, so each is there once."""
    following: str | None = None
    while True:
        page = ledger.page(wanted, PAGE, following)
        histories = ledger.histories([job.id for job in page.jobs])
        for job, events, around in zip(page.jobs, histories, surroundings_of(ledger, page.jobs), strict=True):
            told = shapes.job_in_full(job, events, shapes.made_at(job, store), around)
            yield json.dumps(speakable({"schema": SCHEMA, **told}), ensure_ascii=False, allow_nan=False)
        if (following := page.next) is None:
            return


def write(ledger: Ledger, store: Path, wanted: Filter, path: Path) -> int:
    """Write the lines to `path`, which appears whole or not at all, and tell how many there were.

    Raises Problem when it cannot be written.
    """
    draft, count = path.with_name(path.name + ".part"), 0
    try:
        with draft.open("w", encoding="utf-8") as file:
            for count, line in enumerate(lines(ledger, store, wanted), 1):  # noqa: B007 - told in the end
                file.write(line + "\n")
        draft.replace(path)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}.", "Give another file") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return count
