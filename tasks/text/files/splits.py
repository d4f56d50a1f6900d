"""Splits of a folder of files: train, test and validation, by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
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

#: A shard of a split as the `datasets` library names it, with the digest that it once had: train_sft-00000-of-00003.
_SHARD = re.compile(r"(.+?)[-_.]\d{5}-of-\d{5}(?:-[0-9a-f]{16})?$")
#: Splits that a message names.
_NAMED = 10


def split_of(path: Path) -> str | None:
    """The split that a file's name says it belongs to, or the nearest of its folders'; None where none does."""
    for name in (path.stem, *reversed(path.parts[:-1])):
        words = re.split(r"[^a-z]+", name.lower())
        for split, known in _WORDS.items():
            if set(words) & set(known):
                return split
    return None


def names_of(split: str | None) -> frozenset[str]:
    """What a folder of that split may be called; nothing for None."""
    found = next((words for words in _WORDS.values() if split in words), (split,))
    return frozenset(name for name in found if name)


def skipped_folders(skip: str, split: str | None) -> tuple[str, ...]:
    """The names, with commas in `skip`, of folders that are not entered: never those of the split that is wanted."""
    named = (name.strip() for name in skip.split(","))
    return tuple(name for name in named if name and name not in names_of(split))


def choose_split(
    files: Sequence[Path], source: Path, split: str | None, counts: SkippedCounts, merge: bool = False
) -> list[Path]:
    """The files of a split; with None those of train, where tables say by their names that there are several splits.

    A split is what files are called without the numbers of their shards, or else the word of that name or of a folder's
    that is known, as train of my_train.csv. Raises UserError where a split is named and no file is of it, and unless
    `merge` where the word means several splits in shards, as train does of train_sft and train_gen.
    """
    if not files or not source.is_dir():
        return list(files)
    names = {path: path.relative_to(source) for path in files}
    chosen = [path for path in files if _is_called(names[path], split)]
    if not chosen:
        chosen = _by_words(names, split)
        merged = _splits_in_shards(names[path] for path in chosen if split_of(names[path]))
        if len(merged) > 1 and not merge:
            raise _several(source, names.values(), merged[0])
    if not chosen:
        raise _none(source, names.values(), split)
    for path in sorted(set(files) - set(chosen)):
        counts.skip(path.name, f"of another split than {split or 'train'}")
    return chosen


def _several(source: Path, names: Iterable[Path], first: str) -> UserError:
    return UserError(
        f"{source} has several splits: {', '.join(_splits_in_shards(names))}.",
        f"Name one, as with --split {first}, or choose files with --pattern",
    )


def _none(source: Path, names: Collection[Path], split: str | None) -> UserError:
    there = _splits_in_shards(names) or sorted({name.stem for name in names if split_of(name)})
    hint = f"Its splits are: {', '.join(there[:_NAMED])}" if there else "Leave --split out"
    return UserError(f"No file of {source} is named as one of the split {split!r}.", hint)


def _by_words(names: Mapping[Path, Path], split: str | None) -> list[Path]:
    """The files of the split that a word means; with None those of train, or all where there are not several."""
    found = {split_of(name) for path, name in names.items() if is_table(path)} - {None}
    if split is None and (len(found) < 2 or "train" not in found):
        return list(names)
    word = split or "train"
    wanted = next((standard for standard, words in _WORDS.items() if word in words), word)
    return [path for path, name in names.items() if split_of(name) == wanted]


def _is_called(name: Path, split: str | None) -> bool:
    """Whether a file is called exactly as the split; or one of its folders is, and its own name says no other split."""
    shard = _SHARD.match(name.stem)
    is_folders = split_of(Path(name.name)) is None and split in name.parts[:-1]
    return split == (shard[1] if shard else name.stem) or is_folders


def _splits_in_shards(names: Iterable[Path]) -> list[str]:
    """The splits that have files called as their shards, in order."""
    shards = (_SHARD.match(name.stem) for name in names)
    return list(dict.fromkeys(shard[1] for shard in shards if shard))
