"""Where the log of a job is, attempt by attempt: the file of this home, archives in the store, or tails in Redis."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from tasks.ledger.client import Ledger
from tasks.logs.log_parts import attempt_of, find_last_lines, pass_lines
from tasks.logs.log_tails import TAIL_BYTES, TailReader, attempt_key
from tasks.paths import Places
from tasks.storage.log_archive import FIRST, Member, archive_of, archived_attempts, read_archive


@dataclass
class LogProgress:
    """What was read of a job's log, so that reading can continue there."""

    attempt: int = 1  # of the last line, where pages are read
    file_end: int = 0  # of what was read of the file of this home
    searched_to: int = 0  # in that file, for attempts
    named: set[int] = field(default_factory=set)  # attempts that its lines name
    ends: dict[int, int] = field(default_factory=dict)  # in the logs of attempts that are not in the file
    members: dict[int, Member] = field(default_factory=dict)  # of archives, in which those ends are
    complete: set[int] = field(default_factory=set)

    def copy(self) -> LogProgress:
        """The same, which stays as it is."""
        return copy.deepcopy(self)


class JobLog:
    """Reads a job's log from wherever its attempts left it; what was read once is not read again.

    `sources` are the files and the like that were read, and `report` is called with a sentence on what is missing.
    `progress` is that of an earlier reader, to continue where it was then.
    """

    def __init__(
        self,
        ledger: Ledger,
        places: Places,
        job_id: str,
        report: Callable[[str], None],
        progress: LogProgress | None = None,
    ) -> None:
        self.sources: list[str] = []
        self.found: set[int] = set()  # attempts of which there was something
        self.progress = progress or LogProgress()
        self._ledger, self._places, self._job_id, self._report = ledger, places, job_id, report
        self._path = places.job_log(job_id)
        self._tails: dict[int, TailReader] = {}

    def last_attempt(self) -> int:
        """The last attempt of which there is a log in the file or in the store; 0 when there is none."""
        self._search(sys.maxsize)
        first = 1 if self._path.is_file() else 0
        return max(first, *self.progress.named, *archived_attempts(self._places.store, self._job_id), 0)

    def is_complete(self, attempt: int) -> bool:
        """Whether all was read of an attempt that is over."""
        return attempt in self.progress.complete

    def give_up(self, attempt: int) -> None:
        """Read no more of an attempt that is over."""
        self.progress.complete.add(attempt)
        if attempt not in self.found:
            self.report_absence(attempt)

    def report_absence(self, attempt: int) -> None:
        """Report that there is nothing of an attempt."""
        host = self.host_of(attempt) or "another host"
        self._report(f"Of attempt {attempt} on {host} there is no log here, in the store or in Redis.")

    def skip_to(self, attempt: int) -> None:
        """Leave out what the file has of earlier attempts."""
        if attempt > 1:
            deque(self._lines_of_file(attempt - 1, is_over=True), 0)

    def skip_to_last(self, attempt: int, count: int, *, is_only: bool) -> bool:
        """Leave out all but the last `count` lines, where the file has them and more, and all are of that attempt.

        False when that is not so, and nothing is left out. `is_only`: the job had no other attempt.
        """
        try:
            only = None if is_only else attempt
            start = find_last_lines(self._path, count, self._job_id, only)
        except OSError:
            return False
        if start is not None:
            self._skip_file_to(start, attempt)
        return start is not None

    def skip_lines_of_only(self, count: int) -> int:
        """Leave out `count` lines of the file, or as many as there are, of a job's only attempt; returns how many."""
        if count <= 0 or not self._path.is_file():
            return 0
        passed, end = pass_lines(self._path, self.progress.file_end, count)
        self._skip_file_to(end, 1)
        return passed

    def _skip_file_to(self, start: int, attempt: int) -> None:
        self.progress.file_end = self.progress.searched_to = start
        self.progress.named.add(attempt)

    def read(self, attempt: int, *, is_over: bool) -> Iterator[bytes]:
        """The lines of that attempt's part that were not read yet; `is_over` when the attempt adds none.

        Raises Unreachable and Refused where only Redis has them.
        """
        if attempt in self.progress.complete:
            return
        if self._is_here(attempt):
            may_write = self._places.attempt_note(self._job_id, attempt).exists()
            if self._path.is_file():
                self._note(attempt, str(self._path))
            yield from self._lines_of_file(attempt, is_over=is_over)
            if is_over and not may_write:
                self.progress.complete.add(attempt)
        elif (path := archive_of(self._places.store, self._job_id, attempt)).is_file():
            self._note(attempt, str(path))
            yield from self._lines_of_archive(attempt, path)
            self.progress.complete.add(attempt)
        else:
            yield from self._lines_of_tail(attempt)

    def host_of(self, attempt: int) -> str | None:
        """The host that attempt ran on, by the job's history."""
        workers = [
            str(event.get("worker") or "")
            for event in self._ledger.events(self._job_id)
            if event["state"] == "running" and event.get("attempt") == attempt
        ]
        return workers[-1].partition("@")[2] or None if workers else None

    def _is_here(self, attempt: int) -> bool:
        """Whether that attempt writes, or wrote, to the file of this home."""
        if self._places.attempt_note(self._job_id, attempt).exists():
            return True
        self._search(attempt)
        named = self.progress.named
        return attempt in named or (attempt == 1 and not named and self._path.is_file())

    def _search(self, attempt: int) -> None:
        """Look in the lines of the file for attempts, up to that one or a later one."""
        progress = self.progress
        if max(progress.named, default=0) >= attempt or not self._path.is_file():
            return
        with self._path.open("rb") as log:
            log.seek(progress.searched_to)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                progress.searched_to += len(line)
                if (named := attempt_of(line, self._job_id)) is not None:
                    progress.named.add(named)
                    if named >= attempt:
                        return

    def _lines_of_file(self, attempt: int, *, is_over: bool) -> Iterator[bytes]:
        """Lines up to those of a later attempt; the last one, which may not have ended, when nothing is added."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as log:
            log.seek(self.progress.file_end)
            for line in log:
                named = attempt_of(line, self._job_id)
                if (named or 0) > attempt or not (is_over or line.endswith(b"\n")):
                    return
                self._pass(len(line), named)
                yield line

    def _pass(self, size: int, named: int | None) -> None:
        """Note that the next line of the file, of `size` bytes, was read; all before it have been searched."""
        progress = self.progress
        progress.file_end += size
        progress.searched_to = max(progress.searched_to, progress.file_end)
        if named is not None:
            progress.named.add(named)

    def _lines_of_archive(self, attempt: int, path: Path) -> Iterator[bytes]:
        ends, members = self.progress.ends, self.progress.members
        for line, member in read_archive(path, ends.get(attempt, 0), members.get(attempt, FIRST)):
            ends[attempt], members[attempt] = ends.get(attempt, 0) + len(line), member
            yield line

    def _lines_of_tail(self, attempt: int) -> Iterator[bytes]:
        client = self._ledger.client
        reader = self._tails.setdefault(attempt, TailReader(client, attempt_key(client, self._job_id, attempt)))
        position = self.progress.ends.get(attempt, 0)
        tail = reader.read(position)
        if tail is None:
            return
        if tail.start > position:
            self._report(self._what_is_missing(attempt, position, tail.start))
        self._note(attempt, "Redis")
        self.progress.ends[attempt] = max(position, tail.start)
        for line in BytesIO(tail.text[max(0, position - tail.start) :]):
            self.progress.ends[attempt] += len(line)
            yield line
        if tail.is_over:
            self.progress.complete.add(attempt)

    def _what_is_missing(self, attempt: int, position: int, start: int) -> str:
        host = self.host_of(attempt) or "another host"
        if position:
            return f"Attempt {attempt} on {host} writes too fast: {start - position} bytes of its log are left out."
        return f"Of the log of attempt {attempt} only the last {TAIL_BYTES >> 10} KB are here; the whole is on {host}."

    def _note(self, attempt: int, source: str) -> None:
        self.found.add(attempt)
        if source not in self.sources:
            self.sources.append(source)
