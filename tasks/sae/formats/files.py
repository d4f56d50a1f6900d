"""Reads the files of an SAE's folder: regular files inside it only, of a bounded size, and sound JSON objects."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import read_json_object

#: Most bytes of a JSON file that are read, and how deep its values may be nested.
_LARGEST = 4 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(folder: Path, name: str) -> Path | None:
    """The file of that name in `folder`, None when there is none; nothing is opened.

    Raises UserError for a name that is no regular file, or a link that leads out of the folder.
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
        raise UserError(
            f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file: it is not read."
        )
    return path


def copy_regular(folder: Path, name: str, target: Path) -> None:
    """Copy the file of that name, which is there. Raises UserError as `regular` does, also where it was replaced by a
    link since it was looked at.
    """
    path = regular(folder, name)
    if path is None:
        raise UserError(f"{folder / name} is gone.", "Put the file there again")
    try:
        handle = os.open(_target(path, folder), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    with os.fdopen(handle, "rb") as file, target.open("wb") as copy:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"{path} is no regular file any more: it is not read.")
        shutil.copyfileobj(file, copy)


def _target(path: Path, folder: Path) -> Path:
    """Where a link leads.

    UserError unless that is there and inside the folder, or the file store of the Hub's cache.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise UserError(f"{path} is a link that leads nowhere.", "Put the file itself there") from error
    root = folder.resolve()
    # The Hub's cache keeps files in `blobs`, beside the `snapshots` whose links lead there.
    blobs = [above.parent / "blobs" for above in (root, *root.parents) if above.name == "snapshots"]
    if not any(target.is_relative_to(allowed) for allowed in (root, *blobs)):
        raise UserError(
            f"{path} is a link that leads out of the folder: it is not followed.", "Put the file itself there"
        )
    return target


def refuse_irregular(folder: Path, names: Iterable[str]) -> None:
    """UserError where one of those names in `folder` is anything else than a regular file inside it."""
    for name in sorted(names):
        regular(folder, name)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError for what is none, is too large, or could not be written again."""
    try:
        return read_json_object(path, largest=_LARGEST)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """What is reported of a file that the system does not let us read."""
    return UserError(f"{path} cannot be read: {error.strerror or error}.")
