"""Where the log of a job is, attempt by attempt: the file of this home, archives in the store, or tails in Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from tasks.ledger.client import Ledger
from tasks.logs.log_parts import attempt_of
from tasks.logs.log_tails import TAIL_BYTES, TailReader, attempt_key
from tasks.paths import Places
from tasks.storage.log_archive import archive_of, archived_attempts, read_archive


class JobLog:
    """Reads a job's log from wherever its attempts left it; what was read once is not read again.

    `sources` are the files and the like that were read, and `report` is called with a sentence on what is missing.
    """

    def __init__(self, ledger: Ledger, places: Places, job_id: str, report: Callable[[str], None]) -> None:
        self.sources: list[str] = []
        self.found: set[int] = set()  # attempts of which there was something
        self._ledger, self._places, self._job_id, self._report = ledger, places, job_id, report
        self._path = places.job_log(job_id)
        self._named: set[int] = set()  # attempts that lines of the file name
        self._searched_to = 0
        self._read_to = 0  # in the file
        self._positions: dict[int, int] = {}  # in the logs of attempts that are not in the file
        self._complete: set[int] = set()
        self._tails: dict[int, TailReader] = {}

    def last_attempt(self) -> int:
        """The last attempt of which there is a log in the file or in the store; 0 when there is none."""
        self._search()
        first = 1 if self._path.is_file() else 0
        return max(first, *self._named, *archived_attempts(self._places.store, self._job_id), 0)

    def is_complete(self, attempt: int) -> bool:
        """Whether all was read of an attempt that is over."""
        return attempt in self._complete

    def give_up(self, attempt: int) -> None:
        """Read no more of an attempt that is over."""
        self._complete.add(attempt)
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

    def read(self, attempt: int, *, is_over: bool) -> Iterator[bytes]:
        """The lines of that attempt's part that were not read yet; `is_over` when the attempt adds none.

        Raises Unreachable and Refused where only Redis has them.
        """
        if attempt in self._complete:
            return
        if self._is_here(attempt):
            may_write = self._places.attempt_note(self._job_id, attempt).exists()
            if self._path.is_file():
                self._note(attempt, str(self._path))
            yield from self._lines_of_file(attempt, is_over=is_over)
            if is_over and not may_write:
                self._complete.add(attempt)
        elif (path := archive_of(self._places.store, self._job_id, attempt)).is_file():
            self._note(attempt, str(path))
            yield from read_archive(path, self._positions.get(attempt, 0))
            self._complete.add(attempt)
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
        self._search()
        return attempt in self._named or (attempt == 1 and not self._named and self._path.is_file())

    def _search(self) -> None:
        """Look for attempts in the lines that were added to the file."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as log:
            log.seek(self._searched_to)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._searched_to += len(line)
                if (named := attempt_of(line, self._job_id)) is not None:
                    self._named.add(named)

    def _lines_of_file(self, attempt: int, *, is_over: bool) -> Iterator[bytes]:
        """Lines up to those of a later attempt; the last one, which may not have ended, when nothing is added."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as log:
            log.seek(self._read_to)
            for line in log:
                if (attempt_of(line, self._job_id) or 0) > attempt or not (is_over or line.endswith(b"\n")):
                    return
                self._read_to += len(line)
                yield line

    def _lines_of_tail(self, attempt: int) -> Iterator[bytes]:
        client = self._ledger.client
        reader = self._tails.setdefault(attempt, TailReader(client, attempt_key(client, self._job_id, attempt)))
        tail = reader.read()
        if tail is None:
            return
        position = self._positions.get(attempt, 0)
        if tail.start > position:
            self._report(self._what_is_missing(attempt, position, tail.start))
        self._note(attempt, "Redis")
        self._positions[attempt] = tail.start + len(tail.text)
        if tail.is_over:
            self._complete.add(attempt)
        yield from tail.text[max(0, position - tail.start) :].splitlines(keepends=True)

    def _what_is_missing(self, attempt: int, position: int, start: int) -> str:
        host = self.host_of(attempt) or "another host"
        if position:
            return f"Attempt {attempt} on {host} writes too fast: {start - position} bytes of its log are left out."
        return f"Of the log of attempt {attempt} only the last {TAIL_BYTES >> 10} KB are here; the whole is on {host}."

    def _note(self, attempt: int, source: str) -> None:
        self.found.add(attempt)
        if source not in self.sources:
            self.sources.append(source)
