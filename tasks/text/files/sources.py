"""Which files of a local path make a corpus, and what can be known of them at submit time. Standard library only.

Tables (json, jsonl, csv, parquet, arrow) give one document per row; every other file is text and one document itself.
No name is a pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object
from tasks.text.files.folder import Folder, why_not
from tasks.text.files.rows import Number, Row, read_csv, read_json, read_json_lines
from tasks.text.files.skipped_counts import SkippedCounts

#: How the rows of a table format are read; None where they are columns of Arrow.
TABLES = {
    ".arrow": None,
    ".csv": read_csv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": None,
}
TEXTS = (".md", ".py", ".rst", ".txt")
DEFAULT_COLUMN = "text"
#: Rows that are looked at to choose a column.
SAMPLE_ROWS = 100
#: Files that are beside data and describe it.
_METADATA = {
    *("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json", "metadata.json", "manifest.json"),
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("croissant.json", "package.json"),
}


def known_suffixes() -> str:
    """The extensions read without a pattern, for a message."""
    return " ".join(sorted((*TABLES, *TEXTS)))


def is_table(path: Path) -> bool:
    """Whether a file has one document per row."""
    return path.suffix.lower() in TABLES


def find_files(
    source: Path, pattern: str | None = None, skip: tuple[str, ...] = (), counts: SkippedCounts | None = None
) -> Iterator[Path]:
    """The files of a corpus in a stable order; a file is itself. What is no regular file is counted in `counts`.

    `pattern` is a glob on file names; without one, the files with a known extension. Folders named in `skip` and hidden
    ones are left out.
    """
    if source.is_dir():
        return Folder(source, lambda name: _wanted(name, pattern), skip, counts or SkippedCounts()).files()
    return iter([source])


def _wanted(name: str, pattern: str | None) -> bool:
    if pattern is not None:
        return fnmatchcase(name, pattern)
    return Path(name).suffix.lower() in (*TABLES, *TEXTS) and name.lower() not in _METADATA


def choose_files(files: list[Path], pattern: str | None = None) -> list[Path]:
    """The files that are read: without a pattern, texts beside tables (a README, a licence) are no part of a corpus."""
    tables = [path for path in files if is_table(path)]
    return tables if tables and pattern is None else files


def saved_files(source: Path, split: str | None) -> list[Path] | None:
    """The Arrow files of a folder that `save_to_disk` of `datasets` wrote, of one split; None for any other folder.

    Raises UserError for a split that is not there, and for a description that names no files of the folder.
    """
    if (source / "dataset_dict.json").is_file():
        splits = _read(source / "dataset_dict.json").get("splits")
        wanted = split or "train"
        if not isinstance(splits, list) or wanted not in splits or Path(str(wanted)).name != wanted:
            there = ", ".join(map(str, splits)) if isinstance(splits, list) else "none"
            raise UserError(f"{source} has no split {wanted!r}; its splits are: {there}.", "Name one with --split")
        source = source / wanted
    if not (source / "state.json").is_file() or not (source / "dataset_info.json").is_file():
        return None
    named = _read(source / "state.json").get("_data_files")
    names = [one.get("filename") if isinstance(one, dict) else None for one in named or [None]]
    files = [source / Path(str(name)).name for name in names]
    if missing := [path for path in files if why_not(path, source.resolve()) is not None]:
        raise UserError(f"{source} is a saved dataset without its file {missing[0].name}.", "Copy the folder whole")
    return files


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return read_json_object(path, strict=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def choose_column(wanted: str, is_text: Mapping[str, bool]) -> str:
    """The column to read: the wanted one, or the only text column when the default name is not among them.

    `is_text` says for each column whether it holds text. Raises UserError naming the columns that exist.
    """
    if wanted in is_text:
        return wanted
    texts = [name for name, text in is_text.items() if text]
    if wanted == DEFAULT_COLUMN and len(texts) == 1:
        return texts[0]
    there = ", ".join(is_text) or "none"
    raise UserError(f"There is no column {wanted!r}; the columns are: {there}.", "Name one with --column")


def column_of(rows: list[Row], wanted: str) -> str:
    """The column to read of a table that begins with these rows. Raises UserError as `choose_column` does."""
    values: dict[str, list[Any]] = {}
    for _, row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return choose_column(wanted, {name: any(map(_is_text, found)) for name, found in values.items()})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def check_source(path: Path, column: str, pattern: str | None, skip: tuple[str, ...], split: str | None) -> None:
    """What can be known before the job runs: UserError for a wrong extension, an empty source or a wrong column."""
    if not path.is_dir():
        _check_file(path)
    if path.is_dir() and (saved := saved_files(path, split)) is not None:
        first: Path | None = saved[0]
    else:
        first = next(find_files(path, pattern, skip), None)
    if first is None:
        looked = f"a name like {pattern}" if pattern else f"a known extension ({known_suffixes()})"
        raise UserError(f"No file below {path} has {looked}.", "Name the files with --pattern '*.ext'")
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
