"""Splits of a folder of files: train, test and validation, by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import UserError
from tasks.text.files.skipped_counts import SkippedCounts
from tasks.text.files.sources import is_table

#: What files of a split are called, as by the `datasets` library.
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}


def split_of(path: Path) -> str | None:
    """The split that a file's name says it belongs to, or the nearest of its folders'; None where none does."""
    for name in (path.stem, *reversed(path.parts[:-1])):
        words = re.split(r"[^a-z]+", name.lower())
        for split, known in _WORDS.items():
            if set(words) & set(known):
                return split
    return None


def choose_split(files: Sequence[Path], source: Path, split: str | None, counts: SkippedCounts) -> list[Path]:
    """The files of a split; with None those of train, where tables say by their names that there are several splits.

    Raises UserError where a split is named and no file is of it.
    """
    splits = {path: split_of(path.relative_to(source)) for path in files} if source.is_dir() else {}
    if split is None:
        named = {splits.get(path) for path in files if is_table(path)} - {None}
        if len(named) < 2 or "train" not in named:
            return list(files)
    wanted = split or "train"
    standard = next((name for name, words in _WORDS.items() if wanted in words), wanted)
    chosen = [path for path in files if splits.get(path) == standard]
    if not chosen:
        raise UserError(f"No file of {source} is named as one of the split {wanted!r}.", "Leave --split out")
    for path in files:
        if path not in set(chosen):
            counts.skip(path.name, f"of another split than {standard}")
    return chosen
