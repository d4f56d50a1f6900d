"""The files that are read of a local path, and what can be known of them at submit time. Standard library only."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tasks.errors import UserError
from tasks.text.files.column_choice import DEFAULT_COLUMN, column_of
from tasks.text.files.rows import read_csv
from tasks.text.files.skipped_counts import SkippedCounts
from tasks.text.files.sources import (
    TABLES,
    TEXTS,
    choose_files,
    find_files,
    is_table,
    known_suffixes,
    refuse_description,
    saved_files,
)
from tasks.text.files.splits import choose_split
from tasks.text.files.text_files import check_text


def corpus_files(
    source: Path, pattern: str | None, skip: tuple[str, ...], counts: SkippedCounts, split: str | None
) -> list[Path]:
    """The files that are read of a path, in order."""
    if not source.is_dir() and not source.is_file():
        raise UserError(f"{source} is no regular file.", "Give a file or a folder")
    if source.is_dir() and (saved := saved_files(source, split)) is not None:
        return saved
    files = choose_files(list(find_files(source, pattern, skip, counts)), pattern, counts)
    if source.is_dir() and pattern is None:
        refuse_description(files, source, skip)
    return choose_split(files, source, split, counts, merge=pattern is not None)


def check_source(path: Path, column: str, pattern: str | None, skip: tuple[str, ...], split: str | None) -> None:
    """What can be known before the job runs: UserError for a wrong extension, an empty source or a wrong column."""
    if not path.is_dir():
        _check_file(path)
    files = corpus_files(path, pattern, skip, SkippedCounts(), split)
    if not files:
        looked = f"a name like {pattern}" if pattern else f"a known extension ({known_suffixes()})"
        raise UserError(f"No file below {path} has {looked}.", "Name the files with --pattern '*.ext'")
    first = next(filter(is_table, files), files[0])
    if first == path and not is_table(path):
        check_text(path)
    reader = TABLES.get(first.suffix.lower())
    if reader is not None and (rows := list(islice(reader(first), 1))):
        if reader is read_csv and column == DEFAULT_COLUMN and len(rows[0][1]) > 1:
            return  # which columns of a CSV hold text is seen in more rows than the first
        column_of(rows, column)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is no regular file.", "Give a file or a folder")
    if path.suffix.lower() not in (*TABLES, *TEXTS):
        raise UserError(
            f"{path.name} is no format that can be read; known extensions: {known_suffixes()}.",
            "For other text files give their folder and --pattern '*.ext'",
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
