"""Logs of jobs a page at a time: a page costs what it holds, because it is read from where an earlier one ended."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from mistudio_cli.jobs.log_sources import JobLog, LogProgress
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.logs.log_parts import count_lines
from tasks.paths import Places

#: Positions that are remembered, of all logs: those that were asked for last.
_MOST_BOOKMARKS = 512

#: Sentences on what is missing that a page repeats from the pages before.
_MOST_SENTENCES = 5


@dataclass(frozen=True)
class LogPage:
    """Lines of a log; `is_end` when there are no more now. `missing` are sentences on what is not here.

    `is_complete` is whether the last attempt is over and all of it is here: that of another host comes a moment later.
    """

    lines: list[bytes]
    is_end: bool
    is_complete: bool
    missing: list[str]


@dataclass(frozen=True)
class _Bookmark:
    """Where a line of a job's log is."""

    progress: LogProgress
    missing: tuple[str, ...]


_BEGIN = _Bookmark(LogProgress(), ())


class LogPages:
    """Reads pages of logs, for several threads, and remembers where they ended."""

    def __init__(self, most: int = _MOST_BOOKMARKS) -> None:
        self._most, self._lock = most, threading.Lock()
        self._bookmarks: OrderedDict[tuple[str, int], _Bookmark] = OrderedDict()

    def read(self, ledger: Ledger, places: Places, job: Job, after: int, limit: int) -> LogPage:
        """At most `limit` lines after the first `after` of that job's log. Raises Unreachable and Refused."""
        number, bookmark = self._nearest(places, job.id, after)
        missing = list(bookmark.missing)
        log = JobLog(ledger, places, job.id, missing.append, bookmark.progress.copy())
        number += log.skip_lines_of_only(after - number) if job.attempt <= 1 else 0
        lines = _lines(log, job)
        number += sum(1 for _ in itertools.islice(lines, after - number))
        self._keep(job.id, number, log, missing)
        shown = list(itertools.islice(lines, limit))
        self._keep(job.id, number + len(shown), log, missing)
        is_end = next(lines, None) is None
        return LogPage(shown, is_end, is_end and log.is_complete(max(job.attempt, 1)), missing)

    def read_last(self, ledger: Ledger, places: Places, job: Job, count: int) -> tuple[int, LogPage]:
        """The last `count` lines of that job's log, and how many are before them. Raises Unreachable and Refused."""
        missing = list[str]()
        log = JobLog(ledger, places, job.id, missing.append)
        shown, left_out = deque[bytes](maxlen=count), 0
        if job.attempt <= 1 and log.skip_to_last(1, count, is_only=True):
            left_out = count_lines(places.job_log(job.id), log.progress.file_end)
        for line in _lines(log, job):
            left_out += len(shown) == count
            shown.append(line)
        self._keep(job.id, left_out + len(shown), log, missing)
        return left_out, LogPage([*shown], True, log.is_complete(max(job.attempt, 1)), missing)

    def _nearest(self, places: Places, job_id: str, line: int) -> tuple[int, _Bookmark]:
        """The last line up to that one of which it is known where it is, and where."""
        size = _size(places, job_id)
        with self._lock:
            known = [
                (number, bookmark)
                for (owner, number), bookmark in self._bookmarks.items()
                if owner == job_id and number <= line and bookmark.progress.file_end <= size
            ]
        return max(known, key=lambda pair: pair[0], default=(0, _BEGIN))

    def _keep(self, job_id: str, number: int, log: JobLog, missing: list[str]) -> None:
        bookmark = _Bookmark(log.progress.copy(), tuple(missing[-_MOST_SENTENCES:]))
        with self._lock:
            self._bookmarks[job_id, number] = bookmark
            self._bookmarks.move_to_end((job_id, number))
            while len(self._bookmarks) > self._most:
                self._bookmarks.popitem(last=False)


def _lines(log: JobLog, job: Job) -> Iterator[bytes]:
    """The lines from where the log was read to, and of later attempts."""
    for attempt in range(log.progress.attempt, max(job.attempt, 1) + 1):
        for line in log.read(attempt, is_over=attempt < job.attempt or job.state.ended):
            log.progress.attempt = attempt
            yield line


def _size(places: Places, job_id: str) -> int:
    path = places.job_log(job_id)
    return path.stat().st_size if path.is_file() else 0
