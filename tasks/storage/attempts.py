"""The folders of a job's attempts: each attempt writes into one of its own, whatever the network does.

`.tmp/JOB/ATTEMPT-TOKEN` holds all that an attempt writes: checkpoints, lines of metrics, logs, its output. An attempt
begins by adopting what the newest of the earlier ones has left, under second names (hard links), and never opens a path
of another after that. So one that has lost its lease, and does not know it yet, can harm nobody: its folder is gone.

What is adopted is never changed in place but replaced by a rename. Files that grow, and locks, are copied.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from tasks.storage.store import GONE, Store, remove

#: What an attempt makes for its artifact; the mark of a folder that was begun in full; where one that is being begun
#: has put the earlier ones.
OUTPUT, _MARK, _EARLIER = "output", ".attempt", ".earlier"

_NAME = re.compile(r"(\d+)-[0-9a-z]{1,8}")
_DRAFT = ".part"

_COPIED = (".jsonl", ".incomplete", ".lock")


class Superseded(Exception):
    """A later attempt at the job has begun: this one has lost its lease."""


def folder_of(store: Store, job_id: str, number: int, token: str) -> Path:
    """Where that attempt writes, or would."""
    return store.work_folder(job_id) / f"{number}-{token[:8]}"


def begin(store: Store, job_id: str, number: int, token: str) -> Path:
    """The folder of that attempt, with what earlier ones left and an empty `output`; theirs are gone.

    Raises Superseded when a later one has begun, and OSError when the store cannot be used.
    """
    own = folder_of(store, job_id, number, token)
    if _is_attempt(own):
        return own
    draft = own.with_name(own.name + _DRAFT)
    earlier = draft / _EARLIER
    own.parent.mkdir(parents=True, exist_ok=True)
    while others := [entry for entry in own.parent.iterdir() if entry != draft]:
        if any(_number(entry) > number for entry in others):
            raise Superseded(job_id)
        earlier.mkdir(parents=True, exist_ok=True)
        for entry in others:
            with suppress(FileNotFoundError):  # another one that begins just now has taken it, and is taken next
                entry.rename(earlier / entry.name)
    earlier.mkdir(parents=True, exist_ok=True)
    source = _newest(earlier)
    if source is not None:
        _adopt(source, draft)
    (draft / OUTPUT).mkdir(exist_ok=True)
    (draft / _MARK).touch()
    draft.rename(own)
    remove(own / _EARLIER)
    return own


def newest(work_folder: Path) -> Path | None:
    """Of a job's folder in the store, the one whose content its next attempt would adopt; None when there is none.

    Raises OSError when that cannot be read now.
    """
    try:
        return None if work_folder.is_symlink() else _newest(work_folder)
    except FileNotFoundError:  # handed over or removed meanwhile
        return None


def hand_over(store: Store, job_id: str, to: str) -> bool:
    """Have another job's first attempt adopt what a job that has ended has left; False if that is gone.

    Also if the other has begun already. Of several that ask at once one gets it, whole.
    """
    folder = store.work_folder(to)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):  # an empty one is of an attempt that died here
        return False
    try:
        store.work_folder(job_id).rename(folder / _EARLIER)
    except FileNotFoundError:
        with suppress(OSError):
            folder.rmdir()
        return False
    return True


def keep_newest(store: Store, job_id: str) -> None:
    """Of the folder of a job that has ended keep what another could adopt: no output, and nothing half-written."""
    folder = store.work_folder(job_id)
    kept = newest(folder)
    if kept is None:
        return
    halves = [
        *kept.glob(OUTPUT),
        *kept.glob("output-*"),
        *kept.glob(f"*{_DRAFT}"),
        *kept.glob(f"{GONE}*"),
        *kept.glob(_EARLIER),
    ]
    others = [] if kept == folder else [entry for entry in folder.iterdir() if not kept.is_relative_to(entry)]
    for path in (*halves, *others):
        remove(path)


def _newest(folder: Path) -> Path | None:
    """The attempt that came last of those in the folder; of one that was not begun in full, what it was to adopt.

    An older version writes into the job's own folder. What is there is the newest: each attempt takes it.
    """
    if not folder.is_dir():
        return None
    entries = sorted(folder.iterdir(), key=_number, reverse=True)
    if any(not entry.name.startswith(".") and not _number(entry) for entry in entries):
        return folder
    if attempts := [entry for entry in entries if _is_attempt(entry)]:
        return max(attempts, key=lambda entry: (_number(entry), (entry / _MARK).stat().st_mtime))
    drafts = [entry / _EARLIER for entry in entries if entry.suffix == _DRAFT and _number(entry) > 0]
    for nested in (*drafts, folder / _EARLIER):
        if found := _newest(nested):
            return found
    return None


def _number(entry: Path) -> int:
    """Which attempt has that folder, begun in full or not; 0 for what is no attempt's."""
    found = _NAME.fullmatch(entry.name.removesuffix(_DRAFT))
    return int(found[1]) if found else 0


def _is_attempt(entry: Path) -> bool:
    return _number(entry) > 0 and (entry / _MARK).is_file()


def _adopt(source: Path, into: Path) -> None:
    """Give what an attempt left in `source` a second name in `into`."""
    for entry in source.iterdir():
        is_folder_of_work = _number(entry) > 0 or entry.name == OUTPUT or entry.name.startswith("output-")
        if not is_folder_of_work and not entry.name.startswith("."):
            _link(entry, into / entry.name)


def _link(path: Path, target: Path) -> None:
    """Give a file, or all files of a folder, a second name; not what is half-written or removed meanwhile."""
    if path.suffix == _DRAFT or path.name.startswith(GONE):
        return
    try:
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
            for entry in path.iterdir():
                _link(entry, target / entry.name)
        else:
            _put(path, target)
    except FileNotFoundError:
        return


def _put(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    if path.suffix not in _COPIED:
        try:
            target.hardlink_to(path)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without second names
            pass
        else:
            return
    shutil.copy2(path, target, follow_symlinks=False)
