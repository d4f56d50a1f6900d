"""Which files of a local path make a corpus, and what can be known of them at submit time. Standard library only.

Tables (json, jsonl, csv, parquet) give one document per row; every other file is text and is one document itself.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tasks.problem import Problem

#: The `datasets` builder of each table format.
TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
TEXTS = (".md", ".py", ".rst", ".txt")
DEFAULT_COLUMN = "text"
_FIRST_LINE_MAX = 1 << 20


def known_suffixes() -> str:
    """The extensions read without a pattern, for a message."""
    return " ".join(sorted((*TABLES, *TEXTS)))


def find_files(source: Path, pattern: str | None = None, skip: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files of a corpus in a stable order; a file is itself.

    `pattern` is a glob on file names; without one, the files with a known extension. Folders named in `skip` and hidden
    ones are left out; links to folders are not followed.
    """
    if source.is_file():
        yield source
        return
    for folder, below, names in os.walk(source):
        below[:] = sorted(name for name in below if name not in skip and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and _wanted(name, pattern):
                yield Path(folder, name)


def _wanted(name: str, pattern: str | None) -> bool:
    if pattern is not None:
        return fnmatch(name, pattern)
    return Path(name).suffix.lower() in (*TABLES, *TEXTS)


def split_formats(files: list[Path], pattern: str | None = None) -> tuple[dict[str, list[Path]], list[Path]]:
    """Tables by their `datasets` builder, and text files.

    Without a pattern, text files beside tables (a README, a licence) are no part of the corpus.
    """
    tables: dict[str, list[Path]] = {}
    texts: list[Path] = []
    for path in files:
        builder = TABLES.get(path.suffix.lower())
        (tables.setdefault(builder, []) if builder else texts).append(path)
    return tables, ([] if tables and pattern is None else texts)


def choose_column(wanted: str, is_text: Mapping[str, bool]) -> str:
    """The column to read: the wanted one, or the only text column when the default name is not among them.

    `is_text` tells for each column whether it holds text. Raises Problem naming the columns that exist.
    """
    if wanted in is_text:
        return wanted
    texts = [name for name, text in is_text.items() if text]
    if wanted == DEFAULT_COLUMN and len(texts) == 1:
        return texts[0]
    there = ", ".join(is_text) or "none"
    raise Problem(f"There is no column {wanted!r}; the columns are: {there}.", "Name one with --column")


def check_source(path: Path, column: str, pattern: str | None, skip: tuple[str, ...]) -> None:
    """What can be known before the job runs: Problem for a wrong extension, an empty source or a wrong column."""
    if path.is_file():
        if path.suffix.lower() not in (*TABLES, *TEXTS):
            raise Problem(
                f"{path.name} is no format that can be read; known extensions: {known_suffixes()}.",
                "For other text files give their folder and --pattern '*.ext'",
            )
        if path.stat().st_size == 0:
            raise Problem(f"{path} is empty.")
    first = next(find_files(path, pattern, skip), None)
    if first is None:
        looked = f"a name like {pattern}" if pattern else f"a known extension ({known_suffixes()})"
        raise Problem(f"No file below {path} has {looked}.", "Name the files with --pattern '*.ext'")
    _check_first_line(first, column)


def _check_first_line(path: Path, column: str) -> None:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".ndjson"):
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(_FIRST_LINE_MAX)
            if not line.endswith("\n") and len(line) == _FIRST_LINE_MAX:
                return
            if suffix == ".csv":
                _check_header(next(csv.reader([line]), []), column)
            elif line.strip():
                _check_row(path, line, column)
    except UnicodeDecodeError:
        raise Problem(f"{path} is not UTF-8 text.") from None


def _check_header(header: list[str], column: str) -> None:
    """Of a csv only the names are known yet, not which columns hold text."""
    if header and (column != DEFAULT_COLUMN or len(header) == 1):
        choose_column(column, dict.fromkeys(header, True))


def _check_row(path: Path, line: str, column: str) -> None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise Problem(f"The first line of {path} is not JSON: {error}.") from None
    if isinstance(row, dict):
        choose_column(column, {name: isinstance(value, str) for name, value in row.items()})
