"""What was left out of a corpus, or changed on the way: the counts that a download's result has."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Names of files that are kept of those left out.
_NAMED = 5


@dataclass
class SkippedCounts:
    """Counts of a download.

    `unreadable_files` are no text, `split_files` became several documents, `replaced` characters could not be decoded
    and are U+FFFD, `skipped_files` are all others of a folder that are not read: links out of it, FIFOs, devices, files
    of other splits, of unknown formats and those that describe data. `left_out` names the first of the files that were
    not read, with the reason. `commit` is that of a Hub dataset, `column` the one that was read of
    tables.
    """

    files: int = 0
    unreadable_files: int = 0
    split_files: int = 0
    empty_rows: int = 0
    replaced: int = 0
    skipped_files: int = 0
    left_out: list[str] = field(default_factory=list)
    commit: str | None = None
    column: str | None = None

    def skip(self, name: str, reason: str) -> None:
        """Count a file that is not read."""
        self.skipped_files += 1
        self._name(name, reason)

    def refuse(self, name: str, reason: str) -> None:
        """Count a file that cannot be read."""
        self.unreadable_files += 1
        self._name(name, reason)

    def _name(self, name: str, reason: str) -> None:
        if len(self.left_out) < _NAMED:
            self.left_out.append(f"{name}: {reason}")
