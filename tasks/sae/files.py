"""Reads the files of an SAE's folder: regular files inside it only, of a bounded size, and sound JSON objects."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.problem import Problem
from tasks.tensors import shown, unique

#: Most bytes of a JSON file that are read, and how deep its values may be nested.
_LARGEST, _DEEPEST = 4 << 20, 24
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(folder: Path, name: str) -> Path | None:
    """The file of that name in `folder`, None when there is none; nothing is opened.

    Raises Problem for a name that is no regular file, or a link that leads out of the folder.
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            mode = _target(path, folder).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise Problem(
            f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file: it is not read."
        )
    return path


def _target(path: Path, folder: Path) -> Path:
    """Where a link leads. Problem unless that is there and inside the folder, or the file store of the Hub's cache."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise Problem(f"{path} is a link that leads nowhere.", "Put the file itself there") from error
    root = folder.resolve()
    # The Hub's cache keeps files in `blobs`, beside the `snapshots` whose links lead there.
    blobs = [above.parent / "blobs" for above in (root, *root.parents) if above.name == "snapshots"]
    if not any(target.is_relative_to(allowed) for allowed in (root, *blobs)):
        raise Problem(
            f"{path} is a link that leads out of the folder: it is not followed.", "Put the file itself there"
        )
    return target


def refuse_irregular(folder: Path, names: Iterable[str]) -> None:
    """Problem where one of those names in `folder` is anything else than a regular file inside it."""
    for name in sorted(names):
        regular(folder, name)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises Problem for what is none, is too large, or could not be written again."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > _LARGEST:
        raise Problem(f"{path} has more than {_LARGEST >> 20} MiB: that is no description of an SAE.")
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=unique)
    except RecursionError as error:
        raise Problem(f"{path} is nested too deeply.") from error
    except ValueError as error:
        raise Problem(f"{path} is no JSON: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(found, dict):
        raise Problem(f"{path} holds no JSON object.")
    if (fault := _fault(found, 0)) is not None:
        raise Problem(f"{path} {fault}.")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _fault(value: Any, depth: int) -> str | None:
    """What would keep a value from being written as JSON and UTF-8 again; None when nothing would."""
    if depth > _DEEPEST:
        return "is nested too deeply"
    if isinstance(value, dict):
        return _first_fault((*value, *value.values()), depth + 1)
    if isinstance(value, list):
        return _first_fault(value, depth + 1)
    if isinstance(value, float) and not math.isfinite(value):
        return "holds a number that is too large"
    if isinstance(value, str) and any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        return f"holds a text that is no Unicode: {shown(value)}"
    return None


def _first_fault(values: Iterable[Any], depth: int) -> str | None:
    return next((fault for value in values if (fault := _fault(value, depth)) is not None), None)


def unreadable(path: Path, error: OSError) -> Problem:
    """What is reported of a file that the system does not let us read."""
    return Problem(f"{path} cannot be read: {error.strerror or error}.")
