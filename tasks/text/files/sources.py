"""Which files of a local path make a corpus, and what can be known of them at submit time. Standard library only.

Tables (json, jsonl, csv, parquet, arrow) give one document per row; every other file is text and one document itself.
No name is a pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object
from tasks.text.files.folder import Folder, why_not
from tasks.text.files.rows import read_csv, read_json, read_json_lines
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
#: Files that are beside data and describe it.
_METADATA = {
    *("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json", "metadata.json", "manifest.json"),
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("croissant.json", "package.json"),
}
_DESCRIBES = "describes data"
_COMPRESSED = (".gz", ".zst", ".xz", ".bz2", ".zip", ".lz4", ".tar", ".tgz")
#: Files that a message names.
_NAMED = 3
#: Texts that are beside data and describe it.
_DESCRIBING = {"readme", "license", "licence", "changelog", "citation", "contributing", "notice", "authors"}


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
        return _folder(source, pattern, skip, counts or SkippedCounts()).files()
    return iter([source])


def named_files(source: Path, pattern: str | None, skip: tuple[str, ...]) -> Iterator[Path]:
    """All that has the name of a file of a corpus, whatever it is, without what describes data; a file is itself."""
    if not source.is_dir():
        return iter([source])
    named = _folder(source, pattern, skip, SkippedCounts()).named()
    return (path for path in named if not _describes_data(path))


def _folder(source: Path, pattern: str | None, skip: tuple[str, ...], counts: SkippedCounts) -> Folder:
    return Folder(source, lambda name: _unwanted(name, pattern), skip, counts)


def _unwanted(name: str, pattern: str | None) -> str | None:
    """Why a file of that name is no part of a corpus; None for one that is."""
    if pattern is not None:
        return None if fnmatchcase(name, pattern) else f"does not match --pattern {pattern}"
    if name.lower() in _METADATA:
        return _DESCRIBES
    suffix = Path(name).suffix.lower()
    if suffix in _COMPRESSED:
        return "compressed; it is read once it is unpacked"
    return None if suffix in (*TABLES, *TEXTS) else "no known extension"


def choose_files(files: list[Path], pattern: str | None, counts: SkippedCounts) -> list[Path]:
    """The files that are read: without a pattern, texts beside tables are no part of a corpus, and are counted."""
    tables = [path for path in files if is_table(path)]
    if not tables or pattern is not None:
        return files
    for path in sorted((path for path in files if not is_table(path)), key=_describes_data):
        beside = f"a text beside tables; --pattern '*{path.suffix}' reads such files instead"
        counts.skip(path.name, _DESCRIBES if _describes_data(path) else beside)
    return tables


def refuse_description(files: list[Path], source: Path, skip: tuple[str, ...]) -> None:
    """UserError where all files that can be read describe data, such as a README, and others are that data."""
    if not all(map(_describes_data, files)):
        return
    folder = Folder(source, lambda name: None if _may_be_data(name) else _DESCRIBES, skip, SkippedCounts())
    unread = [str(path.relative_to(source)) for path in folder.named() if path.is_file()]
    if files and unread:
        more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
        raise UserError(
            f"Of {source} only {files[0].name} can be read, which describes data, and not: "
            f"{', '.join(unread[:_NAMED])}{more}.",
            "Unpack compressed files, or name the files with --pattern",
        )


def _may_be_data(name: str) -> bool:
    return _unwanted(name, None) not in (None, _DESCRIBES) and not _describes_data(Path(name))


def _describes_data(path: Path) -> bool:
    """Whether that is a text such as a README."""
    return path.stem.lower() in _DESCRIBING and not is_table(path)


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
